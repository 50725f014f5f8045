"""Operators without a rule that are differentiated through their function, and a model's own functions."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from torch.nn import functional

from onnxcam.autodiff import gradients, registry
from onnxcam.errors import UnsupportedOperatorError

from .gradient_check import (
    NEWEST,
    apart,
    case,
    constant,
    each,
    equals_central_difference,
    equals_torch,
    positive,
    run_onnxruntime,
)

attention = functional.scaled_dot_product_attention
MASK = np.array([[True, False, True, True, False], [True, True, True, True, True], [False, True, True, False, True]])
LABELS = np.array([2, 0, 3])
PIXELS = np.array([[2, 0, 1], [1, 1, 0]])
WEIGHTS = constant(np.array([0.5, 1.0, 2.0, 0.25]))


def _merged(x):
    """[N, heads, length, size] as [N, length, heads * size]."""
    return x.transpose(1, 2).flatten(2)


def _split(x, heads):
    """[N, length, heads * size] as [N, heads, length, size]."""
    return x.unflatten(2, (heads, -1)).transpose(1, 2)


def _rotated(x, cos, sin):
    """[N, heads, length, size] with its halves turned by angles [N, length, size / 2]."""
    a, b = x.chunk(2, -1)
    cos, sin = cos[:, None], sin[:, None]
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)


def _causal_convolution(x, w, b):
    return functional.conv1d(functional.pad(x, (w.shape[-1] - 1, 0)), w, b, groups=x.shape[1])


Q, K, V = (2, 3, 3, 4), (2, 3, 5, 4), (2, 3, 5, 7)
SINCE_23 = (23, NEWEST)

CASES = [
    # Attention
    case("Attention(q, k, v)", q=Q, k=K, v=V, opsets=SINCE_23, torch=attention),
    case("Attention(q, k, v)", q=Q, k=K, v=V, opsets=(24, NEWEST), torch=attention),
    case(
        "Attention<is_causal=1>(q, k, v)",
        q=(2, 3, 5, 4),
        k=K,
        v=V,
        opsets=SINCE_23,
        torch=lambda q, k, v: attention(q, k, v, is_causal=True),
    ),
    case(
        "Attention<scale=0.3>(q, k, v)",
        q=Q,
        k=K,
        v=V,
        opsets=SINCE_23,
        torch=lambda q, k, v: attention(q, k, v, scale=0.3),
    ),
    case("Attention(q, k, v, mask)", q=Q, k=K, v=V, mask=(3, 5), opsets=SINCE_23, torch=attention),
    case("Attention(q, k, v, mask)", q=Q, k=K, v=V, mask=(2, 1, 3, 5), opsets=SINCE_23, torch=attention),
    case("Attention(q, k, v, mask)", q=Q, k=K, v=V, mask=MASK, opsets=SINCE_23, torch=attention),
    case(  # two queries share a key
        "Attention(q, k, v)",
        q=(2, 6, 3, 4),
        k=K,
        v=V,
        opsets=SINCE_23,
        torch=lambda q, k, v: attention(q, k, v, enable_gqa=True),
    ),
    case(
        "Attention<q_num_heads=6, kv_num_heads=3>(q, k, v)",
        q=(2, 3, 24),
        k=(2, 5, 12),
        v=(2, 5, 21),
        opsets=SINCE_23,
        static=("q", "k", "v"),  # shape inference takes an unknown head size for 0
        torch=lambda q, k, v: _merged(attention(_split(q, 6), _split(k, 3), _split(v, 3), enable_gqa=True)),
    ),
    case(
        "Attention<softcap=1.5>(q, k, v)",
        q=Q,
        k=K,
        v=V,
        opsets=SINCE_23,
        torch=lambda q, k, v: torch.softmax(1.5 * torch.tanh(q @ k.mT / 2 / 1.5), -1) @ v,
    ),
    case(
        "y, present_k, present_v = Attention(q, k, v, , past_k, past_v)",
        q=Q,
        k=K,
        v=V,
        past_k=(2, 3, 2, 4),
        past_v=(2, 3, 2, 7),
        opsets=SINCE_23,
        torch=lambda q, k, v, past_k, past_v: attention(q, torch.cat([past_k, k], 2), torch.cat([past_v, v], 2)),
    ),
    case("Attention(x, x, x)", x=Q, opsets=SINCE_23, torch=lambda x: attention(x, x, x)),
    # Its neighbours
    case("SwiGLU(a, b)", a=(3, 5), b=(3, 5), opsets=(28, 28)),  # ONNX Runtime has no Swish yet
    # Losses
    *(
        case(
            f'{loss}<reduction="{reduction}">(x, labels)',
            x=(3, 4),
            labels=LABELS,
            torch=lambda x, labels, f=f, reduction=reduction: f(x, labels, reduction=reduction),
        )
        for loss, f in {
            "NegativeLogLikelihoodLoss": functional.nll_loss,
            "SoftmaxCrossEntropyLoss": functional.cross_entropy,
        }.items()
        for reduction in ("mean", "sum", "none")
    ),
    case(
        "SoftmaxCrossEntropyLoss<ignore_index=1>(x, labels, w)",
        x=(2, 4, 3),
        labels=PIXELS,
        w=WEIGHTS,
        torch=lambda x, labels: functional.cross_entropy(
            x, labels, torch.tensor(WEIGHTS.value, dtype=x.dtype), ignore_index=1
        ),
    ),
    case(
        "NegativeLogLikelihoodLoss(x, labels, w)",
        x=(2, 4, 3),
        labels=PIXELS,
        w=positive(4),
        torch=lambda x, labels, w: functional.nll_loss(x, labels, w),
        wrt=("x",),
    ),
    # Reductions
    case("ReduceL1(x)", x=apart(3, 5), torch=lambda x: x.abs().sum().reshape(1, 1)),
    case("ReduceL2<keepdims=0>(x, axes)", x=(2, 3, 5), axes=constant([-1, 0]), torch=lambda x: x.norm(dim=(0, 2))),
    # The inputs that a rule leaves out
    case(
        "Clip(x, low, high)",
        x=apart(3, 5, kinks=(-1.0, 1.5)),
        low=np.array(-1.0),
        high=np.array(1.5),
        torch=torch.clamp,
    ),
]


FLOAT32 = [  # the standard has no float64 of these
    case(
        "RotaryEmbedding(x, cos, sin)",
        x=(2, 3, 5, 4),
        cos=(2, 5, 2),
        sin=(2, 5, 2),
        opsets=SINCE_23,
        torch=_rotated,
    ),
    case(
        "RotaryEmbedding<num_heads=3>(x, cos, sin)",
        x=(2, 5, 12),
        cos=(2, 5, 2),
        sin=(2, 5, 2),
        opsets=SINCE_23,
        torch=lambda x, cos, sin: _merged(_rotated(_split(x, 3), cos, sin)),
    ),
    case(
        "y, state = CausalConvWithState(x, w, b)",
        x=(2, 3, 7),
        w=(3, 1, 4),
        b=(3,),
        opsets=(27, NEWEST),
        static=("w",),
        torch=_causal_convolution,
    ),
]


@each(CASES)
def test_gradient_equals_central_difference(row, setting):
    equals_central_difference(row, setting)


@each(CASES + FLOAT32)
def test_gradient_equals_torch(row, setting):
    equals_torch(row, setting)


# What is left of the forward pass


def _model(text: str) -> tuple[ir.Model, dict[str, ir.Value]]:
    """A model in ONNX's text form with shapes inferred, and its values by name."""
    proto = onnx.parser.parse_model(text)
    model = ir.from_proto(onnx.shape_inference.infer_shapes(proto, check_type=True, data_prop=True))
    values = {value.name: value for value in model.graph.inputs}
    return model, values | {y.name: y for node in model.graph for y in node.outputs}


