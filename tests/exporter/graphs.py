"""Small ONNX graphs to attach to: text for the nodes, seeded weights by name.

::

    save(tmp_path / "m.onnx", CNN)                                  # a file
    model('''net (float[N,3,13,10] image) => (…) { … }''', w=(4, 3, 3, 3), shape=[1, -1])
"""

from __future__ import annotations

__all__ = [
    "CNN",
    "CNN_WEIGHTS",
    "assert_same",
    "cnn",
    "model",
    "needs_onnxruntime",
    "random",
    "rewritten",
    "run",
    "save",
]

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from onnxcam.exporter.shapes import infer_shapes

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


def needs_onnxruntime(*version: int) -> pytest.MarkDecorator:
    """Skips with an older one: Python 3.10 has none after 1.23, and 1.21 is promised to do."""
    older = tuple(map(int, ort.__version__.split(".")[:2])) < version
    return pytest.mark.skipif(older, reason=f"ONNX Runtime {ort.__version__} does not know its operator set")


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


def rewritten(
    change: Callable[[ir.Graph, Sequence[ir.Node]], None], text: str, **weights: Any
) -> tuple[onnx.ModelProto, ir.Graph]:
    """The graph in ``text`` as it was, and with all its nodes changed, without what nothing needs any more."""
    plain = model(text, **weights)
    net = ir.from_proto(plain)
    infer_shapes(net)
    change(net.graph, list(net.graph))
    for node in reversed(net.graph):
        if not any(y.uses() or y.is_graph_output() for y in node.outputs):
            net.graph.remove(node, safe=True)
    return plain, net.graph


def assert_same(plain: onnx.ModelProto, graph: ir.Graph) -> None:
    """Both give the same for random inputs."""
    proto = ir.to_proto(ir.Model(graph, ir_version=8))
    feeds = {x.name: 3 * random(*x.shape.numpy(), seed=i) for i, x in enumerate(graph.inputs)}
    ours, theirs = (
        ort.InferenceSession(each.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, feeds)
        for each in (proto, plain)
    )
    for y, z in zip(ours, theirs, strict=True):
        assert y.shape == z.shape
        np.testing.assert_allclose(y, z, rtol=1e-5, atol=1e-6)
