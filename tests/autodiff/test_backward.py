from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from torch.nn import functional

from onnxcam.autodiff import gradients, registry
from onnxcam.errors import AutodiffError, UnsupportedOperatorError

from .gradient_check import build, case, constant, run_onnxruntime, run_reference


def _model(body: str, *inputs: str, opset: int = 18, elem: str = "float") -> tuple[ir.Model, dict[str, ir.Value]]:
    """A model with the output ``y``, and its values by name."""
    proto = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["" : {opset}]> net ({", ".join(inputs)}) => ({elem}[] y) {{ {body} }}'
    )
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    model = ir.from_proto(onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True))
    values = {v.name: v for v in [*model.graph.inputs, *(y for node in model.graph for y in node.outputs)]}
    return model, values


def _run(model: ir.Model, gradient_values: list[ir.Value], run=run_onnxruntime, **feeds) -> list[np.ndarray]:
    for i, value in enumerate(gradient_values):
        value.name = f"gradient_{i}"
        model.graph.outputs.append(value)
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    found = run(proto)({name: np.asarray(x) for name, x in feeds.items()})
    return [found[f"gradient_{i}"] for i in range(len(gradient_values))]


def _f32(*x: float) -> np.ndarray:
    return np.array(x, np.float32)


# The path


def test_only_the_nodes_between_are_differentiated():
    body = "a = Floor(x) b = Exp(a) y = Mul(b, b) side = Floor(b) other = NonZero(side)"
    model, values = _model(body, "float[3] x")
    (da,) = gradients(model, of=values["y"], wrt=[values["a"]])
    (found,) = _run(model, [da], x=_f32(0.0, 1.0, -0.5))
    np.testing.assert_allclose(found, 2 * np.exp([0.0, 2.0, -2.0]), rtol=1e-6)


def test_shapes_and_comparisons_carry_no_gradient():
    body = """
        s = Shape(x) f = Cast<to=1>(s) n = ReduceSum<keepdims=0>(f)
        c = Greater(x, n) k = Cast<to=1>(c) t = Add(x, k) y = Mul(t, x)
    """
    model, values = _model(body, "float[3] x")
    (found,) = _run(model, gradients(model, of=values["y"], wrt=[values["x"]]), x=_f32(1, 2, 5))
    np.testing.assert_allclose(found, [2, 4, 11])


def test_a_value_off_the_path_is_an_error():
    model, values = _model("a = Relu(x) y = Relu(z)", "float[3] x", "float[3] z")
    with pytest.raises(AutodiffError, match="'y' does not depend on 'a': choose a layer on the way"):
        gradients(model, of=values["y"], wrt=[values["a"]])
    with pytest.raises(AutodiffError, match="'y' does not depend on 'a'"):
        gradients(model, of=values["y"], wrt=[values["z"], values["a"]])


def test_the_value_itself_has_the_seed_as_its_gradient():
    model, values = _model("y = Relu(x)", "float[3] x")
    (found,) = _run(model, gradients(model, of=values["y"], wrt=[values["y"]]), x=_f32(1, 2, 5))
    np.testing.assert_array_equal(found, [1, 1, 1])


# Adding up


def test_adjoints_add_up_where_a_value_is_read_often():
    model, values = _model("a = Exp(x) b = Mul(a, x) c = Add(b, a) y = Add(c, x)", "float[2] x")
    (found,) = _run(model, gradients(model, of=values["y"], wrt=[values["x"]]), x=_f32(0.5, -1))
    x = np.array([0.5, -1])
    np.testing.assert_allclose(found, np.exp(x) * (x + 2) + 1, rtol=1e-6)


def test_several_values_one_behind_another():
    model, values = _model("a = Mul(x, x) b = Exp(a) y = Mul(b, w)", "float[2] x", "float[2] w")
    wanted = [values[name] for name in ("b", "x", "w", "a")]
    db, dx, dw, da = _run(model, gradients(model, of=values["y"], wrt=wanted), x=_f32(0.5, -1), w=_f32(2, 3))
    x, w = np.array([0.5, -1]), np.array([2, 3])
    e = np.exp(x * x)
    np.testing.assert_allclose(db, w, rtol=1e-6)
    np.testing.assert_allclose(da, w * e, rtol=1e-6)
    np.testing.assert_allclose(dx, w * e * 2 * x, rtol=1e-6)
    np.testing.assert_allclose(dw, e, rtol=1e-6)


def test_equal_gradients_are_values_of_their_own():
    model, values = _model("y = Add(a, b)", "float[2] a", "float[2] b", "float[2] seed")
    found = gradients(model, of=values["y"], wrt=[values["a"], values["b"], values["a"]], seed=values["seed"])
    assert len({id(value) for value in [*found, values["seed"]]}) == 4
    for gradient in _run(model, found, a=_f32(1, 2), b=_f32(3, 4), seed=_f32(5, 6)):
        np.testing.assert_array_equal(gradient, [5, 6])


