"""What a model answered about one picture, and where in the picture it found the answer."""

from __future__ import annotations

__all__ = ["Explanation"]

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxcam.contract import Explain
from onnxcam.errors import ClassError
from onnxcam.runtime import render
from onnxcam.runtime.geometry import Placement, bands, project
from onnxcam.runtime.labels import class_named
from onnxcam.runtime.pictures import encoded, write_picture
from onnxcam.runtime.preprocess import Picture
from onnxcam.runtime.style import DEFAULT_ALPHA, DEFAULT_COLORMAP


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Explanation:
    """One picture explained.

    class_index, label: the class that was explained, None where it is none; ``label`` is None where the model carries
        no labels.
    score: its probability, 0-1; of no class, the number that was explained.
    scores: the probabilities of all classes, float32 [K]; of no class, none.
    cam: float32 [h, w], raw, as the graph gave it.
    activations, gradients: the feature map and the score's gradient at it, without the batch axis; None where the
        artifact leaves them out. Those of the artifact's first layer for a map of the picture.
    picture: uint8 BGR [H, W, 3], what went in.
    placement: which part of the picture the model saw.
    method, layer: by which of the artifact's methods, and at which of its layers, ``cam`` was made; the name of the
        model's input for a map of the picture.
    cams: the map of each of its methods at that layer, by the method's name.
    output: the model's own output that is explained, without the batch axis.
    region: of a segmentation, how much each pixel of ``output`` counts, float32 [H, W]: 1 where the class is predicted,
        or the region that was asked for. ``score`` and ``scores`` are means over it.
    boxes: of a detector, those that were explained: left, top, right and bottom in pixels of the picture, float32
        [n, 4]. Of several that lie on each other by half or more, the likeliest. ``score`` and ``scores`` are the
        greatest at all of them, 0 where there is none.
    box_scores: the probability of the class at each of ``boxes``, float32 [n].
    others: where the artifact explains several classes of each picture, the explanations of those after the first;
        `classes` has all, and `of` finds one.
    explain: what the map tells the reasons of: the ``class``, its ``counterfactual``, or its ``contrast`` with the
        class ``against``.

    A map of one's own, made of ``activations`` and ``gradients``, is drawn and saved as any other after
    ``dataclasses.replace(explanation, cam=mine)``.
    """

    class_index: int | None
    label: str | None
    score: float
    scores: NDArray[np.float32]
    cam: NDArray[np.float32]
    activations: NDArray[Any] | None
    gradients: NDArray[Any] | None
    picture: Picture
    placement: Placement
    labels: tuple[str, ...] | None = None
    method: str | None = None
    layer: str | None = None
    cams: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    explain: Explain = "class"
    against: int | None = None
    output: NDArray[Any] | None = None
    region: NDArray[np.float32] | None = None
    boxes: NDArray[np.float32] | None = None
    box_scores: NDArray[np.float32] | None = None
    others: tuple[Explanation, ...] = ()

    @property
    def classes(self) -> tuple[Explanation, ...]:
        """One explanation for each class of the picture that was explained: this one first."""
        return (self, *self.others)

    def of(self, choice: int | str) -> Explanation:
        """The explanation of the class with that index or label. Raises `ClassError` if it was not explained."""
        index = class_named(choice, self.labels) if isinstance(choice, str) else choice
        for each in self.classes:
            if each.class_index == index:
                return each
        known = ", ".join(each.name for each in self.classes)
        raise ClassError(f"'{choice}' was not explained in this picture, only {known}: choose it with class_index")

    @property
    def peak(self) -> float:
        """The scale of `heatmap`: the greatest value of the map, 0 if nothing speaks for the class.

        Of a map as fine as the model's input, the value that one pixel in 100 exceeds: a few of them stand far above
        the others (Smilkov et al., SmoothGrad, arXiv 1706.03825, 2017, "capping outlying values").
        """
        evidence = _evidence(self.cam)
        fine = evidence.shape == (self.placement.input_height, self.placement.input_width)
        exceeded = float(np.percentile(evidence, 99, method="higher")) if fine else 0.0
        return exceeded or float(evidence.max())

    @property
    def heatmap(self) -> NDArray[np.float32]:
        """float32 [H, W] in 0-1, aligned with the picture: the map's positive part over its `peak`, 1 above.

        Values below 0 speak against the class and show no heat; NaN counts as 0. A flat map says nothing about where,
        and is 0 all over, as is the part of the picture that the model did not see.
        """
        return self.scaled_heatmap()

    def scaled_heatmap(self, peak: float | None = None) -> NDArray[np.float32]:
        """`heatmap` with ``peak`` as the map's value that is 1, for one scale over many frames; above it stays 1."""
        scaled = self._scaled(peak)
        if scaled is None:
            return np.zeros(self.picture.shape[:2], np.float32)
        heat = project(scaled, self.placement)
        return np.minimum(heat, 1, out=heat)  # interpolation rounds

    def heat_bands(self, peak: float | None = None) -> Iterator[tuple[tuple[slice, slice], NDArray[np.float32]]]:
        """`scaled_heatmap` in bands of a few rows: where in the picture, and the heat there, which rounding may lift
        above 1 by its last digit; elsewhere it is 0."""
        scaled = self._scaled(peak)
        if scaled is not None:
            yield from bands(scaled, self.placement)

    def _scaled(self, peak: float | None) -> NDArray[np.float32] | None:
        """What speaks for the class, over ``peak``, at most 1: [h, w]. None if it says nothing about where."""
        evidence = _evidence(self.cam)
        highest = float(evidence.max())
        scale = self.peak if peak is None else peak
        if scale <= 0 or highest - evidence.min() <= 1e-6 * highest:
            return None
        return np.minimum(evidence / np.float32(scale), 1)  # type: ignore[no-any-return]

    @property
    def caption(self) -> str:
        """Probability and class in one short line, ``43%  tabby``: cut short, it keeps the number. Of a label's
        synonyms, the first. A counterfactual says ``against tabby``, a contrast ``tabby, not lynx``.
        Of no class, the number alone."""
        if self.class_index is None:
            return f"{'against ' if self.explain == 'counterfactual' else ''}{self.score:.4g}"
        return f"{_percent(self.score)}  {self._what}"

    @property
    def box_captions(self) -> list[str]:
        """The same at each of ``boxes``; empty where there are none."""
        return [f"{_percent(score)}  {self._what}" for score in ([] if self.box_scores is None else self.box_scores)]

    @property
    def _what(self) -> str:
        name = self.name
        if self.explain == "counterfactual":
            return f"against {name}"
        return name if self.against is None else f"{name}, not {self._name(self.against)}"

    @property
    def name(self) -> str:
        """What was explained in a word or two: the label's first synonym, ``class 3``, or ``score``."""
        return "score" if self.class_index is None else self._name(self.class_index)

    def _name(self, index: int) -> str:
        label = self.label if index == self.class_index else self.labels[index] if self.labels else None
        return f"class {index}" if label is None else label.split(",")[0]

    def top(self, k: int = 5) -> list[tuple[int, str | None, float]]:
        """The ``k`` likeliest classes as (index, label, probability), best first."""
        order = np.argsort(-self.scores, kind="stable")[:k]
        return [(int(i), self.labels[i] if self.labels else None, float(self.scores[i])) for i in order]

    def overlay(self, alpha: float = DEFAULT_ALPHA, colormap: str = DEFAULT_COLORMAP) -> Picture:
        """The picture under its heat: uint8 BGR [H, W, 3]. See `onnxcam.runtime.render.overlay`."""
        return render.overlay(self.picture, self.heatmap, alpha=alpha, colormap=colormap)

    def save(self, path: str | PathLike[str], **style: Any) -> None:
        """Write the captioned overlay as the kind of picture the suffix of ``path`` names, all or nothing.

        Of several classes, their overlays stand side by side.

        style: the options of `onnxcam.runtime.render.render`: layout, alpha, colormap, caption, peak.
        Raises `OutputError` for an unknown suffix or a place that cannot be written to.
        """
        write_picture(path, render.panels(self, **style))

    def _repr_png_(self) -> bytes:
        return encoded(render.panels(self), ".png")


def _percent(score: float) -> str:
    return f"{score:{'.0%' if score >= 0.1 else '.1%'}}"


def _evidence(cam: NDArray[np.float32]) -> NDArray[np.float32]:
    """What speaks for the class: ``cam`` without NaN, infinities and negative values."""
    return np.nan_to_num(cam, nan=0, posinf=0, neginf=0).clip(min=0)
