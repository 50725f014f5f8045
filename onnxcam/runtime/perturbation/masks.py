"""Parts of the picture hidden: at random, or by a square that moves over it. Class scores are all they need."""

from __future__ import annotations

__all__ = ["occlusion", "rise"]

import itertools

import numpy as np
from numpy.typing import NDArray

from onnxcam.errors import MethodError
from onnxcam.runtime.geometry import interpolation
from onnxcam.runtime.perturbation.options import Settings
from onnxcam.runtime.perturbation.subject import Floats, Subject

_CELLS = 7
"""Rows and columns of a mask before it is enlarged, as in the paper."""
_SHOWN = 0.5
"""The probability that a cell is shown, as in the paper."""


def rise(at: Subject, settings: Settings) -> Floats:
    """Petsiuk et al., RISE, BMVC 2018, eq. 6, less the mean confidence: Σ_i f(x ∘ M_i) M_i / (N E[M]) - mean_i f.

    M_i: 7 × 7 cells, each 1 with probability 1/2, enlarged bilinearly to 8 × 8 cells' size and cut out at a random
    offset of up to a cell. The mean is one number for the whole map. Without it no pixel is ever against the class.
    """
    rng = np.random.default_rng(settings.seed)
    grids = (rng.random((settings.samples, _CELLS, _CELLS)) < _SHOWN).astype(np.float32)
    cell = [
        -(-n // _CELLS) for n in at.size
    ]  # rounded up, as in the authors' code, so that the mask covers the picture
    offsets = [rng.integers(0, c, settings.samples) for c in cell]
    axes = [interpolation(_CELLS, (_CELLS + 1) * c, 0, (_CELLS + 1) * c, (_CELLS + 1) * c) for c in cell]
    total, confidence = np.zeros(at.size), 0.0
    for part in at.parts(settings.samples):
        rows, columns = (
            np.stack([axis[o : o + n] for o in offset[part]])
            for axis, offset, n in zip(axes, offsets, at.size, strict=True)
        )
        masks = rows @ grids[part] @ columns.transpose(0, 2, 1)
        found = at.confidences(at.picture * masks[:, None])
        total += np.tensordot(found, masks, 1)
        confidence += found.sum()
    return ((total / _SHOWN - confidence) / settings.samples).astype(np.float32)


def occlusion(at: Subject, settings: Settings) -> Floats:
    """Zeiler and Fergus, Visualizing and Understanding Convolutional Networks, ECCV 2014, section 4.2.

    What the confidence loses when a square is hidden; at each pixel, the mean over the squares that hide it. A square
    at the lower or right edge is cut off there.
    """
    side = min(at.size)
    window = settings.window or max(side // 5, 1)
    stride = settings.stride or max(window // 3, 1)
    if stride > window:
        raise MethodError(
            f"a stride of {stride} leaves pixels between squares of {window} never hidden: take at most {window}"
        )
    places = list(itertools.product(*(_starts(n, window, stride) for n in at.size)))
    (clean,) = at.confidences(at.picture[None])
    loss, times = np.zeros(at.size), np.zeros(at.size)
    for part in at.parts(len(places)):
        hidden = np.repeat(at.picture[None], part.stop - part.start, 0)
        squares = [(slice(top, top + window), slice(left, left + window)) for top, left in places[part]]
        for picture, square in zip(hidden, squares, strict=True):
            picture[:, square[0], square[1]] = 0
        for square, confidence in zip(squares, at.confidences(hidden), strict=True):
            loss[square] += clean - confidence
            times[square] += 1
    return np.asarray(loss / times.clip(1), np.float32)


def _starts(size: int, window: int, stride: int) -> NDArray[np.int64]:
    """Where squares begin along an axis, so that each pixel is hidden at least once where ``stride`` ≤ ``window``."""
    return np.arange(0, max(size - window, 0) + stride, stride).clip(max=size - 1)
