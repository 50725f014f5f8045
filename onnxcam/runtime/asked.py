"""What a user asks an artifact to explain that is no class, as arrays for its inputs."""

from __future__ import annotations

__all__ = ["rows_of", "weights_input"]

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxcam.contract import SCORE_INPUTS
from onnxcam.errors import InputError


def weights_input(weights: NDArray[Any], shape: Sequence[int | str | None], count: int) -> NDArray[np.float32]:
    """``weights`` for ``count`` images as float32 [count or 1, …]: of one output for all images, or of one each.

    shape: of the input. Raises `InputError` where they do not fit it, or are not finite.
    """
    found = np.asarray(weights, np.float32)
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
