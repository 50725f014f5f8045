"""Frames explained and drawn, one after another: what a video, a folder of pictures and a camera have in common."""

from __future__ import annotations

__all__ = ["Artist", "DrawnFrame", "Look"]

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from onnxcam.runtime.calm import Calm, Calmer
from onnxcam.runtime.explanation import Explanation
from onnxcam.runtime.preprocess import Prepared
from onnxcam.runtime.render import render
from onnxcam.runtime.session import CamModel
from onnxcam.runtime.sources import Frame


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What is explained, as `CamModel.run` takes it, and how it is drawn, as `render` takes it."""

    choice: Mapping[str, Any] = field(default_factory=dict)
    style: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class DrawnFrame:
    """A frame as it is shown, and the explanation drawn on it, whose `Explanation.picture` is the frame as it came."""

    frame: Frame
    explanation: Explanation


class Artist:
    """Explains frames, calmly, and draws the latest explanation on each.

    look: what is wanted of the next frame; it may change from one to the next.
    peak: the value of the latest map that is drawn hottest.
    """

    def __init__(self, model: CamModel, look: Callable[[], Look], calm: Calm) -> None:
        self._model = model
        self._look = look
        self._calm = calm
        self._calmer: Calmer | None = None
        self._asked: list[Any] = []
        self._latest: Explanation | None = None
        self.peak = 0.0

    def draw(self, frame: Frame, prepared: Prepared | None) -> DrawnFrame:
        """``frame`` with its own explanation, or the one before where it was not prepared; the first one must be."""
        look = self._look()
        if prepared is not None:
            self._latest, self.peak = self._explain(prepared, frame.time, look.choice)
        assert self._latest is not None
        shown = replace(self._latest, picture=frame.picture)
        return DrawnFrame(replace(frame, picture=render(shown, peak=self.peak, **look.style)), shown)

    def _explain(self, prepared: Prepared, time: float, choice: Mapping[str, Any]) -> tuple[Explanation, float]:
        asked = [choice.get(name) for name in ("class_index", "against", "method", "layer")]
        if self._calmer is None or asked != self._asked:
            self._calmer, self._asked = Calmer(self._calm, holding=self._may_hold(choice)), asked

        def run(held: int | None) -> Explanation:
            chosen = choice if held is None else {**choice, "class_index": held}
            (explanation,) = self._model.run([prepared], **chosen, feature_maps=False)
            return explanation

        return self._calmer.explain(prepared.picture, time, run)

    def _may_hold(self, choice: Mapping[str, Any]) -> bool:
        """Whether the class is the model's likeliest, of one that is explained for itself."""
        info = self._model.info
        return choice.get("class_index") in (None, -1) and (info.score.kind, info.score.explained, info.explain) == (
            "class",
            1,
            "class",
        )
