"""Values spread late: the same numbers, and fewer passes over the feature map."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import onnxcam
from onnxcam.exporter import simplification
from onnxcam.exporter.spread import spread_late

from .graphs import assert_same, cnn, model, random, rewritten, run, save

PLACES = [2, 3]
SPREAD = np.full((1, 1, 5, 4), 0.5, np.float32)
METHODS = ["gradcam", "gradcam++", "xgradcam", "hirescam", "layercam"]


def late(text: str, **weights) -> tuple[onnx.ModelProto, ir.Graph]:
    return rewritten(spread_late, text, **weights)


def sizes(graph: ir.Graph, op_type: str) -> list[Sequence[int | ir.SymbolicDim]]:
    return [list(node.outputs[0].shape) for node in graph if node.op_type == op_type]


FEEDS = {"v": random(2, 3, 1, 1, seed=1) * 3, "x": random(2, 3, 5, 4, seed=2)}
HEAD = "net (float[2,3,1,1] v, float[2,3,5,4] x) => (float[2,3,{}] y)"


@pytest.mark.parametrize(
    ("size", "nodes", "once"),
    [
        ("5,4", "a = Mul (v, c) b = Relu (a) y = Mul (b, x)", {"Relu"}),
        ("5,4", "a = Mul (c, v) b = Abs (a) d = Add (two, b) e = Div (a, d) y = Add (x, e)", {"Abs", "Add", "Div"}),
        ("5,4", "a = Mul (v, c) b = Greater (a, two) d = Where (b, a, two) y = Sub (d, x)", {"Greater", "Where"}),
        ("1,1", "a = Mul (v, c) b = Exp (a) d = ReduceSum (b, places) y = Neg (d)", {"Exp"}),
        ("1,1", "a = Mul (v, c) b = Exp (a) d = ReduceMean (b, places) y = Neg (d)", {"Exp"}),
        ("1,1", "a = Mul (x, v) d = ReduceMean (a, places) y = Neg (d)", {"Mul"}),
        ("1,1", "a = Mul (v, c) b = Mul (a, x) d = ReduceSum (b, places) y = Neg (d)", {"Mul"}),
    ],
)
def test_computed_once(size, nodes, once):
    numbers = {name: each for name, each in {"c": SPREAD, "two": np.float32(2), "places": PLACES}.items()
               if f"{name})" in nodes or f" ({name}" in nodes}  # fmt: skip
    plain, graph = late(f"{HEAD.format(size)} {{ {nodes.replace(') ', ')' + chr(10))} }}", **numbers)
    assert_same(plain, graph)
    for op_type in once:
        full = [shape for shape in sizes(graph, op_type) if shape == [2, 3, 5, 4]]
        assert len(full) == (op_type == "Add" and "y = Add" in nodes)


@pytest.mark.parametrize(
    ("head", "nodes", "weights"),
    [
        # axis 1 of v is axis 2 of y: what is the same along the one is not along the other
        (
            "net (float[2,1,3] v, float[2,2,1,3] x) => (float[2,2,4,3] y, float[2,4,3] a)",
            "a = Mul (v, c) b = Exp (a) y = Mul (b, x)",
            {"c": np.full((1, 4, 1), 0.5, np.float32)},
        ),
        (
            "net (float[2,1,3] v, float[2,1,1,3] x) => (float[2,1,4,3] y)",
            "a = Mul (v, c) b = Add (a, x) d = ReduceSum (b, places) y = Neg (d)",
            {"c": np.full((1, 4, 1), 0.5, np.float32), "places": [1]},
        ),
        # no axes: all of them are summed
        (
            "net (float[2,3,5,4] v, float[2,3,5,4] x) => (float[1,1,1,1] y)",
            "a = Mul (v, x) b = ReduceSum (a, places) y = Neg (b)",
            {"places": np.zeros(0, np.int64)},
        ),
        # numbers that differ are no spread value
        (
            "net (float[2,3,1,1] v, float[2,3,5,4] x) => (float[2,3,5,4] y)",
            "a = Mul (v, c) b = Exp (a) y = Mul (b, x)",
            {"c": random(1, 1, 5, 4)},
        ),
        # a repeated number times what differs
        (
            "net (float[2,3,1,1] v, float[2,3,5,4] x) => (float[2,3,1,1] y)",
            "a = Mul (x, c) b = ReduceSum (a, places) y = Mul (b, v)",
            {"c": SPREAD, "places": PLACES},
        ),
        # the same along other axes
        (
            "net (float[2,3,1,4] v, float[2,3,5,1] x) => (float[2,3,1,1] y)",
            "a = Mul (v, c) b = Mul (x, d) e = Add (a, b) f = ReduceSum (e, places) y = Neg (f)",
            {"c": np.full((1, 1, 5, 1), 0.5, np.float32), "d": np.full((1, 1, 1, 4), 2, np.float32), "places": PLACES},
        ),
        # an Expand that repeats nothing, of a shape that looks like sizes of 1
        (
            "net (float[2,1,4] v, float[2,3,4] x) => (float[2,3,4] y)",
            "a = Mul (v, c) b = Expand (a, size) y = Add (b, x)",
            {"c": np.full((1, 3, 1), 0.5, np.float32), "size": [2, 3, 4]},
        ),
        # the type alone is read of the second
        (
            "net (float[2,3,1,1] v, float[2,3,5,4] x) => (float[2,3,5,4] y)",
            "a = Mul (v, c) y = CastLike (a, x)",
            {"c": SPREAD},
        ),
        # half of a sum: the places that differ stay
        (
            "net (float[2,3,1,1] v, float[2,3,5,4] x) => (float[2,3,5,1] y)",
            "a = Mul (v, c) b = Exp (a) d = ReduceSum (b, places) y = Neg (d)",
            {"c": SPREAD, "places": [3]},
        ),
    ],
)
def test_what_only_looks_spread_keeps_its_value(head, nodes, weights):
    plain, graph = late(f"{head} {{ {nodes.replace(') ', ')' + chr(10))} }}", **weights)
    assert_same(plain, graph)


def test_sizes_that_nobody_knows_may_differ():
    text = """net (float[2,3,1,1] v, float[2,3,?,?] x, int64[4] size) => (float[2,3,?,?] y) {
        a = Expand (v, size)
        y = Mul (a, x)
    }"""
    net = ir.from_proto(model(text))
    net.graph[0].outputs[0].shape = ir.Shape([2, 3, None, None])
    spread_late(net.graph, list(net.graph))
    assert net.graph[1].inputs[0].name == "a"


def test_a_spread_value_that_is_asked_for_is_given():
    plain, graph = late(
        "net (float[2,3,1,1] v, float[2,3,5,4] x) => (float[2,3,5,4] a, float[2,3,1,1] s, float[2,3,5,4] y) {"
        "a = Mul (v, c)\n b = Relu (a)\n s = ReduceSum (a, places)\n y = Mul (b, x) }",
        c=SPREAD,
        places=PLACES,
    )
    assert_same(plain, graph)
    assert sizes(graph, "Relu") == [[2, 3, 1, 1]]


@pytest.mark.parametrize("factor", ["x", "c"])
def test_sums_of_half_precision_stay_where_they_do_not_overflow(factor):
    text = f"""net (float16[2,3,1,1] v, float16[2,3,5,4] x) => (float16[2,3,1,1] y) {{
        a = Mul (v, {factor})
        b = ReduceSum (a, places)
        y = Neg (b)
    }}"""
    _, graph = late(text, places=PLACES, c=SPREAD.astype(np.float16))
    assert [2, 3, 5, 4] in sizes(graph, "Mul")
    assert sizes(graph, "ReduceSum") == [[2, 3, 1, 1]]


@pytest.mark.parametrize("outputs", ["all", "cam"])
@pytest.mark.parametrize("open_sizes", [False, True])
def test_every_method_gives_the_same(tmp_path, monkeypatch, outputs, open_sizes):
    proto = cnn()
    if open_sizes:
        for axis in (2, 3):
            proto.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = f"d{axis}"
    plain = save(tmp_path / "m.onnx", proto)
    options = {"layer": "last", "method": METHODS, "outputs": outputs}
    quick = onnxcam.attach(plain, tmp_path / "quick.cam.onnx", **options).path
    monkeypatch.setattr(simplification, "spread_late", lambda *_: None)
    monkeypatch.setattr(simplification, "sums_as_products", lambda *_: None)
    slow = onnxcam.attach(plain, tmp_path / "slow.cam.onnx", **options).path
    pictures = random(2, 3, 13, 10, seed=5)
    for index in range(len(METHODS)):
        feed = {"image": pictures} | ({"method": np.array([index])} if "method" in inputs(quick) else {})
        ours, theirs = run(quick, **feed), run(slow, **feed)
        assert ours.keys() == theirs.keys()
        for name in ours:
            np.testing.assert_allclose(ours[name], theirs[name], rtol=2e-5, atol=1e-6)
    assert passes(quick) < passes(slow)


def test_grad_cam_plus_plus_weighs_channels_that_have_one_gradient_without_a_pass_over_the_map(tmp_path):
    plain = save(tmp_path / "m.onnx", cnn())
    options = {"layer": "last", "outputs": "cam"}
    one = onnxcam.attach(plain, tmp_path / "one.onnx", method="gradcam", **options).path
    other = onnxcam.attach(plain, tmp_path / "other.onnx", method="gradcam++", **options).path
    assert passes(other) == passes(one)


def inputs(path) -> set[str]:
    return {x.name for x in ir.load(path).graph.inputs}


def passes(path) -> int:
    """Elementwise operators over the whole feature map."""
    graph = ir.load(path).graph
    found = [node for node in graph if node.op_type in ("Mul", "Div", "Relu", "Add", "Where", "Less", "Abs")]
    return sum(len(y.shape) == 4 and y.shape[-1] != 1 for node in found for y in node.outputs if y.shape is not None)
