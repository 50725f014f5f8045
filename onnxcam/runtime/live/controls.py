"""What is shown, as keys and page set it while it runs."""

from __future__ import annotations

__all__ = ["Controls", "Settings"]

from collections.abc import Sequence
from dataclasses import dataclass, replace
from threading import Lock
from typing import Any

from onnxcam.errors import MethodError, OnnxCamError, unknown_name
from onnxcam.runtime.choices import ClassChoice
from onnxcam.runtime.session import CamModel
from onnxcam.runtime.style import COLORMAPS, DEFAULT_ALPHA, DEFAULT_COLORMAP, DEFAULT_LAYOUT, LAYOUTS, Layout


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """One state of everything that can be set.

    class_choice: an index, a rank where negative (-1 the likeliest), or a label.
    method: by name. alpha: 0-1. caption: whether class and probability are written on the picture; figures: whether
    frames per second and the frame's age are. paused: whether the picture stands still.
    """

    class_choice: ClassChoice = -1
    method: str
    layout: Layout = DEFAULT_LAYOUT
    alpha: float = DEFAULT_ALPHA
    colormap: str = DEFAULT_COLORMAP
    caption: bool = True
    figures: bool = False
    paused: bool = False


class Controls:
    """The `Settings` in force, read by one thread and changed by others.

    methods, labels, classes: what may be chosen. The methods are those of the artifact, whose maps all come in one
    pass.
    """

    def __init__(self, model: CamModel, settings: Settings) -> None:
        self._model = model
        self._lock = Lock()
        self._settings = settings
        self.methods: Sequence[str] = model.methods
        self.labels: Sequence[str] | None = model.labels
        self.classes: int | None = model.classes
        self._check(settings)

    @property
    def settings(self) -> Settings:
        """Those in force now."""
        with self._lock:
            return self._settings

    def change(self, **changes: Any) -> Settings:
        """The settings with ``changes``, in force from the next frame on.

        Raises `ClassError`, `MethodError` or `OnnxCamError`, and changes nothing, where there is no such class, method,
        layout or colour map, or ``alpha`` is not from 0 to 1.
        """
        with self._lock:
            changed = replace(self._settings, **changes)
            self._check(changed)
            self._settings = changed
            return changed

    def _check(self, settings: Settings) -> None:
        if settings.method not in self.methods:
            raise MethodError(unknown_name("method", settings.method, self.methods))
        if settings.layout not in LAYOUTS:
            raise OnnxCamError(unknown_name("layout", settings.layout, LAYOUTS))
        if settings.colormap not in COLORMAPS:
            raise OnnxCamError(unknown_name("colour map", settings.colormap, COLORMAPS))
        if not 0 <= settings.alpha <= 1:
            raise OnnxCamError(f"alpha is {settings.alpha}: it takes a number from 0 to 1")
        if settings.class_choice != -1:
            self._model.check(class_index=[settings.class_choice] * self._model.explained)
