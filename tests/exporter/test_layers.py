"""Feature maps are found under the names that a user knows: of values, nodes and PyTorch modules."""

from __future__ import annotations

import onnx
import onnx_ir as ir
import pytest

from onnxcam.errors import LayerError
from onnxcam.exporter.attachment import feature_maps
from onnxcam.exporter.files import read_model
from onnxcam.exporter.layers import candidates, find_value, module_outputs, on_the_way

from .graphs import CNN, CNN_WEIGHTS, cnn, model, save


def read(proto: onnx.ModelProto) -> ir.Graph:
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto)).graph


def test_a_value_is_found_by_its_name_and_by_that_of_its_node():
    proto = cnn()
    proto.graph.node[3].name = "activation"
    graph = read(proto)
    assert find_value(graph, "last").name == "last"
    assert find_value(graph, "activation").name == "last"
    assert find_value(graph, "image") is graph.inputs[0]


def test_the_name_of_a_value_goes_before_that_of_a_node():
    proto = cnn()
    proto.graph.node[0].name = "last"
    assert find_value(read(proto), "last").producer().op_type == "Relu"


@pytest.mark.parametrize(
    ("name", "hint"),
    [("lst", "did you mean 'last'"), ("LAST", "did you mean 'last'"), ("zzz", "'onnxcam layers' lists")],
)
def test_a_name_that_is_unknown_brings_the_nearest(name, hint):
    with pytest.raises(LayerError, match=f"no value, node or module '{name}'; {hint}"):
        find_value(read(cnn()), name)


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
def test_modules_are_known_by_their_paths(exported, exporter):
    graph = read_model(exported("plain", exporter)).graph
    kinds = {path: find_value(graph, path).producer().op_type for path in ("stem", "stage", "stage.0", "stage.1", "fc")}
    assert kinds == {"stem": "Relu", "stage": "Clip", "stage.0": "Conv", "stage.1": "Clip", "fc": "Gemm"}


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
def test_nested_modules_end_with_their_last_node(exported, exporter):
    graph = read_model(exported("class-token", exporter)).graph
    modules = module_outputs(graph)
    assert modules["blocks"] is modules["blocks.1"]
    assert modules["blocks.0"] is not modules["blocks.1"]
    assert modules["blocks.0"].producer().op_type == "Add"
    assert "blocks.0.mlp.0" in modules


def test_the_path_in_nested_torchscript_names_is_put_together():
    proto = cnn()
    proto.graph.node[3].name = "/outer/outer.inner/act/Relu"
    assert list(module_outputs(read(proto))) == ["outer", "outer.inner", "outer.inner.act"]
    proto.graph.node[3].name = "/blocks/blocks.0/mlp/mlp.1/Relu"
    assert list(module_outputs(read(proto))) == ["blocks", "blocks.0", "blocks.0.mlp", "blocks.0.mlp.1"]
    proto.graph.node[3].name = "somewhere/else/Relu"
    assert list(module_outputs(read(proto))) == []


def test_candidates_lie_on_the_way_with_their_share_of_the_work():
    text = CNN.replace("logits = Gemm", "aside = Conv (first, w3)\n c = Gemm").replace(
        "(flat, fc, bias)", "(flat, fc, bias)\n logits = Relu (c)"
    )
    graph = read(model(text, w3=(2, 4, 1, 1), **CNN_WEIGHTS))
    found = candidates(graph, graph.outputs[0], graph.inputs[0])
    assert [(c.name, c.kind, c.cut) for c in found] == [
        ("a", "Conv", True),
        ("first", "Relu", True),
        ("b", "Conv", True),
        ("last", "Relu", True),
    ]
    shares = [c.share for c in found]
    assert shares == sorted(shares, reverse=True)
    first, second = 4 * 7 * 5 * 27, 6 * 7 * 5 * 36
    assert shares[1] == pytest.approx(second / (first + second + 2 * 7 * 5 * 4), abs=0.05)


def test_what_can_be_gone_around_is_no_cut():
    text = CNN.replace("last = Relu (b)", "d = Conv <pads=[1,1,1,1]> (first, w2)\n last = Add (b, d)")
    graph = read(model(text, **CNN_WEIGHTS))
    found = candidates(graph, graph.outputs[0], graph.inputs[0])
    assert {c.name: c.cut for c in found} == {"a": True, "first": True, "b": False, "d": False, "last": True}


def test_the_way_leads_through_branches():
    """Values that an If reads from outside its branches are on the way."""
    proto = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 18]>
    g (float[N,3,6,5] image, bool yes) => (float[N,3] y) {
        a = Relu (image)
        b = If (yes) <then_branch = t () => (float[N,3,6,5] p) { p = Sigmoid (a) },
                      else_branch = e () => (float[N,3,6,5] q) { q = Tanh (a) }>
        c = GlobalAveragePool (b)
        y = Flatten (c)
    }""")
    graph = read(proto)
    assert [n.op_type for n in on_the_way(graph, graph.outputs[0], graph.inputs[0])] == [
        "Relu",
        "If",
        "GlobalAveragePool",
        "Flatten",
    ]


def test_feature_maps_of_a_file_and_the_default(tmp_path):
    maps, default = feature_maps(save(tmp_path / "m.onnx", cnn()))
    assert [(c.name, c.shape, str(c.layout)) for c in maps] == [
        ("a", (None, 4, 7, 5), "NCHW"),
        ("first", (None, 4, 7, 5), "NCHW"),
        ("b", (None, 6, 7, 5), "NCHW"),
        ("last", (None, 6, 7, 5), "NCHW"),
    ]
    assert default.name == "last"
