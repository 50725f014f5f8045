"""Maps over time that do not flicker: one class, one scale, and heat that moves as the object does."""

from __future__ import annotations

__all__ = ["DEFAULT_CALM", "Calm", "Calmer", "CutDetector", "HeatScale"]

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from onnxcam.errors import OnnxCamError
from onnxcam.runtime.explanation import Explanation
from onnxcam.runtime.motion import Motion
from onnxcam.runtime.preprocess import Picture
from onnxcam.runtime.style import DEFAULT_CUT, DEFAULT_HOLD, DEFAULT_SCALE, DEFAULT_SMOOTHING

Floats = NDArray[np.float32]

_THUMBNAIL = (32, 18)  # width and height: small enough that ordinary motion moves little of it
_SAMPLES = 4  # pixels along a side of each of its own: reading all of a large picture would take a millisecond
_CLEARLY = 2.0  # times as likely: another class is explained then, however unlikely both are
_ALIKE = 0.5  # correlation: of 253 pairs of unlike pictures 252 are below, all that differ in light alone above 0.85
_FLAT = 1e-6  # spread of thumbnails that rounding alone makes


@dataclass(frozen=True, slots=True, kw_only=True)
class Calm:
    """How maps are kept calm over time. Each part is turned off by 0.

    smoothing: seconds, the time constant of an exponential mean of the raw maps: after so long a new map counts for
        63 %, whatever the frame rate. The maps so far go along with what moves (`Motion`), so that the heat does not
        fall behind (``benchmarks/calm.py``).
    scale: seconds in which the value that is drawn hottest fades by half, where the maps grow weaker; with 0 each frame
        has a scale of its own.
    hold: the margin of probability, 0-1, by which another class must be likelier before it is explained instead. One
        that is twice as likely always is: where nothing is likely, no margin would ever be reached.
    cut: the change of a picture, 0-1 of its range of grey, from which it is a new scene if it is of another structure
        too, and all of this begins anew. See `CutDetector`.

    Raises `OnnxCamError` for a number below 0, or a share above 1.
    """

    smoothing: float = DEFAULT_SMOOTHING
    scale: float = DEFAULT_SCALE
    hold: float = DEFAULT_HOLD
    cut: float = DEFAULT_CUT

    def __post_init__(self) -> None:
        for name, most in (("smoothing", math.inf), ("scale", math.inf), ("hold", 1.0), ("cut", 1.0)):
            if not 0 <= getattr(self, name) <= most:
                limits = "0 or more seconds" if most > 1 else "a number from 0 to 1"
                raise OnnxCamError(f"{name} is {getattr(self, name)}: it takes {limits}")


DEFAULT_CALM = Calm()


class Calmer:
    """Keeps the explanations of one video or camera calm, frame by frame.

    holding: whether the class to explain is left to the model, so that it may be held.
    """

    def __init__(self, calm: Calm, *, holding: bool) -> None:
        self._calm = calm
        self._holding = holding and calm.hold > 0
        self._cuts = CutDetector(calm.cut)
        self._scale = HeatScale(calm.scale)
        self._motion = Motion()
        self._maps: dict[tuple[int | None, str], Floats] = {}
        self._held: int | None = None
        self._time = 0.0

    def explain(
        self, picture: Picture, time: float, run: Callable[[int | None], Explanation]
    ) -> tuple[Explanation, float]:
        """The explanation of the frame ``picture`` shown at ``time`` (seconds), its maps calmed, and their peak.

        run: explains the frame for a class, or for the one that was asked for where None. It is called a second time
            where another class has become clearly likelier.
        """
        if self._cuts.cut(picture):
            self.reset()
        explanation = run(self._held)
        if self._held is not None and self._lets_go(explanation):
            explanation = run(None)
        if self._holding:
            self._held = explanation.class_index
        explanation = self._smoothed(explanation, time)
        return explanation, self._scale.update(explanation.peak, explanation.class_index, time)

    def reset(self) -> None:
        """Forget the frames so far."""
        self._scale = HeatScale(self._calm.scale)
        self._motion = Motion()
        self._maps, self._held = {}, None

    def _lets_go(self, explanation: Explanation) -> bool:
        likeliest, held = float(explanation.scores.max()), float(explanation.scores[self._held])
        return likeliest - held > self._calm.hold or likeliest > _CLEARLY * held

    def _smoothed(self, explanation: Explanation, time: float) -> Explanation:
        tau = self._calm.smoothing
        if not tau:
            return explanation
        weight = -math.expm1(-max(time - self._time, 0.0) / tau)
        self._time = time
        self._motion.follow(explanation.picture, explanation.placement)
        maps: dict[tuple[int | None, str], Floats] = {}

        def one(each: Explanation) -> Explanation:
            names = dict(each.cams) | {each.method or "": each.cam}
            for name, cam in names.items():
                before: Any = self._maps.get((each.class_index, name))
                known = before is not None and before.shape == cam.shape
                maps[each.class_index, name] = _between(self._motion.carried(before), cam, weight) if known else cam
            cams = {name: maps[each.class_index, name] for name in each.cams}
            return replace(each, cam=maps[each.class_index, each.method or ""], cams=cams)

        smoothed = replace(one(explanation), others=tuple(one(each) for each in explanation.others))
        self._maps = maps  # a class that is not explained now begins anew when it comes back
        return smoothed