def _run(model: ir.Model, found: list[ir.Value], **feeds: np.ndarray) -> list[np.ndarray]:
    """The values of ``found`` by ONNX Runtime."""
    for i, value in enumerate(found):
        value.name = f"found{i}"
        model.graph.outputs.append(value)
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    outputs = run_onnxruntime(proto)(feeds)
    return [outputs[value.name] for value in found]


ATTENTION = """
    <ir_version: 10, opset_import: ["" : 23]>
    m (float[2,3,5,4] q, float[2,3,5,4] k, float[2,3,5,4] v) => (float[2,3,5,4] y) {
        a = Neg(q)
        b = Attention<is_causal=1>(a, k, v)
        y = Tanh(b)
    }
"""


def test_the_forward_nodes_stay_as_they_are():
    model, values = _model(ATTENTION)
    before = [ir.to_proto(node) for node in model.graph]
    (da,) = gradients(model, of=values["y"], wrt=[values["a"]])
    assert [ir.to_proto(node) for node in model.graph][: len(before)] == before
    assert da.shape == values["a"].shape


def test_nothing_unread_is_left():
    model, values = _model(ATTENTION)
    (da,) = gradients(model, of=values["y"], wrt=[values["a"]])
    for node in list(model.graph)[3:]:
        assert any(y.uses() or y is da for y in node.outputs), node.op_type
    read = {x for node in model.graph for x in node.inputs}
    assert {x.name for x in model.graph.initializers.values() if x not in read} == set()
    assert [node.op_type for node in model.graph].count("Attention") == 1
    assert [node.op_type for node in model.graph].count("Softmax") == 1, (
        "the weights inside, which the node does not give"
    )


