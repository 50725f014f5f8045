"""What each key does in the window."""

from __future__ import annotations

__all__ = ["HELP", "Keys"]

import time
from collections.abc import Callable
from pathlib import Path

from onnxcam.errors import OnnxCamError
from onnxcam.runtime.live.controls import Controls
from onnxcam.runtime.live.frames import LiveFrame
from onnxcam.runtime.pictures import write_picture
from onnxcam.runtime.style import COLORMAPS, LAYOUTS

HELP = (
    ("q, Esc", "quit"),
    ("space", "pause, go on"),
    ("n", "explain the next likely class"),
    ("l", "lock the class explained now"),
    ("f", "free: the likeliest class"),
    ("m", "next method"),
    ("[ ]", "less, more opacity"),
    ("c", "next colour map"),
    ("v", "next layout"),
    ("t", "caption on, off"),
    ("i", "rate and age on, off"),
    ("s", "snapshot"),
    ("r", "record, stop"),
    ("?", "these keys"),
)

_STEP = 0.1  # of opacity
_RANKS = 5  # after the fifth likeliest class comes the first again


class Keys:
    """Does what a key stands for, and says in a few words what it did.

    record: starts or ends the recording, and says so. quit, help: whether they are asked for.
    """

    def __init__(self, controls: Controls, *, record: Callable[[], str], folder: Path | None = None) -> None:
        self.quit = self.help = False
        self._controls, self._record, self._folder = controls, record, folder or Path()
        self._actions: dict[str, Callable[[LiveFrame], str]] = {
            " ": self._pause,
            "n": self._next_rank,
            "l": self._lock,
            "f": self._free,
            "m": self._next_method,
            "[": lambda _: self._opacity(-_STEP),
            "]": lambda _: self._opacity(_STEP),
            "c": self._next_colormap,
            "v": self._next_layout,
            "t": self._caption,
            "i": self._figures,
            "s": self._snapshot,
            "r": lambda _: self._record(),
        }

    def press(self, key: str, frame: LiveFrame | None) -> str:
        """Do what ``key`` stands for, ``frame`` being shown, and say what was done; nothing for any other key."""
        if key in ("q", "\x1b"):
            self.quit = True
        elif key == "?":
            self.help = not self.help
        elif key in self._actions and frame is not None:
            try:
                return self._actions[key](frame)
            except OnnxCamError as error:
                return str(error)
        return ""

    def _pause(self, _: LiveFrame) -> str:
        return "paused" if self._controls.change(paused=not self._controls.settings.paused).paused else "live"

    def _next_rank(self, _: LiveFrame) -> str:
        if self._controls.classes is None:
            return "this model has no classes"
        rank = self._controls.settings.class_choice
        last = -min(_RANKS, self._controls.classes)
        rank = rank - 1 if isinstance(rank, int) and last < rank < 0 else -1
        self._controls.change(class_choice=rank)
        return f"likeliest class number {-rank}"

    def _lock(self, frame: LiveFrame) -> str:
        if frame.explanation.class_index is None:
            return "this model has no classes"
        self._controls.change(class_choice=frame.explanation.class_index)
        return f"locked: {frame.explanation.name}"

    def _free(self, _: LiveFrame) -> str:
        self._controls.change(class_choice=-1)
        return "the likeliest class"

    def _next_method(self, _: LiveFrame) -> str:
        methods = list(self._controls.methods)
        now = methods.index(self._controls.settings.method)
        return f"method: {self._controls.change(method=methods[(now + 1) % len(methods)]).method}"

    def _opacity(self, step: float) -> str:
        alpha = round(min(max(self._controls.settings.alpha + step, 0.0), 1.0), 2)
        return f"opacity {self._controls.change(alpha=alpha).alpha:.0%}"

    def _next_colormap(self, _: LiveFrame) -> str:
        now = COLORMAPS.index(self._controls.settings.colormap)
        return f"colour map: {self._controls.change(colormap=COLORMAPS[(now + 1) % len(COLORMAPS)]).colormap}"

    def _next_layout(self, _: LiveFrame) -> str:
        now = LAYOUTS.index(self._controls.settings.layout)
        return f"layout: {self._controls.change(layout=LAYOUTS[(now + 1) % len(LAYOUTS)]).layout}"

    def _caption(self, _: LiveFrame) -> str:
        return "caption" if self._controls.change(caption=not self._controls.settings.caption).caption else "no caption"

    def _figures(self, _: LiveFrame) -> str:
        return "rate and age" if self._controls.change(figures=not self._controls.settings.figures).figures else ""

    def _snapshot(self, frame: LiveFrame) -> str:
        path = self._folder / f"onnxcam_{time.strftime('%Y%m%d_%H%M%S')}_{frame.number}.png"
        write_picture(path, frame.drawn)
        return f"saved {path.name}"
