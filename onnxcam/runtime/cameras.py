"""Frames out of cameras at this machine."""

from __future__ import annotations

__all__ = ["CameraInfo", "CameraSource", "cameras"]

import os
import sys
import time
from collections.abc import Generator
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2

from onnxcam.errors import InputError
from onnxcam.runtime.sources import Frame, VideoInfo

_TICKS = 1000  # time stamps to the millisecond
_PROBED = 5  # numbers tried where the system does not list its cameras
_LINUX = Path("/sys/class/video4linux")


@dataclass(frozen=True, slots=True)
class CameraInfo:
    """A camera: the number by which it is opened, its name, and the device's path where there is one."""

    index: int
    name: str
    path: str | None = None


class CameraSource:
    """The frames of the camera ``device``, a number or a path such as ``/dev/video0``; a context manager.

    size: width and height in pixels; rate: frames per second; pixel_format: four letters such as ``MJPG`` or ``YUYV``.
    None is what the camera gives by itself.

    Raises `InputError` if there is no such camera, it is in use, or it has no such size or format.
    """

    def __init__(
        self,
        device: int | str,
        *,
        size: tuple[int, int] | None = None,
        rate: float | None = None,
        pixel_format: str | None = None,
    ) -> None:
        self.problem: str | None = None
        self._name = f"camera {device}" if isinstance(device, int) else f"'{device}'"
        _quiet()
        self._capture = cv2.VideoCapture(device)
        try:
            if not self._capture.isOpened():
                raise InputError(self._why_not(device))
            self._ask(size, rate, pixel_format)
            read, first = self._capture.read()
            if not read:
                raise InputError(f"{self._name} gives no picture: another program may use it")
        except BaseException:
            self.close()
            raise
        self._first = first
        given = self._capture.get(cv2.CAP_PROP_FPS)
        self.info = VideoInfo(
            width=first.shape[1],
            height=first.shape[0],
            average_rate=Fraction(given if 1 <= given <= 1000 else rate or 30).limit_denominator(1001),
            time_base=Fraction(1, _TICKS),
            frames=None,
            duration=None,
            has_audio=False,
        )

    def __enter__(self) -> CameraSource:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the camera back. May be called twice."""
        self._capture.release()

    def __iter__(self) -> Generator[Frame, None, None]:
        begun = time.monotonic()
        index = 0
        picture: Any = self._first
        while True:
            yield Frame(index, round((time.monotonic() - begun) * _TICKS), 0, self.info.time_base, picture)
            read, picture = self._capture.read()
            if not read:
                self.problem = f"{self._name} gives no more pictures"
                return
            index += 1

    def _ask(self, size: tuple[int, int] | None, rate: float | None, pixel_format: str | None) -> None:
        wanted: list[tuple[int, float, str]] = []
        if pixel_format is not None:
            if len(pixel_format) != 4:
                raise InputError(f"a pixel format has four letters, such as MJPG or YUYV, not '{pixel_format}'")
            wanted.append((cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*pixel_format.upper()), pixel_format))
        if size is not None:
            wanted += [(cv2.CAP_PROP_FRAME_WIDTH, size[0], "x".join(map(str, size)))]
            wanted += [(cv2.CAP_PROP_FRAME_HEIGHT, size[1], "x".join(map(str, size)))]
        if rate is not None:
            wanted.append((cv2.CAP_PROP_FPS, rate, f"{rate:g} frames per second"))
        for setting, value, _ in wanted:
            self._capture.set(setting, value)
        for setting, value, text in wanted:
            if setting != cv2.CAP_PROP_FPS and round(self._capture.get(setting)) != round(value):
                raise InputError(f"{self._name} has no {text}: leave it out to see what it gives by itself")

    def _why_not(self, device: int | str) -> str:
        known = ", ".join(f"{camera.index} ({camera.name})" for camera in cameras())
        if isinstance(device, str) and not os.path.exists(device) and sys.platform.startswith("linux"):
            return f"there is no device {self._name}: " + (f"there are {known}" if known else "no camera is connected")
        if known:
            return f"{self._name} cannot be opened: another program may use it; there are {known}"
        return f"{self._name} cannot be opened: no camera is connected"


def cameras() -> list[CameraInfo]:
    """The cameras that are connected: those Linux lists, or else those of the first numbers that can be opened."""
    if sys.platform.startswith("linux"):
        return _listed(_LINUX)
    _quiet()
    found = []
    for index in range(_PROBED):
        capture = cv2.VideoCapture(index)
        if capture.isOpened():
            found.append(CameraInfo(index, f"camera {index}"))
        capture.release()
    return found


def _listed(folder: Path) -> list[CameraInfo]:
    """Cameras among Linux's video devices: of those of one camera, the first, which gives the pictures."""
    found = []
    for entry in sorted(folder.glob("video*"), key=lambda each: int(each.name.removeprefix("video") or 0)):
        with suppress(OSError, ValueError):
            if int((entry / "index").read_text()) == 0:
                index = int(entry.name.removeprefix("video"))
                found.append(CameraInfo(index, (entry / "name").read_text().strip(), f"/dev/{entry.name}"))
    return found


def _quiet() -> None:
    """OpenCV prints every camera that it cannot open."""
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
