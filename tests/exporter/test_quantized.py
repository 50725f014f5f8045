from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static

from onnxcam.autodiff import gradients
from onnxcam.exporter.quantized import dequantize_operators
from onnxcam.exporter.scores.table import before_rounding
from onnxcam.exporter.shapes import infer_shapes

RNG = np.random.default_rng(7)

NET = """
<ir_version: 10, opset_import: ["" : 18]>
net (float[N, 3, 15, 18] image) => (float[N, 5] logits) {
    a = Conv<pads=[1, 1, 1, 1], strides=[2, 1]>(image, w0, b0)
    b = Relu(a)
    c = Conv<pads=[1, 1, 1, 1], group=2>(b, w1, b1)
    d = LeakyRelu<alpha=0.25>(c)
    e = Add(d, b)
    f = MaxPool<kernel_shape=[2, 2], strides=[2, 2]>(e)
    g = Conv(f, w2, b2)
    h = Sigmoid(g)
    i = Mul(h, f)
    j = Concat<axis=1>(i, f)
    k = AveragePool<kernel_shape=[2, 2], strides=[2, 2]>(j)
    feature = Conv(k, w3, b3)
    relu = Relu(feature)
    p = GlobalAveragePool(relu)
    q = Flatten(p)
    logits = Gemm<transB=1>(q, w4, b4)
}
"""
WEIGHTS = {"w0": (6, 3, 3, 3), "w1": (6, 3, 3, 3), "w2": (6, 6, 1, 1), "w3": (7, 12, 1, 1), "w4": (5, 7)}
IMAGES = RNG.standard_normal((8, 2, 3, 15, 18)).astype(np.float32)


def _net() -> onnx.ModelProto:
    model = onnx.parser.parse_model(NET)
    for name, shape in WEIGHTS.items():
        weight = RNG.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
        bias = RNG.standard_normal(shape[0]) * 0.1
        for key, value in ((name, weight), (name.replace("w", "b"), bias)):
            model.graph.initializer.append(onnx.numpy_helper.from_array(value.astype(np.float32), key))
    return onnx.shape_inference.infer_shapes(model)


class _Images(CalibrationDataReader):
    def __init__(self) -> None:
        self.feeds = iter({"image": image} for image in IMAGES)

    def get_next(self):
        return next(self.feeds, None)


@pytest.fixture(scope="module")
def nets(tmp_path_factory):
    """The net as it was and in its quantised forms."""
    folder = tmp_path_factory.mktemp("quantized")
    onnx.save(_net(), folder / "plain.onnx")
    for name, form in (("qdq", QuantFormat.QDQ), ("operators", QuantFormat.QOperator)):
        quantize_static(
            folder / "plain.onnx", folder / f"{name}.onnx", _Images(), quant_format=form, per_channel=True,
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
        )  # fmt: skip
    quantize_dynamic(folder / "plain.onnx", folder / "dynamic.onnx", weight_type=QuantType.QUInt8)
    return folder


def _session(model: ir.Model | str, path: str | None = None) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    if path:
        options.optimized_model_filepath = path
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    source = model if isinstance(model, str) else ir.to_proto(model).SerializeToString()
    return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def _load(path) -> ir.Model:
    model = ir.load(path)
    infer_shapes(model)
    return model


def _kernels(model: ir.Model | str, folder) -> Counter:
    """The operators that ONNX Runtime makes of a model."""
    _session(model, str(folder / "kernels.onnx"))
    return Counter(node.op_type for node in onnx.load(folder / "kernels.onnx").graph.node)


def _explained(model: ir.Model) -> tuple[ir.Value, dict[str, np.ndarray]]:
    """The feature map before the pool, and what a session gives: logits, feature map, gradient of class 2."""
    graph = model.graph
    pool = next(node for node in graph if node.op_type == "GlobalAveragePool")
    feature, of = pool.inputs[0], before_rounding(graph.outputs[0])
    seed = ir.Value(name="seed", type=of.type, shape=of.shape)
    graph.inputs.append(seed)
    (gradient,) = gradients(model, of=of, wrt=[feature], seed=seed)
    gradient.name = "gradient"
    feature.name = "feature_map"
    graph.outputs.extend([feature, gradient])
    onnx.checker.check_model(ir.to_proto(model))
    values = _session(model).run(None, {"image": IMAGES[0], "seed": np.eye(5, dtype=np.float32)[[2, 2]]})
    return feature, dict(zip(["logits", "feature", "gradient"], values, strict=True))


