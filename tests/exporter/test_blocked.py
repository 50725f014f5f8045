"""Gradients in blocks: the same as outside of them, and what is not of a convolution left alone."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

import onnxcam
from onnxcam.exporter import simplification
from onnxcam.exporter.blocked import blocked_masks, blocked_sums
from onnxcam.exporter.shapes import infer_shapes

from .graphs import model, random, run, save

RECTIFIERS = ["Relu (c)", "Clip (c, low, six)", "Clip (c, low, third)", "Clip (c, low, high)"]


def network(rectifier: str) -> onnx.ModelProto:
    """y rectified, then a linear head."""
    return model(
            f"""net (float[N,3,9,7] image) => (float[N,4] logits) {{
                c = Conv <pads=[1,1,1,1]> (image, w)
                y = {rectifier}
                d = Conv (y, v)
                e = Relu (d)
                p = GlobalAveragePool (e)
                f = Flatten (p)
                logits = MatMul (f, u)
            }}""",
            w=random(8, 3, 3, 3, seed=1), v=random(8, 8, 3, 3, seed=2), u=random(8, 4, seed=3), low=np.float32(0),
            six=np.float32(6), third=np.float32(1 / 3), high=np.float32(1e4),
    )  # fmt: skip


def operators(path) -> Counter[str]:
    return Counter(node.op_type for node in ir.load(path).graph)


@pytest.mark.parametrize("rectifier", RECTIFIERS)
def test_gradients_are_the_same_and_no_comparison_is_left(tmp_path, monkeypatch, rectifier):
    plain = save(tmp_path / "m.onnx", network(rectifier))
    blocked = onnxcam.attach(plain, tmp_path / "blocked.cam.onnx", method="saliency").path
    monkeypatch.setattr(simplification, "blocked_masks", lambda *_: None)
    compared = onnxcam.attach(plain, tmp_path / "compared.cam.onnx", method="saliency").path
    assert operators(blocked)["HardSigmoid"] == (4 if "Relu" in rectifier else 5)
    assert operators(compared)["HardSigmoid"] == 0
    assert operators(blocked)["Greater"] == operators(blocked)["Less"] - 1 == 0  # one Less finds a negative class
    pictures = 4 * random(3, 3, 9, 7, seed=4)
    ours, theirs = run(blocked, image=pictures), run(compared, image=pictures)
    assert np.abs(theirs["cam"]).max() > 0
    np.testing.assert_array_equal(ours["cam"], theirs["cam"])


@pytest.mark.parametrize("high", [None, 6.0, 1 / 3, 1.0, 1e4])
@pytest.mark.parametrize("half", [False, True])
def test_a_mask_is_0_or_1_up_to_its_bounds(tmp_path, high, half):
    """Of numbers that are representable, also where every step is rounded to half precision."""
    kind = np.float16 if half else np.float32
    top = kind(high or 1e4)
    inside = [kind(2e-6), np.nextafter(top, kind(0)), top / 2]
    outside = [kind(0), top] if high else [kind(0)]
    if not half:
        inside += [np.float32(1e-9)]
    y = np.array([*inside, *outside], kind)
    condition = "g = Greater (r, zero)" if high is None else "a = Greater (r, zero) b = Less (r, top) g = And (a, b)"
    net = ir.from_proto(
        model(
            f"net (float[1,1,1,N] image) => (float[1,1,1,N] mask) {{ c = Conv (image, one) r = Relu (c) {condition} "
            "m = Cast <to=1> (g) mask = Identity (m) }",
            one=np.ones((1, 1, 1, 1), np.float32), zero=np.float32(0), top=np.float32(top),
        )
    )  # fmt: skip
    infer_shapes(net)
    nodes = list(net.graph)
    blocked_masks(net.graph, nodes[2:], nodes[:2])
    steps = [node for node in net.graph if node.op_type in ("HardSigmoid", "Mul")]
    values = {"r": y}
    for node in steps:
        inputs = [values[x.name] for x in node.inputs]
        values[node.outputs[0].name] = _step(node, inputs, kind)
    mask = values[steps[-1].outputs[0].name]
    np.testing.assert_array_equal(mask, [1] * len(inside) + [0] * len(outside))
    if not half:
        session = onnxruntime.InferenceSession(ir.to_proto(net).SerializeToString(), providers=["CPUExecutionProvider"])
        np.testing.assert_array_equal(session.run(["mask"], {"image": y[None, None, None]})[0].ravel(), mask)


def _step(node: ir.Node, inputs: list[np.ndarray], kind: type) -> np.ndarray:
    if node.op_type == "Mul":
        return inputs[0] * inputs[1]
    slope, shift = (kind(node.attributes.get_float(name)) for name in ("alpha", "beta"))
    with np.errstate(over="ignore"):
        return np.clip(slope * inputs[0] + shift, kind(0), kind(1))


@pytest.mark.parametrize(
    "text",
    [
        "c = Conv (image, w) y = Relu (c) g = Greater (y, one)",  # not the mask of a rectifier
        "c = Conv (image, w) y = Relu (c) g = Less (y, zero)",
        "c = Conv (image, w) y = Sigmoid (c) g = Greater (y, zero)",
        "y = Relu (image) g = Greater (y, zero)",  # no convolution: nothing is in blocks
        "c = Conv (image, w) y = Relu (c) a = Greater (y, zero) b = Less (image, one) g = And (a, b)",
        "c = Conv (image, w) y = Relu (c) a = GreaterOrEqual (y, zero) b = Less (y, one) g = And (a, b)",
    ],
)
def test_other_comparisons_stay(text):
    net = ir.from_proto(
        model(
            f"net (float[1,2,3,3] image) => (float[1,2,3,3] mask) {{ {text} mask = Cast <to=1> (g) }}",
            w=random(2, 2, 1, 1, seed=0), zero=np.float32(0), one=np.float32(1),
        )
    )  # fmt: skip
    infer_shapes(net)
    nodes = list(net.graph)
    blocked_masks(net.graph, nodes, nodes)
    assert [node.op_type for node in net.graph] == [node.op_type for node in nodes]


RESIDUAL = """net (float[N,3,9,7] image) => (float[N,4] logits) {
    stem = Conv <pads=[1,1,1,1]> (image, w)
    x = Relu (stem)
    a = Conv (x, v)
    b = Relu (a)
    c = Conv (b, v)
    d = Add (c, x)
    y = Relu (d)
    p = ReduceMax <keepdims=0> (y, places)
    logits = MatMul (p, u)
}"""


def residual(channels: int) -> onnx.ModelProto:
    return model(
        RESIDUAL, w=random(channels, 3, 3, 3, seed=1), v=random(channels, channels, 1, 1, seed=2),
        u=random(channels, 4, seed=3), places=[2, 3],
    )  # fmt: skip


def attached(path, proto: onnx.ModelProto) -> ir.Model:
    onnxcam.attach(save(path / "m.onnx", proto), path / "m.cam.onnx", method="saliency")
    return ir.load(path / "m.cam.onnx")


def test_a_sum_of_gradients_is_part_of_a_convolution(tmp_path, monkeypatch):
    proto, pictures = residual(16), random(3, 3, 9, 7, seed=4)
    (moved,) = (node for node in attached(tmp_path, proto).graph if node.name.endswith("_blocked"))
    assert moved.op_type == "Conv"
    (after,) = (reader for reader, _ in moved.outputs[0].uses())
    assert after.op_type == "Add"
    ours = run(tmp_path / "m.cam.onnx", image=pictures)["cam"]
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 4
    onnxruntime.InferenceSession(tmp_path / "m.cam.onnx", options, providers=["CPUExecutionProvider"])
    ran = onnx.load(options.optimized_model_filepath).graph.node
    if any(node.domain == "com.microsoft.nchwc" for node in ran):  # elsewhere than on x86 it may have no blocks
        assert not [node.name for node in ran if node.op_type == "Add" and "gradient" in node.name]
    monkeypatch.setattr(simplification, "blocked_sums", lambda *_: None)
    attached(tmp_path, proto)
    np.testing.assert_allclose(run(tmp_path / "m.cam.onnx", image=pictures)["cam"], ours, rtol=1e-6)


def test_a_weight_of_the_same_name_is_not_taken_for_ours(tmp_path):
    proto, pictures = residual(16), random(3, 3, 9, 7, seed=4)
    attached(tmp_path, proto)
    expected = run(tmp_path / "m.cam.onnx", image=pictures)["cam"]
    (ours,) = (name for name in ir.load(tmp_path / "m.cam.onnx").graph.initializers if "ones" in name)
    own = onnx.helper.make_node("Mul", ["logits_before", ours], ["logits"])
    proto.graph.node[-1].output[0] = "logits_before"
    proto.graph.node.append(own)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array(2, np.float32), ours))
    attached(tmp_path, proto)
    np.testing.assert_allclose(run(tmp_path / "m.cam.onnx", image=pictures)["cam"], 2 * expected, rtol=1e-5)


def test_channels_that_fill_no_block_stay_where_they_are(tmp_path):
    assert not [node for node in attached(tmp_path, residual(8)).graph if node.name.endswith("_blocked")]


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("a = Conv (x, w) s = Add (a, x)", 1),
        ("a = Conv (x, w) s = Add (x, a)", 1),
        ("a = Conv (x, w) b = Conv (x, w) s = Add (a, b)", 0),
        ("a = Conv (x, w) r = HardSigmoid (a) s = Add (r, x)", 0),  # in blocks, but no Conv that a sum could join
        ("a = Conv (x, w) b = Mul (a, a) c = Conv (x, w) s = Add (b, c)", 0),
        ("a = Conv (x, w) b = Mul (a, gate) c = Conv (x, w) s = Add (b, c)", 1),
        ("a = Conv (x, w) r = Relu (a) t = Add (a, x) s = Mul (r, t)", 0),  # something else reads the Conv
        ("a = Conv (x, w) s = Add (a, gate)", 0),  # of another shape
        ("a = Conv (x, w) t = Add (a, x) b = Conv (t, w) s = Add (x, b)", 1),  # once for both sums
        ("a = Conv (x, w) t = Add (a, x) b = Conv (t, w) s = Add (t, b)", 1),  # the first sum is in blocks already
    ],
)
def test_what_is_brought_into_blocks(text, count):
    net = ir.from_proto(
        model(
            f"net (float[N,16,3,5] x, float[N,16,1,1] gate) => (float[N,16,3,5] s) {{ {text} }}",
            w=random(16, 16, 1, 1, seed=0),
        )
    )
    infer_shapes(net)
    blocked_sums(net.graph, list(net.graph))
    assert len([node for node in net.graph if (node.name or "").endswith("_blocked")]) == count
