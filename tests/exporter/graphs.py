"""Small ONNX graphs to attach to: text for the nodes, seeded weights by name.

::

    save(tmp_path / "m.onnx", CNN)                                  # a file
    model('''net (float[N,3,13,10] image) => (…) { … }''', w=(4, 3, 3, 3), shape=[1, -1])
"""

from __future__ import annotations

__all__ = ["CNN", "CNN_WEIGHTS", "cnn", "model", "random", "run", "save"]

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

CNN = """net (float[N,3,13,10] image) => (float[N,5] logits) {
  a = Conv <strides=[2,2], pads=[1,1,1,1]> (image, w1, b1)
  first = Relu (a)
  b = Conv <pads=[1,1,1,1]> (first, w2)
  last = Relu (b)
  pooled = GlobalAveragePool (last)
  flat = Flatten (pooled)
  logits = Gemm <transB=1> (flat, fc, bias)
}"""
"""Two convolutions, pooling, one linear layer; `last` is [N, 6, 7, 5]."""
CNN_WEIGHTS = {"w1": (4, 3, 3, 3), "b1": (4,), "w2": (6, 4, 3, 3), "fc": (5, 6), "bias": (5,)}


def model(text: str, /, *, opset: int = 18, domains: dict[str, int] | None = None, **weights: Any) -> onnx.ModelProto:
    """The graph in ``text``; ``weights`` are shapes (tuples) to fill at random, or arrays and lists."""
    imports = {"": opset, **(domains or {})}
    header = ", ".join(f'"{domain}" : {version}' for domain, version in imports.items())
    found = onnx.parser.parse_model(f"<ir_version: 8, opset_import: [{header}]>\n{text}")
    for name, content in weights.items():
        array = random(*content, seed=sum(map(ord, name))) if isinstance(content, tuple) else np.asarray(content)
        found.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return found


def cnn(**more: Any) -> onnx.ModelProto:
    """`CNN` with its weights."""
    return model(CNN, **(CNN_WEIGHTS | more))


def random(*shape: int, seed: int = 0) -> np.ndarray:
    """Standard normal float32, over the square root of what is summed up."""
    fan = int(np.prod(shape[1:])) if len(shape) > 1 else 1
    return (np.random.default_rng(seed).standard_normal(shape) / np.sqrt(fan)).astype(np.float32)


def save(path: Path, proto: onnx.ModelProto) -> Path:
    path.write_bytes(proto.SerializeToString())
    return path


def run(path: Path, **feed: np.ndarray) -> dict[str, np.ndarray]:
    """All outputs by name."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [y.name for y in session.get_outputs()]
    return dict(zip(names, session.run(names, feed), strict=True))
