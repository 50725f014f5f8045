"""The newest frame of a camera, however slow whoever takes it is; and the camera opened again when it is lost."""

from __future__ import annotations

__all__ = ["Grabber", "Tell"]

import gc
import time
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from threading import Condition, Event, Thread
from typing import TypeAlias

from onnxcam.errors import InputError
from onnxcam.runtime.closing import Closing
from onnxcam.runtime.sources import Frame, Source

Tell: TypeAlias = Callable[..., None]
"""Called with an event's name and what there is to say of it, for a log."""

_TICKS = 1000  # time stamps to the millisecond
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0  # seconds before a source is opened again, doubled each time
_OPENING = 3  # times as long as a frame may take, a source may take to be opened
_MOST_LEFT = 4  # threads that hang in a device are left behind, and no more
_LONGEST_FRAME = 60.0  # seconds that a frame of a file is shown, whatever its time stamps say


class Grabber(Closing):
    """Reads a source in a thread of its own and keeps its newest frame; a context manager.

    Frames are timed from the start of the grabbing.

    opener: opens the source, now and whenever it was lost.
    paced: its frames come at their own times, as those of a file do that plays the camera.
    every: none may be missed: the next is read when the last was taken. Otherwise an older one makes way.
    again: what happens at the end: the source is opened again, at once if it is ``paced`` (a loop), and after a pause
        that doubles from 0.5 to 30 s if it was lost.
    stall_after: seconds without a frame (three times as many while it is opened) after which the source counts as lost,
        even if reading never returns.
    tell: is told ``running``, ``lost`` (with the reason and the pause) and ``ended``.

    seen, dropped: how many frames came, and how many of them nobody took.
    trouble: a sentence while the source is lost, or None.
    error: what broke it off, where it is not opened again; None if it came to its end.

    Raises `InputError` if the source cannot be opened the first time.
    """

    def __init__(
        self,
        opener: Callable[[], Source],
        *,
        paced: bool = False,
        every: bool = False,
        again: bool = True,
        stall_after: float = 10.0,
        tell: Tell = lambda event, **facts: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.seen = self.dropped = 0
        self.trouble: str | None = None
        self.error: Exception | None = None
        self.ended = False
        self._opener, self._paced, self._every, self._again = opener, paced, every, again
        self._stall_after, self._tell, self._clock = stall_after, tell, clock
        self._changed = Condition()
        self._closed = Event()
        self._newest: Frame | None = None
        self._reader = 0  # the number of the thread that counts: one that hangs is left behind
        self._left: list[Thread] = []
        self._since: float | None = None  # when waiting for the source began, None while it waits for us
        self._opening = False
        self._pause = _FIRST_PAUSE
        self._started = clock()
        self.info = (source := opener()).info
        self._begun = clock()
        self._thread = self._start(source)

    def close(self) -> None:
        """End the reading. A thread that hangs in a device is left to itself. May be called twice."""
        if self._closed.is_set():
            return
        self._closed.set()
        with self._changed:
            self._changed.notify_all()
        self._thread.join(timeout=2.0)

    def raise_error(self) -> None:
        """Raise what broke the source off, if anything did."""
        if self.error is not None:
            raise self.error

    def next(self, timeout: float) -> Frame | None:
        """The newest frame that was not taken yet, waiting for it so many seconds; None if there is none."""
        with self._changed:
            self._changed.wait_for(lambda: self._newest or self.ended or self._closed.is_set(), timeout)
            frame, self._newest = self._newest, None
            self._changed.notify_all()
        if frame is None:
            self._watch()
        return frame

    def _watch(self) -> None:
        """Leave a thread behind that gives nothing, and start another."""
        since, patience = self._since, self._stall_after * (_OPENING if self._opening else 1)
        over = self.ended or self._closed.is_set() or not self._again
        if over or since is None or self._clock() - since <= patience:
            return
        self._left = [thread for thread in self._left if thread.is_alive()]
        full = len(self._left) >= _MOST_LEFT
        if not (full and self.trouble):
            self._lose(f"no picture came for {patience:g} s")
        if not full:
            self._reader += 1
            self._since = None
            self._left.append(self._thread)
            self._thread = self._start(None)

    def _start(self, source: Source | None) -> Thread:
        thread = Thread(target=self._read, args=(self._reader, source), name="onnxcam-source", daemon=True)
        thread.start()
        return thread

    def _read(self, reader: int, source: Source | None) -> None:
        while not self._over(reader):
            count, reason = self.seen, "it could not be opened"
            failure: Exception | None = None
            try:
                source = source or self._reopened(reader)
                if source is None:
                    return
                with source:
                    self._play(source, reader)
                reason = source.problem or ""
            except InputError as error:
                reason, failure = str(error), error
            except Exception as error:  # noqa: BLE001 a device may fail in ways of its own, and comes back
                reason, failure = f"{type(error).__name__}: {error}", error
            source = None
            gc.collect()  # PyAV's containers and streams hold each other, and with them the threads of their decoders
            if self._over(reader):
                return
            if not self._again:
                self._end(reason, failure)
                return
            if self._paced and self.seen > count:
                self._begun = self._clock()
            else:
                self._lose(reason or "no more frames came")

    def _reopened(self, reader: int) -> Source | None:
        """The source opened again, after a pause if it was lost; None if it is too late for that."""
        self._since = None
        if self.trouble and self._closed.wait(self._paused()):
            return None
        self._opening, self._since = True, self._clock()
        return self._opener()

    def _play(self, source: Source, reader: int) -> None:
        """Give every frame of ``source``; of a file the last stays as long as the others."""
        frame: Frame | None = None
        if not self._over(reader):
            self._opening, self._since = False, self._clock()
        for frame in source:
            if self._over(reader):
                return
            self._since = None
            self._give(frame, reader)
            if self._over(reader):
                return
            self._since = self._clock()
        if self._paced and frame is not None:
            self._since = None
            self._wait_until(frame.time + (float(frame.duration * frame.time_base) or 1 / source.info.average_rate))

    def _wait_until(self, seconds: float) -> None:
        """Wait for that time of the file."""
        self._closed.wait(min(max(self._begun + seconds - self._clock(), 0.0), _LONGEST_FRAME))

    def _over(self, reader: int) -> bool:
        return self._closed.is_set() or reader != self._reader

    def _paused(self) -> float:
        pause, self._pause = self._pause, min(2 * self._pause, _LONGEST_PAUSE)
        return pause

    def _give(self, frame: Frame, reader: int) -> None:
        if self._paced:
            self._wait_until(frame.time)
        now = self._clock()
        pts = round((now - self._started) * _TICKS)
        with self._changed:
            if self._every:
                self._changed.wait_for(lambda: self._newest is None or self._over(reader))
            if self._over(reader):
                return
            came_back, self.trouble, self._pause = self.trouble is not None, None, _FIRST_PAUSE
            self.dropped += self._newest is not None
            self._newest = replace(
                frame, index=self.seen, pts=pts, duration=0, time_base=Fraction(1, _TICKS), taken=now
            )
            self.seen += 1
            self._changed.notify_all()
        if came_back:
            self._tell("running")

    def _lose(self, reason: str) -> None:
        self.trouble = reason
        self._tell("lost", reason=reason, pause=self._pause)

    def _end(self, reason: str, failure: Exception | None) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._newest is None or self._closed.is_set())
            self.error, self.ended = failure, True
            self._changed.notify_all()
        self._tell("ended", **({"reason": reason} if reason else {}))
