"""The derivative rules, in modules by kind. Importing this package registers them all."""

from onnxcam.autodiff.rules import elementwise

__all__ = ["elementwise"]
