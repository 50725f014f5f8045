"""The derivative rules, in modules by kind. Importing this package registers them all."""

from onnxcam.autodiff.rules import (
    activations,
    arithmetic,
    convolution,
    cumulative,
    einsum,
    linear,
    movement,
    normalization,
    padding,
    picking,
    pooling,
    reductions,
    resizing,
    scattering,
    selection,
    trigonometry,
)

__all__ = [
    "activations",
    "arithmetic",
    "convolution",
    "cumulative",
    "einsum",
    "linear",
    "movement",
    "normalization",
    "padding",
    "picking",
    "pooling",
    "reductions",
    "resizing",
    "scattering",
    "selection",
    "trigonometry",
]
