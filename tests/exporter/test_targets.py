"""The layer that is taken by itself is the one a person would take."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import onnxcam
from onnxcam.errors import ExportError, LayerError
from onnxcam.exporter.attachment import feature_maps
from onnxcam.exporter.layout import Layout
from onnxcam.exporter.scores.outputs import class_output
from onnxcam.exporter.targets import matters

from .graphs import CNN, CNN_WEIGHTS, cnn, model, save

DEFAULTS = {
    "plain": ("stage", (None, 6, 10, 6), Layout("NCHW")),
    "max": ("pool", (None, 6, 5, 3), Layout("NCHW")),
    "class-token": ("blocks.0", (None, 16, 8), Layout("tokens", 1, (5, 3))),  # before the last attention
    "two-tokens": ("blocks.0", (None, 17, 8), Layout("tokens", 2, (5, 3))),
    "mean": ("norm", (None, 15, 8), Layout("tokens", 0, (5, 3))),
    "windows": (None, (None, 9, 4, 8), Layout("NHWC")),
}


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
@pytest.mark.parametrize("name", DEFAULTS)
def test_the_default_layer_of(exported, tmp_path, name, exporter):
    module, shape, layout = DEFAULTS[name]
    source = exported(name, exporter)
    _, default = feature_maps(source)
    assert (default.module, default.layout) == (module, layout)
    report = onnxcam.attach(source, tmp_path / "m.cam.onnx")
    (layer,) = report.info.layers
    assert (layer.name, layer.shape) == (default.value.name, shape)
    assert report.errors["outputs"] < 1e-5
    assert report.dynamic_batch
    assert onnxcam.verify(report.path).passed


def test_average_pools_are_passed_over_and_max_pools_are_not(tmp_path):
    for pool, wanted in [("AveragePool", "last"), ("MaxPool", "small")]:
        text = CNN.replace("pooled = GlobalAveragePool (last)", f"small = {pool}<kernel_shape=[3,2]> (last)").replace(
            "flat = Flatten (pooled)", "pooled = ReduceMean<keepdims=0> (small, places)\n flat = Identity (pooled)"
        )
        _, default = feature_maps(save(tmp_path / "m.onnx", model(text, places=[2, 3], **CNN_WEIGHTS)))
        assert default.name == wanted


def test_the_last_of_all_where_every_map_can_be_gone_around(tmp_path):
    """Two branches from the picture that meet behind their pools."""
    text = """net (float[N,3,9,7] image) => (float[N,5] logits) {
        a = Conv (image, w1)
        p = GlobalAveragePool (a)
        b = Conv (image, w2)
        q = GlobalAveragePool (b)
        both = Concat<axis=1> (p, q)
        flat = Flatten (both)
        logits = MatMul (flat, fc)
    }"""
    _, default = feature_maps(save(tmp_path / "m.onnx", model(text, w1=(4, 3, 3, 3), w2=(2, 3, 1, 1), fc=(6, 5))))
    assert default.name == "b"


@pytest.mark.parametrize(
    "text",
    [
        "n (float[N,8] x) => (float[N,5] y) { y = Gemm (x, w) }",
        "n (float[N,8,1,1] x) => (float[N,5] y) { f = Flatten (x) y = Gemm (f, w) }",
    ],
)
def test_a_model_without_places_is_refused(tmp_path, text):
    with pytest.raises(LayerError, match=r"no value on the way .* has places that matter"):
        onnxcam.attach(save(tmp_path / "m.onnx", model(text, w=(8, 5))))


def test_a_place_matters_where_its_gradient_is_not_zero():
    gradient = np.zeros((2, 3, 5, 4), np.float32)
    assert not matters(gradient, Layout("NCHW"))
    gradient[1, 2, 4, 0] = -1
    assert not matters(gradient, Layout("NCHW"))
    gradient[1, 0, 4, 1] = 1
    assert matters(gradient, Layout("NCHW"))
    tokens = np.zeros((1, 7, 3), np.float32)
    tokens[0, 0] = 1
    tokens[0, 6] = 1
    assert matters(tokens, Layout("tokens", 0, (7, 1)))
    assert not matters(tokens, Layout("tokens", 1, (3, 2)))


def outputs(*shapes: tuple[str, list, int]) -> ir.Graph:
    values = [onnx.helper.make_tensor_value_info(name, dtype, shape) for name, shape, dtype in shapes]
    nodes = [onnx.helper.make_node("Identity", ["x"], [name]) for name, _, _ in shapes]
    x = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, None)
    return ir.from_proto(onnx.helper.make_graph(nodes, "g", [x], values))


FLOAT, INT64 = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64


def test_the_scores_are_the_only_output_that_is_a_table():
    graph = outputs(
        ("map", ["N", 8, 7, 5], FLOAT),
        ("label", ["N", 1], INT64),
        ("scores", ["N", 9, 1, 1], FLOAT),
        ("mean", ["N"], FLOAT),
    )
    assert class_output(graph).name == "scores"
    assert class_output(graph, "map").name == "map"


def test_several_tables_are_a_question():
    graph = outputs(("main", ["N", 9], FLOAT), ("aux", ["N", 9], FLOAT))
    with pytest.raises(ExportError, match="'main', 'aux': choose one with --output"):
        class_output(graph)
    assert class_output(graph, "aux").name == "aux"
    with pytest.raises(ExportError, match="no output 'mian'; did you mean 'main'"):
        class_output(graph, "mian")
    with pytest.raises(ExportError, match="no output 'zzz'; it has"):
        class_output(graph, "zzz")


def test_a_layer_that_the_score_does_not_depend_on(tmp_path):
    text = CNN.replace("(float[N,5] logits)", "(float[N,5] logits, float[N,4,7,5] side)").replace(
        "logits = Gemm", "side = Sigmoid (first)\n logits = Gemm"
    )
    source = save(tmp_path / "m.onnx", model(text, **CNN_WEIGHTS))
    with pytest.raises(LayerError, match="'side' is not on the way"):
        onnxcam.attach(source, layer="side")
    text = CNN.replace("logits = Gemm", "l = Gemm").replace("\n}", "\n z = Mul (l, zero)\n logits = Add (z, bias)\n}")
    source = save(tmp_path / "m.onnx", model(text, zero=np.float32(0), **CNN_WEIGHTS))
    with pytest.raises(LayerError, match="does not depend on layer 'last': its gradient is zero"):
        onnxcam.attach(source)
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]


@pytest.mark.parametrize(
    ("layer", "layout", "message"),
    [
        ("flat", None, r"'flat' gives \[N, 6\], in which no height and width"),
        ("pooled", None, r"\[N, 6, 1, 1\], in which no height and width"),
        ("pooled", "NCHW", "no spatial extent"),
        ("last", "NHCW", "no layout 'NHCW': write NCHW, NHWC, NCDHW, or tokens:1"),
        ("last", "tokens:1", r"tokens are \[N, T, C\]"),
        ("flat", "NHWC", "has 2 axes, and NHWC 4"),
        (None, "NHWC", "a layout belongs to a layer that is named"),
    ],
)
def test_layers_and_layouts_that_do_not_fit(tmp_path, layer, layout, message):
    source = save(tmp_path / "m.onnx", cnn())
    with pytest.raises(LayerError, match=message):
        onnxcam.attach(source, layer=layer, layout=layout)
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]
