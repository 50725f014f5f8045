"""Frames explained, one after another, and drawn."""

from __future__ import annotations

__all__ = ["DrawnFrame", "ExplainedFrame", "Explainer", "Look", "draw"]

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
class ExplainedFrame:
    """A frame, the explanation that is drawn on it, and how.

    explanation: its `Explanation.picture` is that of ``frame``. peak: the map's value that is drawn hottest.
    """

    frame: Frame
    explanation: Explanation
    peak: float
    style: Mapping[str, Any]


@dataclass(frozen=True, slots=True, eq=False)
class DrawnFrame:
    """A frame as it is shown, and the explanation drawn on it, whose `Explanation.picture` is the frame as it came."""

    frame: Frame
    explanation: Explanation


class Explainer:
    """Explains one frame after another, calmly.

    look: what is wanted of the next frame; it may change from one to the next.
    """

    def __init__(self, model: CamModel, look: Callable[[], Look], calm: Calm) -> None:
        self._model = model
        self._look = look
        self._calm = calm
        self._calmer: Calmer | None = None
        self._asked: list[Any] = []
        self._latest: tuple[Explanation, float] | None = None

    def explain(self, frame: Frame, prepared: Prepared | None) -> ExplainedFrame:
        """``frame`` with its own explanation, or the one before where it was not prepared; the first one must be."""
        look = self._look()
        if prepared is not None:
            self._latest = self._explained(prepared, frame.time, look.choice)
        assert self._latest is not None
        explanation, peak = self._latest
        return ExplainedFrame(frame, replace(explanation, picture=frame.picture), peak, look.style)

    def _explained(self, prepared: Prepared, time: float, choice: Mapping[str, Any]) -> tuple[Explanation, float]:
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


def draw(explained: ExplainedFrame) -> DrawnFrame:
    """The frame under its heat, as `render` draws it."""
    picture = render(explained.explanation, peak=explained.peak, **explained.style)
    return DrawnFrame(replace(explained.frame, picture=picture), explained.explanation)
