"""Gradients averaged over noisy copies of the picture."""

from __future__ import annotations

__all__ = ["smoothgrad", "smoothgradcam_plus_plus"]

from collections.abc import Iterator

import numpy as np

from onnxcam.runtime.perturbation.options import Settings
from onnxcam.runtime.perturbation.subject import Floats, Subject


def smoothgrad(at: Subject, settings: Settings) -> Floats:
    """Smilkov et al., SmoothGrad, arXiv 1706.03825, 2017: max_c |mean_i ∂y/∂x (x + n_i)|.

    The noise has the standard deviation ``sigma`` times the range of the picture's values. The greatest absolute value
    over the colours makes it a map, as in Simonyan et al. 2014.
    """
    deviation = settings.sigma * float(at.picture.max() - at.picture.min())
    total = np.zeros(at.picture.shape)
    for gradients in _noisy_gradients(at, settings, deviation):
        total += gradients.sum(0, dtype=np.float64)
    return np.asarray(np.abs(total / settings.samples).max(0), np.float32)


def smoothgradcam_plus_plus(at: Subject, settings: Settings) -> Floats:
    """Omeiza et al., Smooth Grad-CAM++, arXiv 1908.01224, 2019: Grad-CAM++ of averaged derivatives.

    D_p is the mean of gᵖ over the noisy pictures, A the feature map of the clean one::

        ReLU(Σ_c w_c A_c),  w_c = Σ_s α ReLU(D_1),  α = D_2 / (2 D_2 + D_3 Σ_s A_c)
    """
    channels = at.activations().astype(np.float64)
    first, second, third = np.zeros((3, *channels.shape))
    for gradients in _noisy_gradients(at, settings, settings.sigma):
        g = gradients.astype(np.float64)
        first += g.sum(0)
        second += (g**2).sum(0)
        third += (g**3).sum(0)
    below = 2 * second + third * channels.sum((1, 2), keepdims=True)
    alpha = np.divide(second, below, out=np.zeros_like(second), where=below != 0)
    weights = (alpha * np.maximum(first, 0)).sum((1, 2)) / settings.samples
    return np.maximum(np.tensordot(weights, channels, 1), 0).astype(np.float32)


def _noisy_gradients(at: Subject, settings: Settings, deviation: float) -> Iterator[Floats]:
    """The gradients [B, C, h, w] at ``samples`` noisy copies of the picture, a part at a time."""
    rng = np.random.default_rng(settings.seed)
    for part in at.parts(settings.samples):
        noise = rng.standard_normal((part.stop - part.start, *at.picture.shape), np.float32)
        yield at.gradients(at.picture + np.float32(deviation) * noise)