def test_rows_that_are_masked_altogether_have_no_gradient():
    """Their softmax is NaN within the function, which gives 0 in its place."""
    model, values = _model("""
        <ir_version: 10, opset_import: ["" : 23]>
        m (float[1,1,2,3] q, float[1,1,2,3] k, float[1,1,2,3] v, bool[2,2] mask) => (float[1,1,2,3] y) {
            y = Attention(q, k, v, mask)
        }
    """)
    mask = np.array([[False, False], [True, True]])
    q, k, v = np.random.default_rng(0).standard_normal((3, 1, 1, 2, 3)).astype(np.float32)
    found = _run(model, gradients(model, of=values["y"], wrt=[values[n] for n in "qkv"]), q=q, k=k, v=v, mask=mask)
    tensors = [torch.tensor(x, requires_grad=True) for x in (q, k, v)]
    y = attention(tensors[0][:, :, 1:], *tensors[1:])
    for dx, expected in zip(found, torch.autograd.grad(y.sum(), tensors), strict=True):
        np.testing.assert_allclose(dx, expected, rtol=1e-4, atol=1e-6)


# A model's own functions

FUNCTIONS = """
    <ir_version: 10, opset_import: ["" : 18, "own" : 1]>
    m (float[N,3] x, float[3,2] w) => (float[N,2] y) {
        a = Exp(x)
        b, unread = own.Gated<slope = 0.2>(a, w)
        y = Sqrt(b)
    }
    <domain: "own", opset_import: ["" : 18]>
    Leaky<alpha>(z) => (u) {
        u = LeakyRelu<alpha : float = @alpha>(z)
    }
    <domain: "own", opset_import: ["" : 18, "own" : 1]>
    Gated<slope>(a, w) => (b, c) {
        p = MatMul(a, w)
        c = own.Leaky<alpha : float = @slope>(p)
        b = Mul(c, c)
    }
"""


def test_a_models_own_functions_are_differentiated_through():
    model, values = _model(FUNCTIONS)
    values["y"].shape, values["b"].shape = ir.Shape(["N", 2]), ir.Shape(["N", 2])
    values["b"].type = values["y"].type = values["x"].type
    before = [ir.to_proto(node) for node in model.graph]
    found = gradients(model, of=values["y"], wrt=[values["x"], values["w"]])
    nodes = list(model.graph)
    assert [ir.to_proto(node) for node in nodes[: len(before)]] == before, "the calls stay calls"
    assert {node.domain for node in nodes[len(before) :]} == {""}
    assert len(model.functions) == 2
    x, w = np.float32([[0.5, -1, 0.2], [0, 1, -0.5]]), np.float32([[1, -2], [0.5, 1], [-1, 0.3]])
    dx, dw = _run(model, found, x=x, w=w)
    tensors = [torch.tensor(x, requires_grad=True), torch.tensor(w, requires_grad=True)]
    y = functional.leaky_relu(tensors[0].exp() @ tensors[1], 0.2).square().sqrt()
    for got, expected in zip((dx, dw), torch.autograd.grad(y.sum(), tensors), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_what_a_function_cannot_give_is_named():
    model, values = _model("""
        <ir_version: 10, opset_import: ["" : 18, "own" : 1]>
        m (float[3] x) => (float[M] y) { y = own.Distinct(x) }
        <domain: "own", opset_import: ["" : 18]>
        Distinct(x) => (y) { u = Unique(x) y = Exp(u) }
    """)
    with pytest.raises(
        UnsupportedOperatorError, match=r"Unique .* is not differentiated: the number of values depends"
    ):
        gradients(model, of=values["y"], wrt=[values["x"]])


def test_a_refused_operator_is_not_differentiated_through_its_function(monkeypatch):
    monkeypatch.setitem(registry._refused, ("", "SwiGLU"), "so it is said")
    model, values = _model("""
        <ir_version: 10, opset_import: ["" : 28]> m (float[3] a, float[3] b) => (float[3] y) { y = SwiGLU(a, b) }
    """)
    with pytest.raises(UnsupportedOperatorError, match="SwiGLU 'y' is not differentiated: so it is said"):
        gradients(model, of=values["y"], wrt=[values["a"]])
