"""Score-CAM and its kin: each channel of the feature map is a mask, and the score that it leaves is its weight.

With H_k = s(U(A_k)), where U enlarges bilinearly to the model's input and s scales to 0-1 by minimum and maximum::

    L = ReLU(Σ_k w_k A_k),  w = softmax_k(S)
    scorecam  S_k = y(x ∘ H_k)
    sscam     S_k = mean_i y(x ∘ (H_k + n_i)),  n_i ~ N(0, σ²) at each pixel
    iscam     S_k = mean_i y(c_i · x ∘ H_k),    c_i = Σ_{j<i} j / N,  i = 1…N

The papers take the score of a baseline picture off each S_k; softmax does not see it.
"""

from __future__ import annotations

__all__ = ["iscam", "scorecam", "sscam"]

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from onnxcam.runtime.geometry import interpolation
from onnxcam.runtime.perturbation.options import Settings
from onnxcam.runtime.perturbation.subject import Floats, Subject


def scorecam(at: Subject, settings: Settings) -> Floats:
    """Wang et al., Score-CAM, CVPR Workshops 2020, algorithm 1."""
    return _weighted(at, 1, lambda masks, samples: masks)


def sscam(at: Subject, settings: Settings) -> Floats:
    """Wang et al., SS-CAM, arXiv 2006.14255, 2020: the smoothed masks of its first variant."""
    rng = np.random.default_rng(settings.seed)

    def noisy(masks: Floats, samples: NDArray[np.int64]) -> Floats:
        noise = rng.standard_normal(masks.shape, np.float32)
        return np.asarray(masks + np.float32(settings.sigma) * noise)

    return _weighted(at, settings.samples, noisy)


def iscam(at: Subject, settings: Settings) -> Floats:
    """Naidu et al., IS-CAM, arXiv 2010.03023, 2020."""
    steps = (np.arange(settings.samples).cumsum() / settings.samples).astype(np.float32)
    return _weighted(at, settings.samples, lambda masks, samples: steps[samples, None, None] * masks)


def _weighted(at: Subject, samples: int, change: Callable[[Floats, NDArray[np.int64]], Floats]) -> Floats:
    """The channels weighted by the mean score over ``samples`` changed copies of their masks.

    change: from masks [B, H, W] and the number of the sample that each is.
    """
    channels = at.activations()
    flat = channels.max((1, 2)) == channels.min((1, 2))
    # a channel that is the same everywhere hides everything: all of those share the runs of the first
    distinct = np.flatnonzero(~flat | (np.arange(len(flat)) == flat.argmax()))
    sums = np.zeros(len(distinct))
    for part in at.parts(len(distinct) * samples):
        which, sample = np.divmod(np.arange(part.start, part.stop), samples)
        masks = change(_masks(channels[distinct[which]], at.size), sample)
        np.add.at(sums, which, at.scores(at.picture * masks[:, None]))
    scores = np.full(len(channels), sums[distinct == flat.argmax()][0] if flat.any() else 0.0)
    scores[distinct] = sums
    weights = np.exp((scores - scores.max()) / samples)
    weights /= weights.sum()
    return np.asarray(np.maximum(np.tensordot(weights, channels, 1), 0), np.float32)


def _masks(channels: Floats, size: tuple[int, int]) -> Floats:
    """Channels [B, h, w] enlarged to ``size`` and scaled to 0-1; 0 all over where flat."""
    rows, columns = (interpolation(cells, n, 0, n, n) for cells, n in zip(channels.shape[1:], size, strict=True))
    masks = rows @ channels @ columns.T
    lowest, highest = (extreme(masks, (1, 2), keepdims=True) for extreme in (np.min, np.max))
    scaled: Floats = (masks - lowest) / np.where(highest > lowest, highest - lowest, 1)
    return scaled
