"""Any graph is brought to where it can be differentiated, or refused with all that stands against it."""

from __future__ import annotations

import logging

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from onnxcam.errors import ModelSourceError
from onnxcam.exporter import shapes as shape_inference
from onnxcam.exporter.preparation import prepare
from onnxcam.exporter.sessions import cpu_session
from onnxcam.exporter.shapes import infer_shapes

from .graphs import CNN, CNN_WEIGHTS, cnn, model, needs_onnxruntime, random


def prepared(proto: onnx.ModelProto) -> ir.Model:
    read = ir.from_proto(proto)
    prepare(read, "m.onnx")
    return read


def shapes(read: ir.Model) -> dict[str, list]:
    return {
        y.name: [dim if isinstance(dim, int) else dim.value for dim in y.shape]
        for node in read.graph
        for y in node.outputs
    }


def refused(proto: onnx.ModelProto) -> str:
    with pytest.raises(ModelSourceError) as error:
        prepared(proto)
    return str(error.value)


NEW = [pytest.param(opset, marks=needs_onnxruntime(1, 32)) for opset in (25, 28)]


@pytest.mark.parametrize("opset", [7, 8, 9, 11, 13, 15, 17, 18, 19, 21, *NEW])
def test_the_operator_set_is_18_or_the_models_own(opset):
    proto = cnn(opset=opset)
    read = prepared(proto)
    assert read.opset_imports[""] == max(opset, 18)
    image = random(2, 3, 13, 10)
    (got,) = cpu_session(read).run(None, {"image": image})
    (wanted,) = cpu_session(ir.from_proto(proto)).run(None, {"image": image})
    np.testing.assert_allclose(got, wanted, rtol=1e-6)


def test_the_standard_may_go_by_its_long_name():
    proto = cnn()
    proto.opset_import[0].domain = "ai.onnx"
    for node in proto.graph.node:
        node.domain = "ai.onnx"
    read = prepared(proto)
    assert dict(read.opset_imports) == {"": 18}
    assert {node.domain for node in read.graph} == {""}


def test_constants_are_initializers_and_those_are_no_inputs():
    proto = cnn()
    weights = list(proto.graph.initializer)
    for weight in weights[:2]:
        proto.graph.node.insert(0, onnx.helper.make_node("Constant", [], [weight.name], value=weight))
        proto.graph.initializer.remove(weight)
    for weight in weights[2:]:
        proto.graph.input.append(onnx.helper.make_tensor_value_info(weight.name, weight.data_type, weight.dims))
    read = prepared(proto)
    assert [x.name for x in read.graph.inputs] == ["image"]
    assert sorted(read.graph.initializers) == sorted(CNN_WEIGHTS)
    assert "Constant" not in {node.op_type for node in read.graph}


NESTED = """<ir_version: 9, opset_import: ["" : OPSET, "my" : 1]>
net (float[N,3,13,10] image) => (float[N,5] logits) {
  last = my.Block (image, w1, b1, w2)
  pooled = GlobalAveragePool (last)
  flat = Flatten (pooled)
  logits = Gemm <transB=1> (flat, fc, bias)
}
<domain: "my", opset_import: ["" : OPSET, "my" : 1]>
Block (x, w1, b1, w2) => (y) {
  a = my.Start (x, w1, b1)
  b = Conv <pads=[1,1,1,1]> (a, w2)
  two = Constant <value = float {2.0}> ()
  c = Mul (b, two)
  y = Relu (c)
}
<domain: "my", opset_import: ["" : OPSET]>
Start (x, w, b) => (y) {
  c = Conv <strides=[2,2], pads=[1,1,1,1]> (x, w, b)
  y = Relu (c)
}"""


@pytest.mark.parametrize("opset", [15, 18, 21])
def test_functions_within_functions_are_inlined(opset):
    proto = onnx.parser.parse_model(NESTED.replace("OPSET", str(opset)))
    for name, shape in CNN_WEIGHTS.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(random(*shape), name))
    read = prepared(proto)
    assert [node.op_type for node in read.graph] == [
        "Conv",
        "Relu",
        "Conv",
        "Mul",
        "Relu",
        "GlobalAveragePool",
        "Flatten",
        "Gemm",
    ]
    assert not read.functions
    assert shapes(read)["last"] == ["N", 6, 7, 5]


RESHAPED = CNN.replace(
    "flat = Flatten (pooled)",
    """s = Shape (pooled)
  first_ = Slice (s, zero, one, zero)
  to = Concat <axis=0> (first_, rest)
  flat = Reshape (pooled, to)""",
)
RESHAPING = {"zero": [0], "one": [1], "rest": [-1]}