def test_operators_are_written_out_and_the_outputs_stay(nets, tmp_path):
    path = str(nets / "operators.onnx")
    model = ir.load(path)
    assert dequantize_operators(model) == 12
    kinds = {(node.domain, node.op_type) for node in model.graph}
    assert {domain for domain, _ in kinds} == {""}
    plain, written = _session(path), _session(model)
    for image in IMAGES:
        (expected,), (found,) = plain.run(None, {"image": image}), written.run(None, {"image": image})
        np.testing.assert_array_equal(found, expected)
    assert _kernels(model, tmp_path) == _kernels(path, tmp_path)
    assert dequantize_operators(model) == 0


def test_each_quantised_value_has_one_real_one(nets):
    model = ir.load(nets / "operators.onnx")
    dequantize_operators(model)
    read = [node.inputs[0] for node in model.graph if node.op_type == "DequantizeLinear"]
    assert len(read) == len(set(read))


def test_a_model_without_such_operators_stays_as_it_is(nets):
    for name in ("plain", "qdq", "dynamic"):
        model = ir.load(nets / f"{name}.onnx")
        before = list(model.graph)
        assert dequantize_operators(model) == 0
        assert list(model.graph) == before


@pytest.mark.parametrize("form", ["qdq", "operators", "dynamic"])
def test_the_explanation_is_that_of_the_plain_model_but_for_rounding(nets, form):
    _, plain = _explained(_load(nets / "plain.onnx"))
    model = _load(nets / f"{form}.onnx")
    dequantize_operators(model)
    _, found = _explained(model)
    expected = _session(str(nets / f"{form}.onnx")).run(None, {"image": IMAGES[0]})[0]
    np.testing.assert_array_equal(found["logits"], expected)
    assert np.corrcoef(found["gradient"].ravel(), plain["gradient"].ravel())[0, 1] > 0.999
    cams = [(values["gradient"].mean((2, 3), keepdims=True) * values["feature"]).sum(1) for values in (plain, found)]
    assert np.corrcoef(cams[0].ravel(), cams[1].ravel())[0, 1] > 0.99


@pytest.mark.parametrize("form", ["qdq", "operators"])
def test_a_gradient_far_back_leaves_the_integer_kernels_whole(nets, tmp_path, form):
    path = nets / f"{form}.onnx"
    model = _load(path)
    dequantize_operators(model)
    graph = model.graph
    target = next(node.outputs[0] for node in graph if node.op_type == "DequantizeLinear" and _on_path(node, 6))
    of = before_rounding(graph.outputs[0])
    seed = ir.Value(name="seed", type=of.type, shape=of.shape)
    graph.inputs.append(seed)
    (gradient,) = gradients(model, of=of, wrt=[target], seed=seed)
    gradient.name = "gradient"
    graph.outputs.append(gradient)
    plain, explained = _kernels(str(path), tmp_path), _kernels(model, tmp_path)
    for kernel in ("QLinearConv", "QLinearAdd", "QLinearMul", "QLinearConcat", "QGemm", "QLinearLeakyRelu"):
        assert explained[kernel] == plain[kernel], kernel
    (expected,) = _session(str(path)).run(None, {"image": IMAGES[0]})
    np.testing.assert_array_equal(_logits(model), expected)


def _logits(model: ir.Model) -> np.ndarray:
    return _session(model).run(["logits"], {"image": IMAGES[0], "seed": np.ones((2, 5), np.float32)})[0]


def _on_path(node: ir.Node, channels: int) -> bool:
    """Whether a DequantizeLinear gives a feature map of so many channels."""
    shape = node.outputs[0].shape
    return shape is not None and len(shape) == 4 and shape[1] == channels and node.inputs[0].const_value is None


def test_the_score_is_that_before_its_rounding(nets):
    for form in ("qdq", "operators"):
        model = _load(nets / f"{form}.onnx")
        dequantize_operators(model)
        before = before_rounding(model.graph.outputs[0])
        assert before.producer().op_type == "Gemm", form
    plain = _load(nets / "plain.onnx").graph.outputs[0]
    assert before_rounding(plain) is plain


def test_shapes_behind_operators_of_onnxruntime():
    text = """<ir_version: 10, opset_import: ["" : 18, "com.microsoft" : 1]>
    net (float[N, 4, 5] x, float[5] s) => (float[] y) {
        a = com.microsoft.Gelu(x)
        b = SimplifiedLayerNormalization(a, s)
        c = com.microsoft.FusedMatMul<transB=1>(b, b)
        y = Transpose(c)
    }"""
    proto = onnx.parser.parse_model(text)
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    model = ir.from_proto(proto)
    infer_shapes(model)
    shapes = [str(node.outputs[0].shape) for node in model.graph]
    assert shapes == ["[N,4,5]", "[N,4,5]", "[N,4,4]", "[4,4,N]"]
    assert {node.outputs[0].dtype for node in model.graph} == {ir.DataType.FLOAT}
    assert [output.name for output in model.graph.outputs] == ["y"]