def _between(before: Floats, cam: Floats, weight: float) -> Floats:
    """The mean of two maps [h, w], in which ``cam`` counts for ``weight``, 0-1.

    Where either is not finite it is ``cam`` as it came: in a mean, a single NaN would stay for ever.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        mean = np.float32(1 - weight) * before + np.float32(weight) * cam
    return np.where(np.isfinite(mean), mean, cam)


class CutDetector:
    """Tells a new scene from motion and from a change of light, by grey thumbnails of a frame and the one before.

    In a new scene they differ by ``threshold`` at least (mean absolute difference, 0-1, as in PySceneDetect's content
    detector, whose threshold is 27 of 255) and do not correlate: light that comes and goes leaves the structure as it
    was. Nothing is learnt from earlier frames, so that a new picture in every frame is a new scene in every frame.
    """

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._before: Floats | None = None

    def cut(self, picture: Picture) -> bool:
        """Whether ``picture`` (uint8 BGR) begins a new scene after the one given before. The first one does not."""
        if not self._threshold:
            return False
        step = max(min(picture.shape[0] // _THUMBNAIL[1], picture.shape[1] // _THUMBNAIL[0]) // _SAMPLES, 1)
        small = cv2.resize(picture[::step, ::step], _THUMBNAIL, interpolation=cv2.INTER_AREA)
        grey: Floats = cv2.cvtColor(small, cv2.COLOR_BGR2GRAY).astype(np.float32) / np.float32(255)
        before, self._before = self._before, grey
        if before is None:
            return False
        return bool(np.abs(grey - before).mean() > self._threshold and _correlation(grey, before) < _ALIKE)


def _correlation(a: Floats, b: Floats) -> float:
    """Pearson's, -1 to 1; 0 where one of them is flat."""
    a, b = a - a.mean(), b - b.mean()
    spread = math.sqrt(float((a * a).sum()) * float((b * b).sum()))
    return float((a * b).sum()) / spread if spread > _FLAT else 0.0


@dataclass(slots=True)
class HeatScale:
    """The peak that is drawn hottest: each class's own, held, and fading by half in ``half_life`` seconds of video.

    Scaled by its own maximum each frame would flicker, as it does with 0; held for ever, one strong frame would leave
    the rest cold. Maps of different classes share no unit, so each class keeps a scale of its own.
    """

    half_life: float = DEFAULT_SCALE
    _held: dict[int | None, tuple[float, float]] = field(default_factory=dict)

    def update(self, peak: float, class_index: int | None, time: float) -> float:
        """The scale at ``time`` (seconds), at least ``peak``."""
        if not self.half_life:
            return peak
        held, since = self._held.get(class_index, (peak, time))
        scale = max(peak, held * math.pow(2, -max(time - since, 0.0) / self.half_life))
        self._held[class_index] = scale, time
        return scale
