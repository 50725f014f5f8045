"""What a user asks an artifact to explain that is no class, as arrays for its inputs."""

from __future__ import annotations

__all__ = ["Questions", "reference_input", "rows_of", "weights_input"]

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxcam.contract import (
    BOX_INDEX,
    BOX_THRESHOLD,
    SCORE_INPUTS,
    SCORE_REFERENCE,
    SCORE_REGION,
    SCORE_WEIGHTS,
    ArtifactInfo,
)
from onnxcam.errors import InputError
from onnxcam.runtime.engine import Engine
from onnxcam.runtime.preprocess import Prepared
from onnxcam.runtime.regions import Box, Point, box_region, mask_region, point_region


class Questions:
    """What may be asked of the artifact in ``engine`` beyond a class.

    batch: how many images it takes at a time; None is any number.
    """

    def __init__(self, engine: Engine, info: ArtifactInfo, *, batch: int | None) -> None:
        self._engine, self._info, self._score, self._path = engine, info, info.score, engine.path
        self._batch = batch

    def asked(
        self,
        prepared: Sequence[Prepared],
        *,
        score_weights: NDArray[Any] | None,
        box: Box | None,
        point: Point | None,
        mask: NDArray[Any] | None,
        box_index: int | Sequence[int] | None,
        box_threshold: float | None,
        reference: NDArray[Any] | None,
    ) -> dict[str, NDArray[Any]]:
        """The inputs of ``prepared`` images; see `CamModel.explain`. Raises `InputError` where they do not fit."""
        return {
            **self._weights(len(prepared), score_weights),
            **self._reference(len(prepared), reference),
            **self._boxes(len(prepared), box_index, box_threshold, prepared[0] if prepared else None),
            **self._region(prepared, box=box, point=point, mask=mask),
        }

    def asked_of_any(
        self, *, box_index: int | None, box_threshold: float | None, reference: NDArray[Any] | None
    ) -> dict[str, NDArray[Any]]:
        """The inputs of one image, whatever it shows. Raises `InputError` as `asked` does."""
        return {
            **self._weights(1, None),
            **self._reference(1, reference),
            **self._boxes(1, box_index, box_threshold),
        }

    def _weights(self, count: int, score_weights: NDArray[Any] | None) -> dict[str, NDArray[Any]]:
        if (score_weights is not None) == (SCORE_WEIGHTS not in self._engine.inputs):
            raise InputError(
                f"'{self._path}' explains a weighting of its output '{self._score.output}': give score_weights"
                if score_weights is None
                else f"'{self._path}' takes no score_weights: make it with --score weights"
            )
        if score_weights is None:
            return {}
        return {SCORE_WEIGHTS: weights_input(score_weights, self._engine.inputs[SCORE_WEIGHTS], count)}

    def _reference(self, count: int, reference: NDArray[Any] | None) -> dict[str, NDArray[Any]]:
        if (reference is not None) == (SCORE_REFERENCE not in self._engine.inputs):
            raise InputError(
                f"'{self._path}' explains how similar its output '{self._score.output}' is to a reference: give one"
                if reference is None
                else f"'{self._path}' takes no reference: make it with --score similarity"
            )
        if reference is None:
            return {}
        return {SCORE_REFERENCE: reference_input(reference, self._length, count)}

    @property
    def _length(self) -> int:
        length = self._engine.inputs[SCORE_REFERENCE][1]
        assert isinstance(length, int)
        return length

    def any_reference(self) -> NDArray[np.float32]:
        """One that may stand where only the embedding is asked for. Raises `InputError` where there are none."""
        if SCORE_REFERENCE not in self._engine.inputs:
            raise InputError(f"'{self._path}' explains no similarity: make it with --score similarity")
        return np.ones((1, self._length), np.float32)

    def _boxes(
        self,
        count: int,
        box_index: int | Sequence[int] | None,
        box_threshold: float | None,
        first: Prepared | None = None,
    ) -> dict[str, NDArray[Any]]:
        boxes = self._score.boxes
        if box_index is not None and (boxes is None or boxes.every):
            raise InputError(f"'{self._path}' does not explain one box of a detector: leave box_index out")
        if box_threshold is not None and (boxes is None or not boxes.every):
            raise InputError(f"'{self._path}' does not explain all boxes of a class: leave box_threshold out")
        found: dict[str, NDArray[Any]] = {}
        if box_index is not None:
            found[BOX_INDEX] = np.atleast_1d(np.asarray(box_index, np.int64))
            if found[BOX_INDEX].ndim != 1 or len(found[BOX_INDEX]) not in (1, count):
                raise InputError(f"there are {count} images and box_index is {box_index}: give one, or one each")
            self._refuse_boxes(found[BOX_INDEX], first)
        if box_threshold is not None:
            if not 0 <= box_threshold <= 1:
                raise InputError(f"box_threshold is {box_threshold}: it is a probability, 0 to 1")
            found[BOX_THRESHOLD] = np.full(1, box_threshold, np.float32)
        return found

    def _refuse_boxes(self, indices: NDArray[np.int64], first: Prepared | None) -> None:
        """Raise `InputError` where the detector gives no such box, as far as the file or the ``first`` image tells."""
        assert self._score.boxes is not None
        count = self._output_shape(first)[3 - self._score.boxes.axis]
        if not isinstance(count, int):
            return
        wrong = [int(i) for i in indices if not -count <= i < count]
        if wrong:
            raise InputError(
                f"there is no box {wrong[0]}: the detector gives {count}, 0 to {count - 1}, and ranks -1 to {-count}"
            )

    def _region(self, prepared: Sequence[Prepared], **asked: Any) -> dict[str, NDArray[Any]]:
        given = {name: each for name, each in asked.items() if each is not None}
        if not given or not prepared:
            return {}
        if self._score.kind != "segmentation":
            raise InputError(f"'{self._path}' takes no {next(iter(given))}: make it with --score segmentation")
        if len(given) > 1:
            raise InputError(f"{' and '.join(given)} were given at once: give one of them")
        ((kind, what),) = given.items()
        makers: dict[str, Callable[..., NDArray[np.float32]]]
        makers = {"box": box_region, "point": point_region, "mask": mask_region}
        height, width = (int(size or 0) for size in self._output_shape(prepared[0])[-2:])
        return {SCORE_REGION: np.stack([makers[kind](what, each.placement, height, width) for each in prepared])}

    def _output_shape(self, prepared: Prepared | None) -> Sequence[int | str | None]:
        """Of the output that is explained; where the file leaves it open, the model is run on ``prepared`` to know."""
        name = self._score.output
        shape = self._engine.outputs[name]
        if prepared is None or all(isinstance(size, int) for size in shape[1:]):
            return shape
        feed = {self._info.image_input: np.stack([prepared.tensor] * (self._batch or 1))}
        return self._engine.run([name], feed)[name].shape


