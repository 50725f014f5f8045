from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch

from onnxcam.autodiff import gradients, registry
from onnxcam.errors import UnsupportedOperatorError

from .gradient_check import (
    NEWEST,
    build,
    case,
    constant,
    differentiate,
    draw,
    each,
    equals_central_difference,
    equals_torch,
    run_onnxruntime,
    run_reference,
    uniform,
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

RECURRENCE = """
    h, ys = Scan <num_scan_inputs=1, body = step (s, x_t) => (s_next, y_t) {
        p = Mul(s, w); q = Mul(x_t, v); a = Add(p, q); s_next = Tanh(a); y_t = Mul(s_next, x_t)
    }> (s0, x);
    k = ReduceSum<keepdims=0>(h); y = Mul(ys, k)
"""
SIDES = """
    h, ys, n = Scan <
        num_scan_inputs=2, scan_input_axes=[1, -1], scan_input_directions=[1, 0],
        scan_output_axes=[1, 0], scan_output_directions=[0, 1],
        body = step (s, x_t, z_t) => (s_next, y_t, n_t) {
            a = Mul(x_t, z_t); b = Mul(s, w); c = Add(a, b); s_next = Tanh(c); y_t = Mul(s, s_next); n_t = Exp(s_next)
        }
    > (s0, x, z);
    m = ReduceSum<keepdims=0>(h); t = Transpose(n); u = Mul(ys, m); v = Exp(u); y = Mul(v, t)
"""


def _recurrence(s, x, w, v):
    ys = []
    for x_t in x:
        s = torch.tanh(s * w + x_t * v)
        ys.append(s * x_t)
    return torch.stack(ys) * s.sum()


def _sides(s, x, z, w):
    ys, n = [], []
    for t in range(x.shape[1]):
        after = torch.tanh(x[:, -1 - t] * z[:, t] + s * w)
        ys.append(s * after)
        n.insert(0, torch.exp(after))
        s = after
    return torch.exp(torch.stack(ys, 1) * s.sum()) * torch.stack(n).T


CASES += [
    *(
        case(RECURRENCE, s0=(3,), x=(4, 3), w=(3,), v=(1,), opsets=opsets, torch=_recurrence)
        for opsets in ((18, NEWEST), (19, 21), (23, 24))
    ),
    case(RECURRENCE, s0=(2, 3), x=(1, 2, 3), w=(2, 1), v=(3,), torch=_recurrence),
    case(  # no state
        "y = Scan<num_scan_inputs=1, body = step (x_t) => (y_t) { y_t = Mul(x_t, w) }>(x)",
        x=(4, 3),
        w=(3,),
        torch=torch.mul,
    ),
    case(  # a state that is only handed on, one that is an integer, and the last states alone
        """
        h, i, k, ys = Scan <num_scan_inputs=1, body = step (s, n, c, x_t) => (s_next, n_next, c_next, y_t) {
            m = CastLike(n, s); t = Mul(s, x_t); r = Mul(t, m); s_next = Add(r, c); n_next = Add(n, one);
            c_next = Identity(c); y_t = Identity(s)
        }> (s0, n0, c0, x);
        y = Mul(h, k)
        """,
        s0=(3,),
        n0=constant(1),
        c0=(3,),
        x=(4, 3),
        one=constant(1),
        torch=lambda s, c, x: c * ((((s * x[0] + c) * x[1] * 2 + c) * x[2] * 3 + c) * x[3] * 4 + c),
    ),
    # onnx's reference evaluator scans the first axis only, forward
    case(SIDES, s0=(2,), x=(2, 4), z=(2, 4), w=(2,), torch=_sides, float64="onnxruntime"),
    case(  # one Scan in another
        """
        h, ys = Scan <num_scan_inputs=1, body = step (s, row) => (s_next, y_t) {
            g, zs = Scan <num_scan_inputs=1, body = inner (r, e) => (r_next, z_t) {
                a = Mul(r, e); r_next = Add(a, w); z_t = Mul(r_next, s)
            }> (s, row);
            s_next = Tanh(g); y_t = ReduceSum<keepdims=0>(zs)
        }> (s0, x);
        y = Mul(ys, h)
        """,
        s0=(),
        x=(2, 3),
        w=(),
        torch=lambda s, x, w: _scan_in_scan(s, x, w),
    ),
]


def _scan_in_scan(s, x, w):
    ys = []
    for row in x:
        r, zs = s, 0
        for e in row:
            r = r * e + w
            zs = zs + r * s
        s = torch.tanh(r)
        ys.append(zs)
    return torch.stack(ys) * s


COUNTED = """
    h, ys = Loop (trips, , s0) <body = step (int64 i, bool go, $T[3] s) => (bool on, $T[3] s_next, $T[3] y_t) {
        on = Identity(go);
        f = CastLike(i, s); x_t = Gather(x, i); a = Mul(s, w); b = Add(a, x_t); c = Add(b, f); s_next = Tanh(c);
        y_t = Mul(s_next, s)
    }>;
    k = ReduceSum<keepdims=0>(ys); t = Exp(k); v = Reshape(h, shape); y = Mul(v, t)
"""
UNTIL = """
    n, h = Loop (, start, n0, s0) <
        body = step (int64 i, bool go, $T[2] n, $T[2] s) => (bool on, $T[2] n_next, $T[2] s_next) {
            s_next = Mul(s, w); n_next = Add(n, s_next); m = ReduceMax<keepdims=0>(n_next); on = Less(m, limit)
        }
    >;
    p = Reshape(n, shape); q = Reshape(h, shape); y = Mul(p, q)
"""


def _counted(count: int):
    def run(_, s, w, x):
        k = 0
        for i in range(count):
            after = torch.tanh(s * w + x[i] + i)
            k = k + (after * s).sum()
            s = after
        return s * torch.exp(torch.as_tensor(k)) + 0 * w.sum() + 0 * x.sum()

    return run


# onnx's reference evaluator joins what a Loop stacks along an axis that is there already; and onnx's shape inference
# leaves the shape of a state open, which an exporter knows
CASES += [
    *(
        case(
            COUNTED,
            trips=np.array(trips),
            s0=(3,),
            w=(3,),
            x=(5, 3),
            shape=constant([3]),
            opsets=opsets,
            torch=_counted(trips),
            float64="onnxruntime",
        )
        for trips, opsets in ((4, (18, NEWEST)), (1, (19, 21)), (3, (23, 24)), (0, (18, NEWEST)))
    ),
    case(  # as often as the values say: 1 + 2 + 4 + 8 + 16 < 40
        UNTIL,
        start=YES,
        n0=uniform(0.9, 1.1, 2),
        s0=uniform(0.9, 1.1, 2),
        w=uniform(1.9, 2.1, 2),
        limit=constant(40.0),
        shape=constant([2]),
        torch=lambda go, n, s, w: (n + s * (w + w**2 + w**3 + w**4 + w**5)) * s * w**5,
        float64="onnxruntime",
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


def test_every_node_inside_that_cannot_be_differentiated_is_named_at_once(monkeypatch):
    for op_type in ("Tanh", "Sin", "Cos"):
        monkeypatch.delitem(registry._rules, ("", op_type))
    body = """
        a = Exp(x);
        b = If (outer) <
            then_branch = g () => (t) { k = Tanh(a); t = Mul(k, x) },
            else_branch = h () => (e) {
                f = Sin(x);
                e = If (inner) <
                    then_branch = g2 () => (t2) { t2 = Mul(f, x) },
                    else_branch = h2 () => (e2) { k2 = Cos(a); e2 = Mul(k2, f) }
                >
            }
        >;
        y = Neg(b)
    """
    model = build(case(body, outer=YES, inner=NO, x=(3, 3)), dtype="float32")
    values, before = _values(model), _text(model)
    users = {name: len(value.uses()) for name, value in values.items()}
    with pytest.raises(UnsupportedOperatorError) as error:
        gradients(model, of=values["b"], wrt=[values["x"]])
    message = str(error.value)
    assert message.startswith("3 node(s)")
    for reason in (
        "Tanh 'k' has no derivative rule (in then_branch of If 'b')",
        "Sin 'f' has no derivative rule (in else_branch of If 'b')",
        "Cos 'k2' has no derivative rule (in else_branch of If 'e') (in else_branch of If 'b')",
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


def test_a_state_that_is_no_tensor_is_refused():
    body = """
        empty = SequenceEmpty<dtype=1>();
        parts, h = Loop (trips, , empty, s0) <
            body = step (int64 i, bool go, seq(float) p, float[3] s) => (bool on, seq(float) p_next, float[3] s_next) {
                on = Identity(go); s_next = Mul(s, s); p_next = SequenceInsert(p, s_next)
            }
        >;
        y = Neg(h)
    """
    model = build(case(body, trips=np.array(3), s0=(3,)), dtype="float32")
    with pytest.raises(UnsupportedOperatorError, match="'parts': a state that is no tensor is not differentiated"):
        gradients(model, of=model.graph.outputs[0], wrt=[_values(model)["s0"]])


def test_sums_over_steps_in_half_precision():
    row = case(RECURRENCE, s0=(3,), x=(40, 3), w=(3,), v=(1,), torch=_recurrence)
    proto = differentiate(build(row, dtype="float16"), ["w", "v"])
    feeds = {name: x.astype(np.float16) for name, x in draw(row).items()}
    tensors = {name: torch.tensor(x.astype(np.float32), requires_grad=True) for name, x in feeds.items()}
    y = _recurrence(*tensors.values())
    u = np.random.default_rng(0).standard_normal(tuple(y.shape)).astype(np.float16)
    expected = torch.autograd.grad(y, [tensors["w"], tensors["v"]], torch.tensor(u.astype(np.float32)))
    found = run_onnxruntime(proto)({**feeds, "dy": u})
    for name, wanted in zip(("dw", "dv"), expected, strict=True):
        assert found[name].dtype == np.float16
        np.testing.assert_allclose(found[name], wanted, rtol=0, atol=1e-2 * float(wanted.abs().max()))
