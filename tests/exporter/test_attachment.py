"""Any ONNX file becomes an artifact that answers as before and explains in the same pass."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnx.backend.test
import onnxruntime as ort
import pytest
import torch
from onnx import numpy_helper

import onnxcam
from onnxcam.contract import METADATA_KEY, Preprocess
from onnxcam.errors import ExportError, MethodError, ModelSourceError, UnsupportedOperatorError, VerificationError
from onnxcam.exporter import attachment

from .graphs import CNN, CNN_WEIGHTS, cnn, model, needs_onnxruntime, random, run, save
from .networks import Plain, torchscript

LIGHT = sorted((Path(onnx.backend.test.__file__).parent / "data" / "light").glob("*.onnx"))
IMAGE = random(2, 3, 13, 10)


def attach(tmp_path: Path, proto: onnx.ModelProto, **options):
    """The report of attaching to ``proto``, whose file stays as it was, and whose answers stay equal."""
    source = save(tmp_path / "m.onnx", proto)
    before = source.read_bytes()
    report = onnxcam.attach(source, **options)
    assert source.read_bytes() == before
    assert report.path == tmp_path / "m.cam.onnx"
    assert report.errors["outputs"] < 1e-5
    onnx.checker.check_model(onnx.load(report.path), full_check=True)
    return report


def test_the_map_and_the_gradient_are_those_of_the_equation(tmp_path):
    report = attach(tmp_path, cnn(), layer="first")
    got = run(report.path, image=IMAGE, class_index=np.array([3, -2]))
    weights = {w.name: torch.tensor(numpy_helper.to_array(w)) for w in cnn().graph.initializer}
    conv = torch.nn.functional.conv2d
    first = conv(torch.tensor(IMAGE), weights["w1"], weights["b1"], 2, 1).relu().requires_grad_()
    scores = conv(first, weights["w2"], None, 1, 1).relu().mean((2, 3)) @ weights["fc"].T + weights["bias"]
    classes = [3, int(scores[1].detach().argsort()[-2])]
    (gradient,) = torch.autograd.grad(scores[[0, 1], classes].sum(), first)
    cam = (gradient.mean((2, 3), keepdim=True) * first).sum(1).relu()
    assert got["explained_class"].tolist() == classes
    np.testing.assert_allclose(got["logits"], scores.detach(), atol=1e-6)
    np.testing.assert_allclose(got["activations"], first.detach(), atol=1e-6)
    np.testing.assert_allclose(got["gradients"], gradient, atol=1e-8)
    np.testing.assert_allclose(got["cam"], cam.detach(), atol=1e-7)


@pytest.mark.parametrize("path", LIGHT, ids=lambda path: path.stem)
@pytest.mark.timeout(120)
def test_the_old_model_zoo(tmp_path, path):
    """Graphs of 2017: operator sets 6 to 9, initializers among the inputs, scores of [1, 1000] and [1, 1000, 1, 1]."""
    source = Path(shutil.copy(path, tmp_path))
    report = onnxcam.attach(source)
    (layer,) = report.info.layers
    assert layer.layout == "NCHW"
    assert min(layer.shape[2:]) > 4
    assert report.errors["outputs"] < 1e-5
    assert source.read_bytes() == path.read_bytes()
    verified = onnxcam.verify(report.path, directions=1)
    assert verified.passed, verified


@pytest.mark.parametrize("opset", [9, 11, 12, 13, 15, 17])
def test_torchscript_at_operator_set(tmp_path, opset):
    """With a fixed batch of two pictures, each of which has a class of its own."""
    source = torchscript(Plain(), tmp_path / "m.onnx", opset=opset, dynamic_axes=None)
    report = onnxcam.attach(source, layer=["stem", "stage"])
    assert [layer.module for layer in report.info.layers] == ["stem", "stage"]
    assert not report.dynamic_batch
    assert onnxcam.verify(report.path).passed


KERAS = """net (float[unk__1,13,10,3] image) => (float[unk__1,5] probabilities) {
  t = Transpose <perm=[0,3,1,2]> (image)
  c = Conv <strides=[2,2], auto_pad="SAME_UPPER"> (t, w1)
  ct = Transpose <perm=[0,2,3,1]> (c)
  cb = Add (ct, b1)
  r = Relu (cb)
  t2 = Transpose <perm=[0,3,1,2]> (r)
  c2 = Conv <pads=[1,1,1,1]> (t2, w2)
  ct2 = Transpose <perm=[0,2,3,1]> (c2)
  last = Relu (ct2)
  POOL
  scores = MatMul (pooled, fc)
  biased = Add (scores, bias)
  probabilities = Softmax (biased)
}"""
MEAN = "pooled = ReduceMean <axes=[1,2], keepdims=0> (last)"
GLOBAL = "tp = Transpose <perm=[0,3,1,2]> (last)\n g = GlobalAveragePool (tp)\n pooled = Squeeze <axes=[2,3]> (g)"


@pytest.mark.parametrize("opset", [9, 12, 13, 17])
@pytest.mark.parametrize(("pool", "shape"), [(MEAN, (None, 7, 5, 6)), (GLOBAL, (None, 6, 7, 5))])
def test_graphs_as_tf2onnx_makes_them(tmp_path, opset, pool, shape):
    axes = {}
    if opset >= 13 and pool is GLOBAL:
        pool, axes = pool.replace(" <axes=[2,3]> (g)", " (g, axes)"), {"axes": [2, 3]}
    weights = CNN_WEIGHTS | {"fc": (6, 5)} | axes
    report = attach(tmp_path, model(KERAS.replace("POOL", pool), opset=opset, **weights), method=["gradcam", "cam"])
    (layer,) = report.info.layers
    assert layer.shape == shape
    assert report.info.extra["stepped_over"] == "Softmax"
    got = run(report.path, image=random(2, 13, 10, 3))
    assert got["cam"].shape == (2, 7, 5)
    np.testing.assert_allclose(got["cam"] * 35, np.maximum(got["cam.cam"], 0), rtol=1e-4, atol=1e-6)
    assert onnxcam.verify(report.path).passed


PADDLE = """net (float[N,3,15,11] x) => (float[N,5] out) {
  c = Conv <strides=[2,2], pads=[1,1,1,1]> (x, w1)
  n = BatchNormalization <epsilon=0.00001> (c, scale, b1, mean, variance)
  r = Relu (n)
  m = MaxPool <kernel_shape=[3,3], strides=[2,2], CEIL> (r)
  c2 = Conv <pads=[1,1,1,1]> (m, w2)
  last = Relu (c2)
  p = AveragePool <kernel_shape=[2,2], strides=[2,2], CEIL> (last)
  g = GlobalAveragePool (p)
  FLAT
  s = MatMul (f, fc)
  biased = Add (s, bias)
  out = Softmax <axis=1> (biased)
}"""
FLATTEN = "f = Flatten (g)"
SHAPE = "sh = Shape (g)\n s0 = Slice (sh, zero, one, zero)\n to = Concat <axis=0> (s0, rest)\n f = Reshape (g, to)"


@pytest.mark.parametrize(
    ("opset", "flat"),
    [(7, FLATTEN), (9, FLATTEN), (10, SHAPE), (11, FLATTEN), (11, SHAPE)],
)
def test_graphs_as_paddle_makes_them(tmp_path, opset, flat):
    """Weights are Constant nodes, pools round up, and Reshape takes its shape from a calculation."""
    text = PADDLE.replace("FLAT", flat).replace("CEIL", "ceil_mode=1" if opset >= 10 else "pads=[0,0,1,1]")
    weights = {
        **CNN_WEIGHTS,
        "fc": (6, 5),
        "mean": (4,),
        "scale": np.array([1, 2, 0.5, -1], np.float32),
        "variance": np.array([1, 0.5, 2, 0.3], np.float32),
        "zero": [0],
        "one": [1],
        "rest": [-1],
    }
    proto = model(text, opset=opset, **{name: content for name, content in weights.items() if name in text})
    for weight in list(proto.graph.initializer):
        proto.graph.node.insert(0, onnx.helper.make_node("Constant", [], [weight.name], value=weight))
    del proto.graph.initializer[:]
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    report = attach(tmp_path, proto)
    assert report.info.layers[0].name == "last"
    assert onnxcam.verify(report.path).passed


NEW = [pytest.param(opset, marks=needs_onnxruntime(1, 32)) for opset in (25, 28)]


@pytest.mark.parametrize("opset", [7, 13, 18, 19, 21, 22, *NEW])
def test_operator_sets(tmp_path, opset):
    report = attach(tmp_path, cnn(opset=opset))
    assert [o.version for o in onnx.load(report.path).opset_import if not o.domain] == [max(opset, 18)]
    assert onnxcam.verify(report.path).passed


def test_any_batch_height_and_width(tmp_path):
    report = attach(tmp_path, model(CNN.replace("[N,3,13,10]", "[N,3,H,W]"), **CNN_WEIGHTS))
    assert report.info.layers[0].shape == (None, 6, None, None)
    for shape in [(1, 3, 9, 20), (3, 3, 14, 7)]:
        got = run(report.path, image=random(*shape))
        assert got["cam"].shape == (shape[0], (shape[2] + 1) // 2, (shape[3] + 1) // 2)
    assert onnxcam.verify(report.path).passed


def test_several_inputs_and_outputs(tmp_path):
    text = CNN.replace("(float[N,3,13,10] image)", "(float scale, float[N,3,13,10] image, float[N,1,7,5] mask)")
    text = text.replace("(float[N,5] logits)", "(float[N,5] logits, int64[N] label, float[N,6,7,5] map)")
    scaled = "c = Mul (b, scale)\n d = Mul (c, mask)\n last = Relu (d)\n map = Sigmoid (last)"
    text = text.replace("last = Relu (b)", scaled)
    text = text.replace("\n}", "\n label = ArgMax <axis=1, keepdims=0> (logits)\n}")
    report = attach(tmp_path, model(text, **CNN_WEIGHTS))
    feed = {"image": IMAGE, "scale": np.array(2, np.float32), "mask": np.ones((2, 1, 7, 5), np.float32)}
    got, plain = run(report.path, **feed), run(tmp_path / "m.onnx", **feed)
    assert list(got)[:3] == list(plain) == ["logits", "label", "map"]
    for name, wanted in plain.items():
        np.testing.assert_allclose(got[name], wanted, rtol=1e-6)
    assert onnxcam.verify(report.path).passed


def test_outputs_that_are_not_finite_or_no_numbers_are_compared_too(tmp_path):
    text = CNN.replace("(float[N,5] logits)", "(float[N,5] logits, float[N,5] log, string[N,5] names)")
    more = [
        "n = Neg (logits)",
        "r = Relu (n)",
        "log = Log (r)",
        "whole = Cast <to=7> (r)",
        "names = Cast <to=8> (whole)",
    ]
    text = text.replace("\n}", "\n ".join(["", *more, "}"]))
    report = attach(tmp_path, model(text, **CNN_WEIGHTS), output="logits")
    assert np.isinf(run(report.path, image=IMAGE)["log"]).any()


def half(proto: onnx.ModelProto, *, inputs: bool) -> onnx.ModelProto:
    for weight in proto.graph.initializer:
        array = numpy_helper.to_array(weight)
        if array.dtype == np.float32:
            weight.CopyFrom(numpy_helper.from_array(array.astype(np.float16), weight.name))
    for value in (*proto.graph.input, *proto.graph.output) if inputs else ():
        value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    return proto


def test_a_model_in_half_precision(tmp_path):
    source = save(tmp_path / "m.onnx", half(cnn(), inputs=True))
    path = onnxcam.attach(source).path
    got = run(path, image=IMAGE.astype(np.float16))
    assert {name: str(got[name].dtype) for name in ("logits", "cam", "gradients")} == {
        "logits": "float16",
        "cam": "float32",
        "gradients": "float16",
    }
    wide = run(attach(tmp_path, cnn()).path, image=IMAGE)
    np.testing.assert_allclose(got["gradients"], wide["gradients"], rtol=3e-3, atol=1e-6)
    np.testing.assert_allclose(got["cam"], wide["cam"], rtol=2e-2, atol=1e-4)


@pytest.mark.parametrize("dtype", [onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16])
def test_weights_in_half_precision_behind_casts(tmp_path, dtype):
    proto = cnn()
    for weight in proto.graph.initializer:
        array = numpy_helper.to_array(weight)
        stored = onnx.helper.make_tensor(f"{weight.name}.half", dtype, array.shape, array.reshape(-1))
        proto.graph.node.insert(0, onnx.helper.make_node("Cast", [stored.name], [weight.name], to=1))
        weight.CopyFrom(stored)
    report = attach(tmp_path, proto, method=["gradcam", "cam"])
    got = run(report.path, image=IMAGE)
    np.testing.assert_allclose(got["cam"] * 35, np.maximum(got["cam.cam"], 0), rtol=1e-4, atol=1e-6)
    assert not any(node.op_type == "OneHot" for node in onnx.load(report.path).graph.node), "one row of the weights"
    assert onnxcam.verify(report.path).passed


def test_what_onnxruntime_cannot_run_is_said_of_the_model_not_of_the_explanation(tmp_path):
    proto = cnn()
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    for weight in proto.graph.initializer:
        weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight).astype(np.float64), weight.name))
    with pytest.raises(ExportError, match=r"cannot run '.*' here, explained or not"):
        onnxcam.attach(save(tmp_path / "m.onnx", proto))


LAST = "logits = Gemm <transB=1> (flat, fc, bias)\n}"


@pytest.mark.parametrize(
    ("tail", "operator", "activation"),
    [
        ("logits = Softmax (l)", "Softmax", "identity"),
        ("s = Softmax (l)\n logits = Flatten (s)", "Softmax", "identity"),
        ("s = Softmax (l)\n logits = Reshape (s, [-1])", "Softmax", "identity"),
        ("s = Softmax <axis=1> (l)\n logits = Identity (s)", "Softmax", "identity"),
        ("logits = LogSoftmax (l)", "LogSoftmax", "softmax"),
        ("logits = Sigmoid (l)", "Sigmoid", "identity"),
        ("logits = Identity (l)", None, "softmax"),
    ],
)
def test_the_score_is_before_the_last_squashing(tmp_path, tail, operator, activation):
    text = CNN.replace(LAST, f"l = Gemm <transB=1> (flat, fc, bias)\n {tail.replace('[-1]', 'shape')}\n}}")
    shape = {"shape": [-1, 5]} if "shape" in text else {}
    report = attach(tmp_path, model(text, **shape, **CNN_WEIGHTS))
    assert report.info.extra.get("stepped_over") == operator
    assert report.info.score.activation == activation
    bare = tmp_path / "bare"
    bare.mkdir()
    wanted = run(attach(bare, cnn()).path, image=IMAGE)
    np.testing.assert_allclose(run(report.path, image=IMAGE)["gradients"], wanted["gradients"], atol=1e-8)


GAP = "g = GlobalAveragePool (last)\n"
FLAT = f"{GAP} f = Flatten (g)\n"
HEADS = {  # shape of the output, nodes, and shape of the weights
    "squeezenet": ("float[N,6,1,1]", f"{GAP} logits = Softmax <axis=1> (g)", None),
    "flat": ("float[N,6]", f"{FLAT} logits = Softmax (f)", None),
    "densenet": ("float[N,5,1,1]", f"{GAP} logits = Conv (g, fc, bias)", (5, 6, 1, 1)),
    "mobilenet": ("float[N,5]", f"{GAP} c = Conv (g, fc, bias)\n f = Flatten (c)\n logits = Softmax (f)", (5, 6, 1, 1)),
    "gemm": ("float[N,5]", f"{FLAT} logits = Gemm (f, fc, bias)", (6, 5)),
    "scaled": ("float[N,5]", f"{FLAT} logits = Gemm <alpha=0.5> (f, fc)", (6, 5)),
    "whole": (
        "float[N,5]",
        "g = AveragePool <kernel_shape=[7,5]> (last)\n f = Flatten (g)\n logits = MatMul (f, fc)",
        (6, 5),
    ),
    "mean": (
        "float[N,5]",
        "g = ReduceMean <keepdims=0> (last, places)\n m = MatMul (g, fc)\n logits = Add (bias, m)",
        (6, 5),
    ),
    "dropout": (
        "float[N,5]",
        f"d = Dropout (last)\n {FLAT.replace('last', 'd')} i = Dropout (f)\n logits = MatMul (i, fc)",
        (6, 5),
    ),
}


@pytest.mark.parametrize("name", HEADS)
def test_class_activation_maps_of_every_classic_head(tmp_path, name):
    output, head, weight = HEADS[name]
    text = CNN.partition("pooled")[0].replace("float[N,5]", output) + head + "\n}"
    weights = CNN_WEIGHTS | {"fc": weight, "places": [-1, -2]}
    report = attach(
        tmp_path,
        model(text, **{k: v for k, v in weights.items() if k in text}),
        method=["cam", "gradcam"],
        layer="last",
    )
    got = run(report.path, image=IMAGE, class_index=np.array([4, 1]))
    A = got["activations"]
    if weight is None:
        wanted = A[[0, 1], [4, 1]]
    else:
        (fc,) = [w for w in onnx.load(tmp_path / "m.onnx").graph.initializer if w.name == "fc"]
        W = numpy_helper.to_array(fc)
        W = W.reshape(5, 6) if len(W) == 5 else W.T
        wanted = np.einsum("nc,nchw->nhw", W[[4, 1]] * (0.5 if name == "scaled" else 1), A)
    np.testing.assert_allclose(got["cam"], wanted, atol=1e-6)
    np.testing.assert_allclose(got["cam.gradcam"] * 35, np.maximum(wanted, 0), rtol=1e-4, atol=1e-6)
    assert onnxcam.verify(report.path, directions=1).passed


def test_a_single_class(tmp_path):
    text = CNN.replace("float[N,5]", "float[N,1]").replace(LAST, "l = Gemm <transB=1> (flat, fc, bias)\n LOGITS\n}")
    text = text.replace("LOGITS", "logits = Sigmoid (l)")
    report = attach(tmp_path, model(text, **(CNN_WEIGHTS | {"fc": (1, 6), "bias": (1,)})))
    got = run(report.path, image=IMAGE)
    assert got["explained_class"].tolist() == [0, 0]
    assert report.info.score.classes == 1


def test_cam_on_another_head_is_refused(tmp_path):
    text = CNN.replace("GlobalAveragePool", "GlobalMaxPool")
    with pytest.raises(MethodError, match=r"global average pooling .* GlobalMaxPool"):
        onnxcam.attach(save(tmp_path / "m.onnx", model(text, **CNN_WEIGHTS)), method="cam")


def test_operators_of_onnxruntime_beside_the_way_are_left_alone(tmp_path):
    text = CNN.replace("(float[N,5] logits)", "(float[N,5] logits, float[N,4,7,5] side)")
    text = text.replace("b = Conv", "side = com.microsoft.QuickGelu (first)\n b = Conv")
    source = save(tmp_path / "m.onnx", model(text, domains={"com.microsoft": 1}, **CNN_WEIGHTS))
    report = onnxcam.attach(source, layer="first")
    assert onnxcam.verify(report.path).passed
    np.testing.assert_allclose(run(report.path, image=IMAGE)["side"], run(source, image=IMAGE)["side"], rtol=1e-6)


def test_operators_of_an_unknown_domain_beside_the_way_are_left_alone(tmp_path):
    text = CNN.replace("(float[N,5] logits)", "(float[N,5] logits, float[N,4,7,5] side)")
    text = text.replace("b = Conv", "side = shop.Blur (first)\n b = Conv")
    source = save(tmp_path / "m.onnx", model(text, domains={"shop": 1}, **CNN_WEIGHTS))
    report = onnxcam.attach(source, output="logits")
    assert onnxcam.verify(report.path).passed
    written = onnx.load(report.path)
    assert [node.output[0] for node in written.graph.node if node.domain == "shop"] == ["side"]
    with pytest.raises(ModelSourceError, match=r"operators that ONNX Runtime does not have: shop.Blur 'side'"):
        onnxcam.attach(source, output="side", path=tmp_path / "side.cam.onnx")


def test_operators_on_the_way_that_have_no_rule_are_named_together(tmp_path):
    text = CNN.replace("first = Relu (a)", "first = com.microsoft.Unheard (a)")
    text = text.replace("last = Relu (b)", "c = com.microsoft.Unheard (b)\n last = Relu (c)")
    proto = model(text, domains={"com.microsoft": 1}, **CNN_WEIGHTS)
    for name, shape in [("first", ["N", 4, 7, 5]), ("c", ["N", 6, 7, 5])]:
        proto.graph.value_info.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape))
    with pytest.raises(UnsupportedOperatorError, match=r"2 node\(s\) .* 'first' .*; .* 'c' "):
        onnxcam.attach(save(tmp_path / "m.onnx", proto), layer="a")
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]


@pytest.mark.parametrize("name", ["cam", "activations", "gradients", "explained_class", "class_index"])
def test_names_that_the_artifact_needs(tmp_path, name):
    proto = cnn()
    proto.graph.output[0].name = proto.graph.node[-1].output[0] = name
    with pytest.raises(ExportError, match=f"called '{name}', which the artifact needs"):
        onnxcam.attach(save(tmp_path / "m.onnx", proto))
    proto = cnn()
    proto.graph.input[0].name = proto.graph.node[0].input[0] = name
    with pytest.raises(ExportError, match=f"called '{name}', which the artifact needs"):
        onnxcam.attach(save(tmp_path / "m.onnx", proto))
    proto = cnn()  # within the graph the name may be had
    proto.graph.node[1].output[0] = proto.graph.node[2].input[0] = name
    got = run(attach(tmp_path, proto).path, image=IMAGE)
    assert list(got) == ["logits", "cam", "activations", "gradients", "explained_class"]


def test_only_names_that_are_needed_are_refused(tmp_path):
    proto = cnn()
    proto.graph.output[0].name = proto.graph.node[-1].output[0] = "cam.1"
    attach(tmp_path, proto)
    with pytest.raises(ExportError, match=r"called 'cam\.1'"):
        onnxcam.attach(tmp_path / "m.onnx", layer=["first", "last"])


def graph_of(path: Path) -> bytes:
    proto = onnx.load(path)
    del proto.metadata_props[:]
    return proto.graph.SerializeToString(deterministic=True)


def test_an_artifact_says_that_it_is_one_and_can_be_renewed(tmp_path):
    preprocess = Preprocess(height=13, width=10, mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 3.0))
    path = attach(tmp_path, cnn(), preprocess=preprocess, labels=list("abcde"), license="MIT").path
    with pytest.raises(ExportError, match="artifact already: it explains 'last' by gradcam; renew it with --replace"):
        onnxcam.attach(path)
    first = onnxcam.attach(path, replace=True)
    assert first.path == path
    once = graph_of(path)
    again = onnxcam.attach(path, replace=True)
    assert graph_of(path) == once
    assert (again.info.preprocess, again.info.labels, again.info.license) == (preprocess, tuple("abcde"), "MIT")
    assert again.info.source == "m.onnx"
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    wanted = run(attach(fresh, cnn(), layer="first", method="gradcam").path, image=IMAGE)
    other = onnxcam.attach(path, replace=True, layer="first", outputs="cam")
    got = run(other.path, image=IMAGE)
    assert list(got) == ["logits", "cam", "explained_class"]
    np.testing.assert_array_equal(got["cam"], wanted["cam"])


def test_renewing_goes_into_the_same_file_whatever_its_name(tmp_path):
    path = attach(tmp_path, cnn()).path.rename(tmp_path / "explained.onnx")
    assert onnxcam.attach(path, replace=True, layer="first").path == path
    assert sorted(p.name for p in tmp_path.iterdir()) == ["explained.onnx", "m.onnx"]


def test_artifacts_of_pytorch_models_can_be_renewed(tmp_path):
    net = Plain().eval()
    example = torch.randn(2, 3, 20, 12)
    path = onnxcam.export(net, example, tmp_path / "n.cam.onnx", layer="stage").path
    before = run(path, image=example.numpy())
    report = onnxcam.attach(path, replace=True, layer="stage")
    after = run(path, image=example.numpy())
    assert report.info.layers[0].module == "stage"
    for name, array in before.items():
        np.testing.assert_allclose(after[name], array, rtol=1e-5, atol=1e-7)
    onnxcam.attach(path, replace=True, layer="stem")
    assert onnxcam.verify(path).passed


def test_the_model_that_ships_can_be_renewed(tmp_path):
    shipped = Path(__file__).parents[2] / "models" / "efficientnet_lite0.cam.onnx"
    path = Path(shutil.copy(shipped, tmp_path))
    report = onnxcam.attach(path, replace=True, layer="blocks.5")
    assert report.info.layers[0].shape[1:] == (192, 7, 7)
    assert report.info.labels is not None
    assert path.stat().st_size < shipped.stat().st_size * 1.01
    once = graph_of(path)
    onnxcam.attach(path, replace=True, layer="blocks.5")
    assert graph_of(path) == once


def test_the_source_is_never_written_over(tmp_path):
    source = save(tmp_path / "m.onnx", cnn())
    os.link(source, tmp_path / "same.onnx")
    for path in (source, tmp_path / "same.onnx"):
        with pytest.raises(ExportError, match="is the source, which is never changed"):
            onnxcam.attach(source, path)


def test_answers_that_would_change_are_never_written(tmp_path, monkeypatch):
    monkeypatch.setattr(attachment, "relative_error", lambda *_: 0.02)
    with pytest.raises(VerificationError, match=r"would change by 2\.0e-02"):
        onnxcam.attach(save(tmp_path / "m.onnx", cnn()))
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]


def test_the_metadata_say_what_was_found(tmp_path):
    path = attach(tmp_path, cnn(), license="MIT").path
    (text,) = [p.value for p in onnx.load(path).metadata_props if p.key == METADATA_KEY]
    info = json.loads(text)
    assert info["source"] == "m.onnx"
    assert info["license"] == "MIT"
    assert info["score"] == {
        "kind": "class",
        "output": "logits",
        "activation": "softmax",
        "classes": 5,
        "explained": 1,
        "boxes": None,
    }
    assert info["layers"][0]["shape"] == [None, 6, 7, 5]
    assert info["nodes"]["forward"] == 7
    inputs = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"]).get_overridable_initializers()
    assert [x.name for x in inputs] == ["class_index"]


def test_the_picture_itself_can_be_a_target(tmp_path):
    report = attach(tmp_path, cnn(), layer=["image", "last"])
    got = run(report.path, image=IMAGE)
    assert got["cam"].shape == (2, 13, 10)
    np.testing.assert_array_equal(got["activations"], IMAGE)
    assert onnxcam.verify(report.path).passed
    once = graph_of(report.path)
    onnxcam.attach(report.path, replace=True, layer=["image", "last"])
    assert graph_of(report.path) == once


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_no_numbers_are_named(tmp_path, value):
    weights = random(6, 4, 3, 3)
    weights[2, 1, 0, 0] = value
    with pytest.raises(VerificationError, match=r"the gradient at layer 'first' holds NaN .* the weight 'w2'"):
        attach(tmp_path, cnn(w2=weights), layer="first")
    assert not [*tmp_path.glob("*.cam.onnx*")]