def test_a_seed_weighs_the_outputs():
    model, values = _model("y = Mul(x, x)", "float[3] x", "float[3] u")
    dx = gradients(model, of=values["y"], wrt=[values["x"]], seed=values["u"])
    (found,) = _run(model, dx, x=_f32(1, 2, 3), u=_f32(1, 0, -1))
    np.testing.assert_array_equal(found, [2, 0, -6])


def test_a_seed_keeps_its_own_shape():
    model, values = _model("y = Identity(x)", "float[N] x", "float[3] u")
    gradients(model, of=values["y"], wrt=[values["x"]], seed=values["u"])
    assert values["u"].shape == [3]


@pytest.mark.parametrize(("type_", "shape"), [("float[2,3] u", "[2, 3]"), ("double[3] u", "DOUBLE")])
def test_a_seed_of_another_type_or_rank_is_refused(type_, shape):
    model, values = _model("y = Mul(x, x)", "float[3] x", type_)
    with pytest.raises(AutodiffError, match="seed 'u'"):
        gradients(model, of=values["y"], wrt=[values["x"]], seed=values["u"])


@pytest.mark.parametrize("key", ["Tanh(x)", "Identity(x)"])
def test_an_operator_by_its_body_takes_inputs_that_depend_on_each_other_as_given(key):
    text = f"k = {key} y = Attention<q_num_heads=1, kv_num_heads=1>(x, k, x)"
    model, values = _model(text, "float[1,4,6] x", opset=23)
    x = np.random.default_rng(0).standard_normal((1, 4, 6)).astype(np.float32)
    (found,) = _run(model, gradients(model, of=values["y"], wrt=[values["x"]]), x=x)
    q = torch.tensor(x, requires_grad=True)
    y = functional.scaled_dot_product_attention(q, q.tanh() if "Tanh" in key else q, q)
    (expected,) = torch.autograd.grad(y.sum(), q)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


# Broadcast axes


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("float[3,5] a", "float[5] b"),
        ("float[3,5] a", "float[1,5] b"),
        ("float[N,M] a", "float[M] b"),
        ("float[N,M] a", "float[K,M] b"),
        ("float[N,M] a", "float[1,M] b"),
        ("float[?,?] a", "float[?,?] b"),
        ("float[?,?] a", "float[?] b"),
        ("float[3,M] a", "float[K,5] b"),
    ],
)
def test_broadcast_axes_are_summed(a, b):
    model, values = _model("y = Mul(a, b)", a.replace("?", "1"), b.replace("?", "1"))
    if "?" in a:
        for value in values.values():
            value.shape = ir.Shape([None] * len(value.shape))
    da, db = gradients(model, of=values["y"], wrt=[values["a"], values["b"]])
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3, 5)).astype(np.float32)
    z = rng.standard_normal((1, 5)[-len(values["b"].shape) :]).astype(np.float32)
    da, db = _run(model, [da, db], a=x, b=z)
    np.testing.assert_allclose(da, np.broadcast_to(z, (3, 5)), rtol=1e-6)
    np.testing.assert_allclose(db, x.sum(0).reshape(z.shape), rtol=1e-5)


def test_symbolic_axes_of_one_name_are_not_summed():
    model, values = _model("y = Mul(a, b)", "float[N,5] a", "float[N,5] b")
    gradients(model, of=values["y"], wrt=[values["a"], values["b"]])
    assert "ReduceSum" not in {node.op_type for node in model.graph}


def test_an_unknown_rank_is_an_error():
    model, values = _model("y = Mul(a, b)", "float[3] a", "float[3] b")
    values["b"].shape = None
    with pytest.raises(AutodiffError, match="Mul-14 'y': the rank of 'b' is unknown: run shape inference first"):
        gradients(model, of=values["y"], wrt=[values["b"]])


# Refusals


def test_every_node_that_cannot_be_differentiated_is_named_at_once(monkeypatch):
    monkeypatch.delitem(registry._rules, ("", "Tanh"))
    body = (
        "a = Tanh(x) b = Relu(a) t = Constant<value = bool {1}>() c = Dropout(b, , t) "
        "d = Exp(c) m = Constant<value = float {2}>() e = Tanh(d) y = Mul(e, m)"
    )
    model, values = _model(body, "float[3] x")
    before = list(model.graph), dict(model.graph.initializers)
    with pytest.raises(UnsupportedOperatorError) as error:
        gradients(model, of=values["y"], wrt=[values["x"]])
    message = str(error.value)
    start = "3 node(s) between the layer and the score cannot be differentiated: Tanh 'a' has no derivative rule"
    assert message.startswith(start)
    assert "Dropout-13 'c': training_mode" in message
    assert "Tanh 'e' has no derivative rule" in message
    assert "Relu" not in message
    assert (list(model.graph), dict(model.graph.initializers)) == before, "a refused model is left as it was"


def test_a_value_that_a_subgraph_captures_is_on_the_path():
    body = """
        a = Exp(x)
        b = If (c) <
            then_branch = g () => (float[3] t) { t = Mul(a, a) },
            else_branch = h () => (float[3] e) { e = Neg(x) }
        >
        y = Mul(b, a)
    """
    model, values = _model(body, "float[3] x", "bool c")
    wanted = gradients(model, of=values["y"], wrt=[values["a"], values["x"]])
    da, dx = _run(model, wanted, x=_f32(0.5, 1, -1), c=True)
    a = np.exp([0.5, 1, -1])
    np.testing.assert_allclose(da, 3 * a**2, rtol=1e-5)
    np.testing.assert_allclose(dx, 3 * a**3, rtol=1e-5)


