"""Reverse-mode differentiation of ONNX graphs in standard ONNX operators. Knows no CAM, no class, no model."""

from onnxcam.autodiff import rules as _rules  # noqa: F401  registers every rule
from onnxcam.autodiff.backward import gradients
from onnxcam.autodiff.rectifiers import Rectifiers
from onnxcam.autodiff.registry import ALL, Exchange, Rule, Site, expansion, rule, rules

__all__ = ["ALL", "Exchange", "Rectifiers", "Rule", "Site", "expansion", "gradients", "rule", "rules"]
