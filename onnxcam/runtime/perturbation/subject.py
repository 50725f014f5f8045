"""One picture whose class is settled, and the model to run changed copies of it on."""

from __future__ import annotations

__all__ = ["Subject", "as_places"]

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxcam.contract import LayerInfo, ScoreInfo
from onnxcam.errors import InputError, LayerError
from onnxcam.runtime.probabilities import probabilities

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Subject:
    """One picture, what is explained in it, and the model.

    picture: the model's input, float32 [C, H, W] whatever layout and type the model has.
    run: the named outputs for a batch of pictures [B, C, H, W], the gradients being those of the given class.
    score: the class output, and ``stepped_over`` the squashing operator that its values went through, if any.
    weights: what is explained, as the weight of each class by index: {c: 1}, {c: -1} or {c: 1, d: -1}; of what is no
        class, {None: 1} or {None: -1}, and ``number_output`` is the output that has it.
    layer: at which activations and gradients are taken, and the outputs' names; None where none are needed.
    batch: the most pictures to run at once. told: takes the share of the work that is done, 0-1.
    what: the method, for messages.
    """

    picture: Floats
    run: Callable[[Floats, Sequence[str], int | None], Mapping[str, NDArray[Any]]]
    score: ScoreInfo
    number_output: str
    stepped_over: str | None
    weights: Mapping[int | None, float]
    layer: LayerInfo | None
    activations_output: str
    gradients_output: str
    batch: int
    told: Callable[[float], None]
    what: str

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the model's input."""
        return self.picture.shape[1], self.picture.shape[2]

    def parts(self, count: int) -> Iterator[slice]:
        """``range(count)`` in slices that run at once; the share that is done is told after each."""
        for start in range(0, count, self.batch):
            stop = min(start + self.batch, count)
            yield slice(start, stop)
            self.told(stop / count)

    def scores(self, pictures: Floats) -> NDArray[np.float64]:
        """The explained score of each picture [B] before softmax; the number itself where it is no class.

        Where the model gives probabilities, their logarithm stands for it after a softmax, which is the score less one
        number for each picture, and the logit, which is the score itself, after a sigmoid.
        """
        if None in self.weights:
            return self._number(pictures)
        values = self._class_values(pictures).astype(np.float64)
        if self.stepped_over in ("Softmax", "Sigmoid"):
            tiny = float(np.finfo(np.float32).tiny)
            logs = np.log(values.clip(tiny))
            values = logs - np.log((1 - values).clip(tiny)) if self.stepped_over == "Sigmoid" else logs
        return self._explained(values)

    def confidences(self, pictures: Floats) -> NDArray[np.float64]:
        """The same of the classes' probabilities."""
        if None in self.weights:
            return self._number(pictures)
        return self._explained(probabilities(self._class_values(pictures), self.score.activation).astype(np.float64))

    def activations(self) -> Floats:
        """The feature map of the picture itself, [C, h, w]."""
        assert self.layer is not None
        values = self.run(self.picture[None], [self.activations_output], next(iter(self.weights)))
        found: Floats = as_places(self._finite(values[self.activations_output], "feature map"), self.layer)[0]
        return found

    def gradients(self, pictures: Floats) -> Floats:
        """The gradient of the explained score at the layer for each picture, [B, C, h, w]."""
        assert self.layer is not None
        found = []
        for index, weight in self.weights.items():
            values = self.run(pictures, [self.gradients_output], index)[self.gradients_output]
            found.append(np.float32(weight) * as_places(self._finite(values, "gradient"), self.layer))
        return np.asarray(sum(found), np.float32)

    def _number(self, pictures: Floats) -> NDArray[np.float64]:
        values = self.run(pictures, [self.number_output], None)[self.number_output].reshape(len(pictures), -1)[:, 0]
        return np.asarray(self.weights[None] * self._finite(values, "score"), np.float64)

    def _class_values(self, pictures: Floats) -> NDArray[Any]:
        values = self.run(pictures, [self.score.output], next(iter(self.weights)))[self.score.output]
        return values.reshape(len(pictures), -1)

    def _explained(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        total = sum(weight * values[:, index] for index, weight in self.weights.items() if index is not None)
        return np.asarray(self._finite(np.asarray(total), "score"), np.float64)

    def _finite(self, values: NDArray[Any], name: str) -> NDArray[Any]:
        if not np.isfinite(values).all():
            raise InputError(
                f"the {name} of a changed picture is NaN or infinite, so '{self.what}' has no map of it: look for such "
                "values in the weights, or run a half-precision model in float32"
            )
        return values


def as_places(values: NDArray[Any], layer: LayerInfo) -> Floats:
    """What an artifact gives at ``layer`` as float32 [N, C, h, w]. Raises `LayerError` where the places are unknown."""
    if layer.layout == "NHWC":
        values = values.transpose(0, 3, 1, 2)
    elif layer.layout == "tokens":
        if layer.grid is None:
            raise LayerError(f"layer '{layer.name}' does not say how its tokens lie in the picture: choose another")
        values = values[:, layer.extra_tokens :].transpose(0, 2, 1)
        values = values.reshape(*values.shape[:2], *layer.grid)
    return np.ascontiguousarray(values, np.float32)