def test_a_subgraph_off_the_path_does_not_matter():
    body = """
        b = If (c) <
            then_branch = g () => (float[3] t) { t = Neg(x) },
            else_branch = h () => (float[3] e) { e = Exp(x) }
        >
        a = Exp(x)
        y = Mul(b, a)
    """
    model, values = _model(body, "float[3] x", "bool c")
    (found,) = _run(model, gradients(model, of=values["y"], wrt=[values["a"]]), x=_f32(1, 2, 3), c=True)
    np.testing.assert_array_equal(found, [-1, -2, -3])


# Types, opsets, repetition


def test_twice_on_one_model():
    model, values = _model("a = Mul(x, x) y = Exp(a)", "float[2] x")
    (da,) = gradients(model, of=values["y"], wrt=[values["a"]])
    (dx,) = gradients(model, of=values["y"], wrt=[values["x"]])
    da, dx = _run(model, [da, dx], x=_f32(0.5, -1))
    np.testing.assert_allclose(da, np.exp([0.25, 1]), rtol=1e-6)
    np.testing.assert_allclose(dx, [np.exp(0.25), -2 * np.exp(1)], rtol=1e-6)


def _seed(model: ir.Model, like: ir.Value) -> ir.Value:
    seed = ir.Value(name="u", type=like.type, shape=like.shape)
    model.graph.inputs.append(seed)
    return seed


@pytest.mark.parametrize(
    ("dtype", "run", "tolerance"),
    [("float16", run_onnxruntime, 5e-3), ("float32", run_onnxruntime, 1e-5), ("float64", run_reference, 1e-6)],
)
def test_types(dtype, run, tolerance):
    text = """
        a = Gemm<transB=1>(x, w); b = HardSwish(a); c = LayerNormalization(b, s); d = Sigmoid(c);
        p = Softmax(d); y = ReduceMean<keepdims=0>(p, axes)
    """
    shapes = {"x": (3, 5), "w": (7, 5), "s": (7,)}
    model = build(case(text, **shapes, axes=constant([0])), dtype=dtype)
    values = {value.name: value for value in model.graph.inputs}
    y = model.graph.outputs[0]
    dx, dw = gradients(model, of=y, wrt=[values["x"], values["w"]], seed=_seed(model, y))
    rng = np.random.default_rng(0)
    feeds = {name: rng.standard_normal(shape).astype(dtype) for name, shape in {**shapes, "u": (7,)}.items()}
    found = _run(model, [dx, dw], run, **feeds)
    x, w, s, u = (torch.tensor(value.astype(np.float64), requires_grad=True) for value in feeds.values())
    c = functional.layer_norm(functional.hardswish(x @ w.T), (7,)) * s
    expected = torch.autograd.grad(c.sigmoid().softmax(-1).mean(0), [x, w], u)
    for value, wanted in zip(found, expected, strict=True):
        assert value.dtype == dtype
        np.testing.assert_allclose(value, wanted, rtol=0, atol=tolerance * float(wanted.abs().max()))


def test_a_gradient_can_be_differentiated():
    text = """
        a = Gemm<transB=1>(x, w); b = Tanh(a); c = Mul(b, a); p = Softmax(c); q = Pow(p, three);
        y = ReduceMean<keepdims=0>(q)
    """
    model = build(case(text, x=(3, 5), w=(7, 5), three=constant(3.0)))
    values = {value.name: value for value in model.graph.inputs}
    (dx,) = gradients(model, of=model.graph.outputs[0], wrt=[values["x"]])
    found = gradients(model, of=dx, wrt=[values["x"], values["w"]], seed=_seed(model, dx))
    rng = np.random.default_rng(0)
    feeds = {name: rng.standard_normal(shape) for name, shape in {"x": (3, 5), "w": (7, 5), "u": (3, 5)}.items()}
    x, w, u = (torch.tensor(value, requires_grad=True) for value in feeds.values())
    a = x @ w.T
    (first,) = torch.autograd.grad(((a.tanh() * a).softmax(-1) ** 3).mean(), x, create_graph=True)
    expected = torch.autograd.grad(first, [x, w], u)
    for value, wanted in zip(_run(model, found, run_reference, **feeds), expected, strict=True):
        np.testing.assert_allclose(value, wanted, rtol=0, atol=1e-9)


def test_the_second_derivative_of_abs_is_zero_and_leaves_the_rest():
    model, values = _model("a = Abs(x) y = Mul(a, x)", "float[3] x")
    (dx,) = gradients(model, of=values["y"], wrt=[values["x"]])
    (found,) = _run(model, gradients(model, of=dx, wrt=[values["x"]]), x=_f32(-2, 1, 3))
    np.testing.assert_array_equal(found, [-2, 2, 2])
