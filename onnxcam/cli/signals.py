"""Being told to end: Ctrl-C, and what supervisors send."""

from __future__ import annotations

__all__ = ["Stop", "stop_signals", "terminated_as_interrupted"]

import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from threading import Event
from typing import Any

_TERMINATING = [number for name in ("SIGTERM", "SIGHUP") if (number := getattr(signal, name, None)) is not None]
"""What a supervisor sends, and a terminal that is closed."""


class Stop(Event):
    """Set when the program is told to end; ``number`` is the signal that told it."""

    number: int | None = None

    @property
    def status(self) -> int:
        """The exit status of a command that it ended before its work was done, as a shell gives it."""
        return 128 + (self.number or signal.SIGINT)


@contextmanager
def stop_signals() -> Iterator[Stop]:
    """SIGINT, SIGTERM and SIGHUP as an event, so that all is closed in order; a second one ends the program at once."""
    stop = Stop()

    def told(number: int, _: object) -> None:
        stop.number = number
        stop.set()
        restore()

    with _handled([signal.SIGINT, *_TERMINATING], told) as restore:
        yield stop


@contextmanager
def terminated_as_interrupted() -> Iterator[Stop]:
    """SIGTERM and SIGHUP as a `KeyboardInterrupt`, for what keeps what was done when Ctrl-C comes."""
    stop = Stop()

    def told(number: int, _: object) -> None:
        stop.number = number
        raise KeyboardInterrupt

    with _handled(_TERMINATING, told):
        yield stop


@contextmanager
def _handled(numbers: Iterable[int], told: Callable[[int, Any], None]) -> Iterator[Callable[[], None]]:
    """Call ``told`` with those signals that are not ignored, as ``nohup`` has SIGHUP; gives what ends it early."""
    before = {number: signal.getsignal(number) for number in numbers}
    handled = {number: handler for number, handler in before.items() if handler != signal.SIG_IGN}

    def restore() -> None:
        for number, handler in handled.items():
            signal.signal(number, handler)

    for number in handled:
        signal.signal(number, told)
    try:
        yield restore
    finally:
        restore()
