"""The derivative rules, in modules by kind. Importing this package registers them all."""

from onnxcam.autodiff.rules import convolution, elementwise, movement, pooling

__all__ = ["convolution", "elementwise", "movement", "pooling"]
