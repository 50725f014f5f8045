"""Gradients summed up on the way from an empty picture to the picture."""

from __future__ import annotations

__all__ = ["integrated_gradients"]

import numpy as np

from onnxcam.runtime.perturbation.options import Settings
from onnxcam.runtime.perturbation.subject import Floats, Subject


def integrated_gradients(at: Subject, settings: Settings) -> Floats:
    """Sundararajan et al., Axiomatic Attribution for Deep Networks, ICML 2017, eq. 1, summed over the colours.

    x ∫₀¹ ∂y/∂x (t x) dt, the integral by Gauss and Legendre's rule with ``samples`` nodes. The map adds up to
    y(x) - y(0), as far as that many nodes resolve the gradient.
    """
    nodes, weights = np.polynomial.legendre.leggauss(settings.samples)  # on -1…1
    total = np.zeros(at.picture.shape)
    for part in at.parts(settings.samples):
        steps = ((nodes[part] + 1) / 2).astype(np.float32)
        gradients = at.gradients(steps[:, None, None, None] * at.picture)
        total += np.tensordot(weights[part] / 2, gradients, 1)
    return np.asarray((at.picture * total).sum(0), np.float32)