def weights_input(weights: NDArray[Any], shape: Sequence[int | str | None], count: int) -> NDArray[np.float32]:
    """``weights`` for ``count`` images as float32 [count or 1, …]: of one output for all images, or of one each.

    shape: of the input. Raises `InputError` where they do not fit it, or are not finite.
    """
    wide = _numbers(weights, "score_weights")
    with np.errstate(over="ignore"):  # it is refused below
        found = wide.astype(np.float32)
    if found.ndim == len(shape) - 1:
        found = found[None]
    fixed = ["N", *(size if isinstance(size, int) else "any" for size in shape[1:])]
    fits = found.ndim == len(shape) and all(
        not isinstance(want, int) or want == got for want, got in zip(shape[1:], found.shape[1:], strict=False)
    )
    if not fits:
        raise InputError(f"score_weights has the shape {list(np.shape(weights))}, and the output is {fixed}: give that")
    if len(found) not in (1, count):
        raise InputError(f"there are {count} images and score_weights for {len(found)}: give one for all, or one each")
    if not np.isfinite(found).all():
        raise InputError("score_weights holds values that are no finite numbers: replace them")
    return found


def reference_input(reference: NDArray[Any], length: int, count: int) -> NDArray[np.float32]:
    """``reference`` for ``count`` images as float32 [count or 1, length], its greatest number 1 in size.

    Raises `InputError` where it does not fit, is not finite, or has no direction.
    """
    found = np.atleast_2d(_numbers(reference, "the reference"))
    if found.ndim != 2 or found.shape[1] != length or len(found) not in (1, count):
        raise InputError(
            f"the reference has the shape {list(np.shape(reference))}, and the embedding is [{length}]: give one for "
            f"all of {count} images, or one each"
        )
    largest = np.abs(found).max(axis=1, keepdims=True)
    if not np.isfinite(found).all() or not largest.all():
        raise InputError("the reference holds NaN or infinity, or nothing but zeros: give an embedding")
    found /= largest  # only its direction counts, and squares of float32 end at 1e-38 and 1e38
    return found.astype(np.float32)


def _numbers(values: NDArray[Any], what: str) -> NDArray[np.float64]:
    """``values`` as a new array of numbers. Raises `InputError` where they are none."""
    try:
        return np.array(values, np.float64)
    except (TypeError, ValueError):
        raise InputError(f"{what} holds what is no number: give an array of numbers") from None


def rows_of(
    inputs: Mapping[str, NDArray[Any]], start: int, size: int, count: int, *, fixed: bool
) -> dict[str, NDArray[Any]]:
    """``inputs`` of ``count`` images for those from ``start`` on, up to ``size``: what is asked of each is cut out.

    fixed: there are always ``size``; the last is repeated.
    """
    found = dict(inputs)
    for name in SCORE_INPUTS:
        if name in found and len(found[name]) == count and count > 1:
            rows = found[name][start : start + size]
            surplus = size - len(rows) if fixed else 0
            found[name] = np.concatenate([rows, rows[-1:].repeat(surplus, 0)])
    return found
