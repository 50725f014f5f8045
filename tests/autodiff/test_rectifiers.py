"""What guided backpropagation and deconvolution make of ReLU and its kin."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from onnxcam.autodiff import Rectifiers, gradients
from onnxcam.errors import UnsupportedOperatorError
from onnxcam.exporter.shapes import infer_shapes

from .gradient_check import run_onnxruntime

X = np.float32([-7, -2.5, -0.4, 0.3, 1.7, 4.5, 8, -1.2])
DY = np.float32([1, -2, 3, -1, 2, 0.5, 5, -4])


def model(body: str, opset: int = 18, inputs: str = "float[8] x") -> ir.Model:
    """The graph whose output is ``y``."""
    proto = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["" : {opset}, "com.microsoft" : 1]> '
        f"net ({inputs}) => (float[] y) {{ {body} }}"
    )
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    found = ir.from_proto(onnx.shape_inference.infer_shapes(proto, data_prop=True))
    infer_shapes(found)
    return found


def pulled_back(body: str, kind: str | None, dy=DY, *, opset: int = 18, x=X) -> tuple[np.ndarray, int]:
    """What comes back to ``x`` of ``dy``, and at how many rectifiers it was rectified."""
    found = model(body, opset)
    seed = ir.Value(name="dy", type=found.graph.outputs[0].type, shape=found.graph.outputs[0].shape)
    found.graph.inputs.append(seed)
    rectifiers = Rectifiers(kind) if kind else None
    (dx,) = gradients(found, of=found.graph.outputs[0], wrt=[found.graph.inputs[0]], seed=seed, exchange=rectifiers)
    dx.name = "dx"
    found.graph.outputs.append(dx)
    got = run_onnxruntime(ir.to_proto(found))({"x": x, "dy": dy})["dx"]
    return got, len(rectifiers.nodes) if rectifiers else 0


def test_by_hand():
    # x = -2.5 lets nothing through forwards, dy = -1 nothing backwards; at 0.3 and 1.7 x is positive, dy -1 and 2
    x, dy = X[[0, 1, 3, 4]], DY[[0, 1, 3, 4]]
    text = "y = Relu(x)"
    pad = lambda v: np.concatenate([v, v])  # noqa: E731  the graph takes eight
    assert pulled_back(text, None, pad(dy), x=pad(x))[0][:4].tolist() == [0, 0, -1, 2]
    assert pulled_back(text, "guided", pad(dy), x=pad(x))[0][:4].tolist() == [0, 0, 0, 2]
    assert pulled_back(text, "deconvolution", pad(dy), x=pad(x))[0][:4].tolist() == [1, 0, 0, 2]


CONSTANT = "{name} = Constant<value_float={value}>()"


def constants(**values: float) -> str:
    return " ".join(CONSTANT.format(name=name, value=float(value)) for name, value in values.items()) + " "


BIAS = "b = Constant<value = float[8] {0, 0, 0, 0, 0, 0, 0, 0}>() "

KIN = {
    "Relu": "y = Relu(x)",
    "ReLU6": constants(low=0, high=6) + "y = Clip(x, low, high)",
    "Clip from 0": constants(low=0) + "y = Clip(x, low)",
    "Max with 0": constants(zero=0) + "y = Max(zero, x)",
    "LeakyRelu": "y = LeakyRelu<alpha=0.1>(x)",
    "PRelu": "slope = Constant<value_floats=[0.2]>() y = PRelu(x, slope)",
    "ThresholdedRelu": "y = ThresholdedRelu<alpha=1.0>(x)",
    "Elu": "y = Elu(x)",
    "Selu": "y = Selu(x)",
    "Celu": "y = Celu<alpha=2.0>(x)",
    "Softplus": "y = Softplus(x)",
    "HardSwish": "y = HardSwish(x)",
    "Mish": "y = Mish(x)",
    "contrib Gelu": "y = com.microsoft.Gelu(x)",
    "contrib QuickGelu": "y = com.microsoft.QuickGelu(x)",
    "contrib FastGelu": BIAS + "y = com.microsoft.FastGelu(x, b)",
    "contrib BiasGelu": BIAS + "y = com.microsoft.BiasGelu(x, b)",
    "SiLU of two operators": "s = Sigmoid(x) y = Mul(x, s)",
    "QuickGelu of three": constants(k=1.702) + "t = Mul(x, k) s = Sigmoid(t) y = Mul(s, x)",
    "HardSwish of two": "s = HardSigmoid<alpha=0.16666667, beta=0.5>(x) y = Mul(s, x)",
    "HardSwish of four": constants(three=3, low=0, high=6)
    + "a = Add(x, three) c = Clip(a, low, high) m = Mul(x, c) y = Div(m, high)",
    "Mish of three": "p = Softplus(x) t = Tanh(p) y = Mul(x, t)",
    "Gelu, halved first": constants(r=0.70710678, one=1, half=0.5)
    + "h = Mul(x, half) t = Mul(x, r) e = Erf(t) g = Add(e, one) y = Mul(h, g)",
    "Gelu, halved last": constants(r=1.41421356, one=1, half=0.5)
    + "t = Div(x, r) e = Erf(t) g = Add(e, one) m = Mul(x, g) y = Mul(m, half)",
    "Gelu by tanh": constants(c=0.044715, k=0.79788456, one=1, half=0.5, three=3)
    + "p = Pow(x, three) q = Mul(p, c) s = Add(x, q) u = Mul(s, k) t = Tanh(u) g = Add(t, one) "
    "h = Mul(g, half) y = Mul(x, h)",
}


@pytest.mark.parametrize("name", KIN)
def test_a_rectifier_rectifies_what_comes_back(name):
    slope, _ = pulled_back(KIN[name], None, np.ones_like(DY))
    assert np.abs(slope).max() > 0.9
    guided, met = pulled_back(KIN[name], "guided")
    np.testing.assert_allclose(guided, slope * DY.clip(min=0), rtol=1e-5, atol=1e-6)
    assert met == 1
    deconvolution, met = pulled_back(KIN[name], "deconvolution")
    np.testing.assert_allclose(deconvolution, DY.clip(min=0), rtol=1e-5, atol=1e-6)
    assert met == 1


def test_rectifiers_of_newer_operator_sets():
    for text in ("y = Gelu(x)", 'y = Gelu<approximate="tanh">(x)'):
        assert pulled_back(text, "deconvolution", opset=20)[0].tolist() == DY.clip(min=0).tolist()


@pytest.mark.parametrize(
    "text",
    [
        "y = Sigmoid(x)",
        "y = Tanh(x)",
        "y = HardSigmoid(x)",
        constants(low=-1, high=1) + "y = Clip(x, low, high)",
        constants(three=3, low=0, high=6) + "a = Add(x, three) c = Clip(a, low, high) y = Div(c, high)",  # a gate alone
        constants(one=1) + "y = Max(one, x)",
        "t = Tanh(x) y = Mul(x, t)",  # even: it lets large -x through
        "y = Mul(x, x)",
        "e = Exp(x) s = Sigmoid(e) y = Mul(x, s)",  # opens with something else
        "m = ReduceMean<keepdims=1>(x) s = Sigmoid(m) y = Mul(x, s)",  # squeeze and excite
        constants(half=0.5) + "s = Sigmoid(x) y = Mul(s, half)",
    ],
)
def test_what_is_no_rectifier_keeps_its_gradient(text):
    expected, _ = pulled_back(text, None)
    for kind in ("guided", "deconvolution"):
        got, met = pulled_back(text, kind)
        assert met == 0
        np.testing.assert_array_equal(got, expected)


def test_rectifiers_within_functions_and_branches_are_met():
    # FusedConv is its own Conv and Relu; If takes the branch with the Relu, whose gradient stands in a subgraph
    inputs = "float[1,1,2,4] x"
    weights = "w = Constant<value = float[1,1,1,1] {2}>() "
    found = model(weights + 'y = com.microsoft.FusedConv<activation="Relu">(x, w)', inputs=inputs)
    rectifiers = Rectifiers("guided")
    gradients(found, of=found.graph.outputs[0], wrt=[found.graph.inputs[0]], exchange=rectifiers)
    assert [node.op_type for node in rectifiers.nodes] == ["Relu"]
    body = (
        "c = Constant<value = bool {1}>() y = If(c) <"
        "then_branch = a () => (float[8] p) { p = Relu(x) }, else_branch = b () => (float[8] q) { q = Neg(x) }>"
    )
    assert pulled_back(body, "guided")[0].tolist() == pulled_back("y = Relu(x)", "guided")[0].tolist()
    assert pulled_back(body, "guided")[1] == 1


def test_what_has_no_rule_is_named_all_the_same():
    found = model("u = Unique(x) y = Relu(u)")
    with pytest.raises(UnsupportedOperatorError, match="Unique"):
        gradients(found, of=found.graph.outputs[0], wrt=[found.graph.inputs[0]], exchange=Rectifiers("guided"))


def test_an_exchange_that_takes_nothing_changes_nothing():
    graphs = []
    for exchange in (None, lambda at, rule: None):
        found = model(KIN["Gelu by tanh"])
        gradients(found, of=found.graph.outputs[0], wrt=[found.graph.inputs[0]], exchange=exchange)
        graphs.append(ir.to_proto(found).SerializeToString())
    assert graphs[0] == graphs[1]
