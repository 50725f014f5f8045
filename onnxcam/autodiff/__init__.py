"""Reverse-mode differentiation of ONNX graphs in standard ONNX operators. Knows no CAM, no class, no model."""

from onnxcam.autodiff.backward import gradients
from onnxcam.autodiff.registry import ALL, Site, rule, rules

__all__ = ["ALL", "Site", "gradients", "rule", "rules"]
