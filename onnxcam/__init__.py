"""onnxcam: the answer and its explanation in one pass of ONNX Runtime."""

__version__ = "0.1.0"