@pytest.mark.parametrize("opset", [10, 13, 18])
def test_sizes_that_go_through_a_calculation_are_known_from_a_run(opset):
    proto = model(RESHAPED, opset=opset, **RESHAPING, **CNN_WEIGHTS)
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    found = shapes(prepared(proto))
    assert found["flat"] == ["N", 6]
    assert found["logits"] == ["N", 5]


def test_sizes_that_differ_between_pictures_stay_open():
    text = CNN.replace("[N,3,13,10]", "[N,3,H,W]")
    found = shapes(prepared(model(text, **CNN_WEIGHTS)))
    assert found["last"][:2] == ["N", 6]
    assert not any(isinstance(dim, int) for dim in found["last"][2:])
    assert found["logits"] == ["N", 5]


def test_no_model_runs_twice_for_the_same_shapes(monkeypatch):
    text = CNN.replace("[N,3,13,10]", "[N,3,H,W]").replace("last = Relu (b)", "last = com.microsoft.QuickGelu (b)")
    read = prepared(model(text, domains={"com.microsoft": 1}, **CNN_WEIGHTS))
    sizes = shapes(read)["last"]
    assert sizes[:2] == ["N", 6]
    assert len(set(sizes)) == 4  # height and width are open, and not taken for the same
    monkeypatch.setattr(shape_inference, "start_session", None)
    infer_shapes(read)
    assert shapes(read)["last"] == sizes


def test_shapes_behind_operators_of_onnxruntime_are_known_from_a_run():
    text = CNN.replace("last = Relu (b)", "last = com.microsoft.QuickGelu (b)")
    read = prepared(model(text, domains={"com.microsoft": 1}, **CNN_WEIGHTS))
    assert shapes(read)["last"] == ["N", 6, 7, 5]
    assert shapes(read)["logits"] == ["N", 5]


def test_a_contradiction_does_not_stop_the_inference_of_others():
    proto = cnn()
    proto.graph.value_info.append(onnx.helper.make_tensor_value_info("first", onnx.TensorProto.FLOAT, ["N", 9, 7]))
    assert shapes(prepared(proto))["last"] == ["N", 6, 7, 5]


def test_all_problems_are_named_at_once():
    text = CNN.replace("first = Relu (a)", "first = foo.Mystery (a)").replace(
        "flat = Flatten (pooled)", "f = foo.Other (pooled)\n flat = Dropout (f, half, yes)"
    )
    proto = model(text, opset=99, domains={"foo": 1}, half=np.float32(0.5), yes=np.array(True), **CNN_WEIGHTS)
    proto.ir_version = 77
    message = refused(proto)
    for part in (
        "operator set 99",
        f"knows up to {onnx.defs.onnx_opset_version()}",
        "IR version 77",
        "foo.Mystery 'first', foo.Other 'f'",
        "training mode: Dropout 'flat'",
        "pip install --upgrade",
    ):
        assert part in message


def test_batch_normalization_in_training_mode_is_refused_and_in_evaluation_mode_is_not():
    text = CNN.replace(
        "last = Relu (b)", "n, m1, v1 = BatchNormalization<training_mode=1>(b, s, s, s, v)\n last = Relu (n)"
    )
    weights = {"s": (6,), "v": np.ones(6, np.float32)} | CNN_WEIGHTS
    assert "training mode: BatchNormalization 'n'" in refused(model(text, **weights))
    text = text.replace("n, m1, v1", "n").replace("training_mode=1", "training_mode=0")
    assert shapes(prepared(model(text, **weights)))["last"] == ["N", 6, 7, 5]


def test_operators_of_a_newer_standard_are_named():
    assert "Mystery 'last'" in refused(model(CNN.replace("last = Relu", "last = Mystery"), **CNN_WEIGHTS))


def test_an_operator_set_that_cannot_be_converted_is_refused():
    scan = "last = Scan <num_scan_inputs=1, body = each (float[6] q) => (float[6] p) { p = Relu (q) }> (b)"
    message = refused(model(CNN.replace("last = Relu (b)", scan), opset=8, **CNN_WEIGHTS))
    assert "uses operator set 8, and onnx cannot convert it to 18: " in message
    assert "adapt_scan_8_9" in message


def test_nothing_is_logged(caplog, capfd):
    proto = cnn(opset=9)
    proto.graph.value_info.append(onnx.helper.make_tensor_value_info("first", onnx.TensorProto.FLOAT, ["N", 9, 7]))
    with caplog.at_level(logging.WARNING):
        prepared(proto)
    assert (caplog.records, capfd.readouterr().err) == ([], "")
