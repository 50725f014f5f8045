"""The methods on feature maps small enough to do by hand."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest

from onnxcam.autodiff.emitter import emitter
from onnxcam.errors import MethodError
from onnxcam.methods import Head, Site, find_method, method, methods

# two channels, 2 rows, 3 columns
A = np.array([[[[1, 2, 0], [0, 1, 3]], [[2, 0, 1], [1, 4, 0]]]], dtype=np.float32)
g = np.array([[[[6, 0, 0], [0, 0, 0]], [[-1, -1, -1], [-1, -1, -1]]]], dtype=np.float32)


def run(name: str, *, weights: list[list[float]] | None = None, explained: int = 0) -> np.ndarray:
    """The map of the method on A and g, by ONNX Runtime."""
    values = {
        "A": ir.val("A", ir.DataType.FLOAT, ["N", 2, 2, 3]),
        "g": ir.val("g", ir.DataType.FLOAT, ["N", 2, 2, 3]),
        "k": ir.val("k", ir.DataType.INT64, ["N"]),
        "w": ir.val("w", ir.DataType.FLOAT, ["N", 2]),
    }
    graph = ir.Graph(list(values.values()), [], nodes=[], opset_imports={"": 18}, name="g")
    site = Site(
        op=emitter(graph, "method"),
        activations=values["A"],
        gradients=values["g"],
        explained_class=values["k"],
        head=Head(weights=values["w"] if weights else None),
    )
    cam = find_method(name).build(site)
    cam.dtype = ir.DataType.FLOAT
    graph.outputs.append(cam)
    session = ort.InferenceSession(ir.to_proto(ir.Model(graph, ir_version=8)).SerializeToString())
    feed = {"A": A, "g": g, "k": np.array([explained]), "w": np.array(weights or [[0, 0]], dtype=np.float32)}
    (got,) = session.run(None, feed)
    return got[0]


def test_gradcam_by_hand():
    # mean of g: 6/6 = 1 and -6/6 = -1, so the map is ReLU(A_0 - A_1)
    assert run("gradcam").tolist() == [[0, 2, 0], [0, 0, 3]]


def test_cam_with_a_linear_layer_by_hand():
    # 2·A_0 - A_1, and no ReLU
    assert run("cam", weights=[[2, -1]]).tolist() == [[0, 4, -1], [-1, -2, 6]]


def test_cam_without_a_linear_layer_is_the_channel():
    assert run("cam", explained=1).tolist() == [[2, 0, 1], [1, 4, 0]]


def test_every_method_states_equation_and_paper():
    for name, entry in methods().items():
        assert entry.name == name
        assert entry.equation
        assert entry.paper
        assert entry.summary.endswith(".")


def test_names_are_found_or_refused():
    with pytest.raises(MethodError, match="no method 'gradcams'; did you mean 'gradcam'"):
        find_method("gradcams")
    with pytest.raises(ValueError, match="registered already"):
        method("cam", equation="", paper="", needs="head")(lambda at: at.activations)
