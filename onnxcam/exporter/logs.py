"""What libraries log while a model is read and prepared: kept from the user, who is told in one sentence."""

from __future__ import annotations

__all__ = ["without_logs"]

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_logs() -> Iterator[list[str]]:
    """Keep the records of onnxscript and onnx-ir from being shown; gives their texts, or their exceptions'."""
    said: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            error = record.exc_info[1] if record.exc_info else None
            said.append(" ".join(str(error or record.getMessage()).split()))

    keep = Keep()
    loggers = [logging.getLogger(name) for name in ("onnxscript", "onnx_ir")]
    before = [(logger.propagate, list(logger.handlers)) for logger in loggers]
    for logger in loggers:
        logger.propagate, logger.handlers = False, [keep]
    try:
        yield said
    finally:
        for logger, (propagate, handlers) in zip(loggers, before, strict=True):
            logger.propagate, logger.handlers = propagate, handlers
