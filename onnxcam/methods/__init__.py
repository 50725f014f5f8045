"""The CAM methods, each a piece of ONNX graph on the feature map A and the gradients g = dy^c/dA."""

from onnxcam.methods import cam, gradcam  # registers the methods
from onnxcam.methods.registry import Head, Method, Site, find_method, method, methods

__all__ = ["Head", "Method", "Site", "cam", "find_method", "gradcam", "method", "methods"]
