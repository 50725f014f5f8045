"""The derivative rules, in modules by kind. Importing this package registers them all."""

from onnxcam.autodiff.rules import (
    convolution,
    elementwise,
    linear,
    movement,
    normalization,
    pooling,
    reductions,
)

__all__ = ["convolution", "elementwise", "linear", "movement", "normalization", "pooling", "reductions"]
