"""The live picture in a window, and what its keys do."""

from __future__ import annotations

__all__ = ["Screen"]

import time
from threading import Lock
from types import TracebackType

from onnxcam.runtime.live.controls import Controls
from onnxcam.runtime.live.frames import LiveFrame
from onnxcam.runtime.live.keys import Keys
from onnxcam.runtime.live.recording import Tape
from onnxcam.runtime.live.statistics import Ages
from onnxcam.runtime.live.window import Window, with_help
from onnxcam.runtime.preprocess import Picture
from onnxcam.runtime.render import caption
from onnxcam.runtime.streams import is_address, masked

_WAIT = 5  # milliseconds for a key, between two looks for a frame
_SAID = 2.0  # seconds for which what a key did stands on the picture


class Screen:
    """Shows the newest of the frames that are published, in a `Window`; a context manager, of the main thread.

    What a key did stands on the picture for two seconds; that it is recorded, or paused, as long as it is.

    ages: counts how old frames were when they were shown. Raises `OutputError` where there is no screen.
    """

    def __init__(self, source: str, controls: Controls, tape: Tape, ages: Ages) -> None:
        self._window = Window(f"onnxcam: {masked(source) if is_address(source) else source}")
        self._keys = Keys(controls, record=tape.switch)
        self._controls, self._tape = controls, tape
        self._said: tuple[str, float] = ("", 0.0)
        self._state: tuple[bool, list[str]] = (False, [])
        self._ages = ages
        self._lock = Lock()
        self._next: LiveFrame | None = None
        self._shown: LiveFrame | None = None

    def __enter__(self) -> Screen:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._window.close()

    def publish(self, frame: LiveFrame) -> None:
        """Take ``frame`` to be shown; from any thread."""
        with self._lock:
            self._next = frame

    def _drawn(self, frame: LiveFrame) -> Picture:
        helps, notes = self._state
        drawn = with_help(frame.drawn) if helps else frame.drawn
        return caption(drawn, notes, corner="bottom") if notes else drawn

    def _notes(self) -> list[str]:
        """What stands at the bottom of the picture now."""
        said, until = self._said
        notes = [said] if time.monotonic() < until else []
        if self._tape.recording:
            notes.append("REC")
        if self._controls.settings.paused and "paused" not in notes:
            notes.append("paused")
        return notes

    def refresh(self) -> bool:
        """Show what came, and do what was pressed; whether it is to go on."""
        with self._lock:
            frame, self._next = self._next, None
        before, self._state = self._state, (self._keys.help, self._notes())
        if frame is not None:
            self._shown = frame
        if self._shown is not None and (frame is not None or self._state != before):
            self._window.show(self._drawn(self._shown))
        if frame is not None:
            self._ages.add(time.monotonic() - frame.taken)
        said = self._keys.press(self._window.key(_WAIT), self._shown)
        if said:
            self._said = (said, time.monotonic() + _SAID)
        return not (self._keys.quit or self._window.closed)
