from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch

from onnxcam.autodiff import gradients
from onnxcam.errors import UnsupportedOperatorError

from .gradient_check import (
    NEWEST,
    build,
    case,
    constant,
    differentiate,
    each,
    equals_central_difference,
    equals_torch,
    run_onnxruntime,
    run_reference,
)

YES, NO = np.array(True), np.array(False)
BRANCHES = """
    y = If (c) <
        then_branch = g () => (t) { k = Mul(a, a); t = Mul(k, b) },
        else_branch = h () => (e) { f = Exp(a); e = Mul(f, d) }
    >
"""
NESTED = """
    a = Exp(x);
    b = If (outer) <
        then_branch = g () => (t) { t = Mul(a, x) },
        else_branch = h () => (e) {
            f = Neg(x);
            e = If (inner) <
                then_branch = g2 () => (t2) { t2 = Mul(f, x) },
                else_branch = h2 () => (e2) { k2 = Mul(f, a); e2 = Mul(k2, f) }
            >
        }
    >;
    y = Mul(b, a)
"""


def _nested(outer: bool, inner: bool):
    def run(_outer, _inner, x):
        a = torch.exp(x)
        return a * (a * x if outer else -x * x if inner else x * a * x)

    return run


CASES = [
    *(
        case(
            BRANCHES,
            c=c,
            a=(2, 3),
            b=(3,),
            d=(2, 1),
            opsets=opsets,
            torch=lambda c, a, b, d: a * a * b + 0 * d if c else torch.exp(a) * d + 0 * b,
        )
        for c in (YES, NO)
        for opsets in ((18, NEWEST), (19, 21), (23, 24))
    ),
    *(
        case(NESTED, outer=np.array(outer), inner=np.array(inner), x=(3, 5), torch=_nested(outer, inner), wrt=["x"])
        for outer in (True, False)
        for inner in (True, False)
    ),
    case(  # several outputs, one of them an integer and one that does not depend on x
        """
        p, n, q = If (c) <
            then_branch = g () => (tp, tn, tq) { tp = Mul(x, w); tn = Shape(x); tq = Neg(w) },
            else_branch = h () => (ep, en, eq) { ep = Neg(w); en = Shape(w); eq = Mul(w, w) }
        >;
        s = CastLike(n, x); r = ReduceSum(s); k = Mul(p, r); y = Add(k, q)
        """,
        c=YES,
        x=(2, 3),
        w=(2, 3),
        torch=lambda c, x, w: 5 * x * w - w,
    ),
    case(  # weights inside the branch, and a condition that is computed
        """
        m = ReduceMax<keepdims=0>(x); c = Greater(m, zero);
        y = If (c) <
            then_branch = g () => (t) <float[2] w = {2, -3}> { v = CastLike(w, x); t = Mul(x, v) },
            else_branch = h () => (e) { e = Neg(x) }
        >
        """,
        x=(3, 2),
        zero=constant(0.0),
        torch=lambda x: x * torch.tensor([2.0, -3.0]),
    ),
    case(  # an output that is another's value, and the same output twice
        """
        p, q, r = If (c) <
            then_branch = g () => (tp, tq, tr) { tp = Exp(x); tq = Identity(tp); tr = Mul(tp, x) },
            else_branch = h () => (ep, eq, er) { ep = Neg(x); eq = Neg(x); er = Neg(x) }
        >;
        pq = Mul(p, q); y = Mul(pq, r)
        """,
        c=YES,
        x=(3, 2),
        torch=lambda c, x: torch.exp(x) ** 3 * x,
    ),
]


@each(CASES)
def test_gradient_equals_central_difference(row, setting):
    equals_central_difference(row, setting)


@each(CASES)
def test_gradient_equals_torch(row, setting):
    equals_torch(row, setting)


def _values(model: ir.Model) -> dict[str, ir.Value]:
    return {v.name: v for v in [*model.graph.inputs, *(y for node in model.graph for y in node.outputs)]}


def _text(model: ir.Model) -> str:
    return onnx.printer.to_text(ir.to_proto(model))


def test_every_node_inside_that_cannot_be_differentiated_is_named_at_once():
    body = """
        a = Exp(x);
        b = If (outer) <
            then_branch = g () => (t) { k = Floor(a); t = Mul(k, x) },
            else_branch = h () => (e) {
                f = Round(x);
                e = If (inner) <
                    then_branch = g2 () => (t2) { t2 = Mul(f, x) },
                    else_branch = h2 () => (e2) { k2 = Ceil(a); e2 = Mul(k2, f) }
                >
            }
        >;
        y = Det(b)
    """
    model = build(case(body, outer=YES, inner=NO, x=(3, 3)), dtype="float32")
    values, before = _values(model), _text(model)
    users = {name: len(value.uses()) for name, value in values.items()}
    with pytest.raises(UnsupportedOperatorError) as error:
        gradients(model, of=values["b"], wrt=[values["x"]])
    message = str(error.value)
    assert message.startswith("3 node(s)")
    for reason in (
        "Floor 'k' has no derivative rule (in then_branch of If 'b')",
        "Round 'f' has no derivative rule (in else_branch of If 'b')",
        "Ceil 'k2' has no derivative rule (in else_branch of If 'e') (in else_branch of If 'b')",
    ):
        assert reason in message
    assert _text(model) == before, "a refused model is left as it was"
    assert {name: len(value.uses()) for name, value in values.items()} == users


def test_names_are_unique_in_all_graphs_and_the_forward_node_stays():
    row = case(NESTED, outer=YES, inner=NO, x=(3, 5))
    model = build(row)
    forward = _text(model).partition("y = Mul")[0].partition("a = Exp")[2]
    differentiated = ir.from_proto(differentiate(model, ["x"]))
    names = [y.name for node in differentiated.graph.all_nodes() for y in node.outputs]
    names += [x.name for x in (*differentiated.graph.inputs, *differentiated.graph.initializers.values())]
    assert len(names) == len(set(names))
    assert forward in _text(differentiated)


def test_a_gradient_through_branches_can_be_differentiated():
    row = case(NESTED, outer=NO, inner=NO, x=(3, 5))
    model = build(row)
    x, y = _values(model)["x"], model.graph.outputs[0]
    (dx,) = gradients(model, of=y, wrt=[x])
    (dxx,) = gradients(model, of=dx, wrt=[x])
    dxx.name = "dxx"
    model.graph.outputs.append(dxx)
    feeds = {"x": np.random.default_rng(0).standard_normal((3, 5)), "outer": NO, "inner": NO}
    z = torch.tensor(feeds["x"], requires_grad=True)
    (first,) = torch.autograd.grad(_nested(False, False)(NO, NO, z).sum(), z, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), z)
    for run in (run_reference, run_onnxruntime):
        np.testing.assert_allclose(run(ir.to_proto(model))(feeds)["dxx"], second, rtol=0, atol=1e-9)
