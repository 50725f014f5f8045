"""Being told to end: Ctrl-C, and what supervisors send."""

from __future__ import annotations

__all__ = ["TERMINATED", "Stop", "stop_signals", "terminated_as_interrupted"]

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event
from typing import Any

TERMINATED = 128 + signal.SIGTERM
"""The exit status of a command that SIGTERM ended before its work was done."""


class Stop(Event):
    """Set when the program is told to end; ``number`` is the signal that told it."""

    number: int | None = None


@contextmanager
def stop_signals() -> Iterator[Stop]:
    """SIGINT and SIGTERM as an event, so that everything is closed in order; a second one ends the program at once."""
    stop = Stop()
    before: dict[int, Any] = {}

    def told(number: int, _: object) -> None:
        stop.number = number
        stop.set()
        for known, handler in before.items():
            signal.signal(known, handler)

    for number in (signal.SIGINT, signal.SIGTERM):
        before[int(number)] = signal.signal(number, told)
    try:
        yield stop
    finally:
        for known, handler in before.items():
            signal.signal(known, handler)


@contextmanager
def terminated_as_interrupted() -> Iterator[Stop]:
    """SIGTERM as a `KeyboardInterrupt`, for what keeps what was done when Ctrl-C comes."""
    stop = Stop()

    def told(number: int, _: object) -> None:
        stop.number = number
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, told)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGTERM, before)
