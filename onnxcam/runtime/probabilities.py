"""From a model's scores to probabilities."""

from __future__ import annotations

__all__ = ["probabilities"]

from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxcam.contract import Activation


def probabilities(scores: NDArray[Any], activation: Activation) -> NDArray[np.float32]:
    """The model's class scores [N, K] as probabilities, computed in float64 so that large logits do not overflow."""
    values = scores.astype(np.float64)
    if activation == "softmax":
        values = np.exp(values - values.max(axis=-1, keepdims=True))
        values /= values.sum(axis=-1, keepdims=True)
    elif activation == "sigmoid":
        values = 0.5 * (1 + np.tanh(values / 2))
    return values.astype(np.float32)
