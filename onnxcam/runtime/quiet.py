"""OpenCV's own messages, kept off stderr: our exceptions say the same once."""

from __future__ import annotations

__all__ = ["opencv_quiet", "quieten_opencv"]

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import cv2

_LOG: Any = getattr(cv2.utils, "logging", cv2)  # in OpenCV 5, and in 4
_SILENT = 0


def quieten_opencv() -> None:
    """For good."""
    _LOG.setLogLevel(_SILENT)


@contextmanager
def opencv_quiet() -> Iterator[None]:
    """For as long as the ``with`` block lasts. (What libpng prints by itself stays: only the process's file descriptor
    could be turned away, and that belongs to the caller.)"""
    level = _LOG.getLogLevel()
    _LOG.setLogLevel(_SILENT)
    try:
        yield
    finally:
        _LOG.setLogLevel(level)
