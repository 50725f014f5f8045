"""Passes that make an explanation cheaper: the values stay, the nodes that cost go."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx_ir as ir
import pytest

import onnxcam
from onnxcam.exporter import simplification
from onnxcam.exporter.shapes import infer_shapes
from onnxcam.exporter.simplification import casts_to_types, ranked_constants
from onnxcam.exporter.spread import spread_late

from .graphs import cnn, model, random, rewritten, run, save

PICTURES = random(2, 3, 13, 10, seed=9)


def added(path) -> Counter[str]:
    """The operators behind the forward."""
    graph = ir.load(path).graph
    forward = [node.outputs[0].name for node in graph].index("logits") + 1
    return Counter(node.op_type for node in list(graph)[forward:])


@pytest.mark.parametrize("outputs", ["all", "cam"])
def test_grad_cam_spreads_no_gradient_that_nobody_asked_for(tmp_path, monkeypatch, outputs):
    plain = save(tmp_path / "m.onnx", cnn())
    quick = onnxcam.attach(plain, tmp_path / "quick.cam.onnx", outputs=outputs).path
    monkeypatch.setattr(simplification, "spread_late", lambda graph, nodes: None)
    slow = onnxcam.attach(plain, tmp_path / "slow.cam.onnx", outputs=outputs).path
    ours, theirs = run(quick, image=PICTURES), run(slow, image=PICTURES)
    assert ours.keys() == theirs.keys()
    for name in ours:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-6, atol=1e-7)
    assert added(slow)["Mul"] == 1
    assert added(quick)["Mul"] == (2 if outputs == "all" else 1)  # the spread one, and the weights


def graph_of(text: str, **weights) -> ir.Model:
    net = ir.from_proto(model(text, **weights))
    infer_shapes(net)
    return net


def test_a_mean_of_what_is_not_spread_stays(tmp_path):
    net = graph_of(
        """net (float[2,3,4,5] image, float[2,3,4,1] v, float[2,3,1,1] w) => (float[2,3,1,1] y, float[2,3,1,1] z) {
            a = Mul (image, v)
            y = ReduceMean (a, places)
            b = Mul (w, image)
            c = ReduceMean (b, places)
            z = Relu (c)
        }""",
        places=[2, 3],
    )
    spread_late(net.graph, list(net.graph))
    v_mean, w_mean = (y.producer() for y in net.graph.outputs)
    assert v_mean.inputs[0].producer().op_type == "Mul"  # v is not the same along both axes
    assert w_mean.inputs[0].producer().inputs[1].producer().inputs[0] is net.graph.inputs[0]


def test_a_cast_to_a_known_type_reads_what_it_casts_alone():
    text = """net (bool[2,3] mask, float16[2,3,5,4] x, float[2,3] v) => (float16[2,3] y, float[2,3] z) {
        y = CastLike (mask, x)
        a = CastLike (mask, v)
        z = Neg (a)
    }"""
    plain, graph = rewritten(casts_to_types, text)
    assert [(node.op_type, len(node.inputs)) for node in graph] == [("Cast", 1), ("Cast", 1), ("Neg", 1)]
    assert [node.attributes.get_int("to") for node in graph][:2] == [ir.DataType.FLOAT16, ir.DataType.FLOAT]
    assert [y.name for y in graph.outputs] == ["y", "z"]
    untyped = ir.from_proto(plain).graph
    casts_to_types(untyped, list(untyped))
    assert [node.op_type for node in untyped] == ["Cast", "CastLike", "Neg"]


def test_numbers_meet_single_places_at_their_rank():
    text = """net (float[N,4,1,1] x, float[N,4,6,1] v, float[N,4,6,6] w) => (float[N,4,1,1] y, float[N,4,6,6] z) {
        a = Sub (x, half)
        b = Less (half, a)
        c = Cast <to=1> (b)
        d = Mul (v, half)
        z = Mul (w, half)
        y = Mul (c, quarter)
    }"""
    net = graph_of(text, half=np.float32(0.5), quarter=np.full((1, 1, 1, 1), 0.25, np.float32))
    ranked_constants(net.graph, list(net.graph))
    ranks = [[len(x.shape) for x in node.inputs if x.const_value is not None] for node in net.graph]
    assert ranks == [[4], [4], [], [4], [0], [4]]
    assert net.graph[0].inputs[1] is net.graph[1].inputs[0]


def test_an_optional_input_is_no_constant():
    net = graph_of(
        "net (float[N,4,1,1] x, float scale) => (float[N,4,1,1] y) { y = Mul (x, scale) }", scale=np.float32(0.5)
    )
    ranked_constants(net.graph, list(net.graph))
    assert net.graph[0].inputs[1] is net.graph.inputs[1]


def test_the_map_as_a_product_of_matrices(tmp_path):
    """Where sizes are open it is a sum, and both are the same."""
    fixed = onnxcam.attach(save(tmp_path / "m.onnx", cnn()), layer="last").path
    text = ir.to_proto(ir.load(tmp_path / "m.onnx"))
    for axis in (2, 3):
        text.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = f"d{axis}"
    open_sizes = onnxcam.attach(save(tmp_path / "o.onnx", text), layer="last").path
    assert (added(fixed)["MatMul"], added(open_sizes)["MatMul"]) == (1, 0)
    np.testing.assert_allclose(run(fixed, image=PICTURES)["cam"], run(open_sizes, image=PICTURES)["cam"], rtol=1e-5)
