"""Rules of LSTM, GRU and RNN: what does not wait for another step is computed for all steps at once.

The output Y has the hidden state of every step, so all gates come from one product each with W and R. What remains
runs in a Scan: in LSTM the cell state C = f C' + i c, elementwise, and in all three, from the last step to the
first, the adjoint of the hidden state, which goes through R once a step.

Values are laid out as `recurrence` says: [steps, directions, batch, size] in the order of steps.
"""

from __future__ import annotations

__all__: list[str] = []

import functools
from collections.abc import Sequence

import onnx_ir as ir
from onnxscript import OpBuilder

from onnxcam.autodiff.registry import Adjoint, Site, rule
from onnxcam.autodiff.rules.recurrence import Back, Recurrence
from onnxcam.autodiff.subgraphs import scan

_Values = Sequence[ir.Value]


@rule("LSTM", versions=(14, 22), inputs=(0, 1, 2, 3, 5, 6))
def lstm(
    at: Site, dy: ir.Value | None = None, dy_h: ir.Value | None = None, dy_c: ir.Value | None = None
) -> Sequence[Adjoint]:
    """i, o, f = σ(z), c = g(z), C = f C' + i c, H = o h(C), from z = W x + R H' + b in the order i, o, f, c."""
    net, op = Recurrence(at, gates=4, activations=("Sigmoid", "Tanh", "Tanh")), at.op
    squash, g, h = net.activations
    if at.attribute("input_forget", 0):
        raise at.unsupported("input_forget=1 (coupled gates) is not differentiated")
    if at.optional(7) is not None:
        raise at.unsupported("peepholes (input P) are not differentiated")

    @functools.cache
    def back() -> Back:
        z_i, z_o, z_f, z_c = net.split(op.Add(net.from_x(), net.from_h(net.before, net.r, net.bias[1], 4)), 4)
        i, o, f, c = squash.run(op, z_i), squash.run(op, z_o), squash.run(op, z_f), g.run(op, z_c)
        added = op.Mul(i, c)

        def forward(op: OpBuilder, states: _Values, elements: _Values) -> tuple[_Values, _Values]:
            f, added = elements
            return [op.Add(op.Mul(f, states[0]), added)], states

        _, before = scan(op, forward, [net.state(at.optional(6))], [f, added])
        cell = h.run(op, op.Add(op.Mul(f, before), added))
        slopes = op.Concat(
            op.Mul(c, squash.slope(op, i)),
            op.Mul(cell, squash.slope(op, o)),
            op.Mul(before, squash.slope(op, f)),
            op.Mul(i, g.slope(op, c)),
            axis=-1,
        )

        def step(op: OpBuilder, states: _Values, elements: _Values) -> tuple[_Values, _Values]:
            (dh, dc), (dy, slopes, dcell, f) = states, elements
            dh = op.Add(dy, dh)
            dc = op.Add(dc, op.Mul(dh, dcell))
            dz = op.Mul(op.Concat(dc, dh, dc, dc, axis=-1), slopes)
            return [op.MatMul(dz, net.r), op.Mul(dc, f)], [dz]

        elements = [net.adjoint(dy), slopes, op.Mul(o, h.slope(op, cell)), f]
        dh, dc, found = scan(op, step, [net.state(dy_h), net.state(dy_c)], [net.flipped(x) for x in elements])
        dz = net.rows(net.flipped(found), 4 * net.hidden)
        return Back(dz, dz, lambda: net.product(dz, net.before), [dh, dc])

    return [*net.adjoints(back), lambda: net.initial(back().dstates[1])]


@rule("GRU", versions=(14, 22), inputs=(0, 1, 2, 3, 5))
def gru(at: Site, dy: ir.Value | None = None, dy_h: ir.Value | None = None) -> Sequence[Adjoint]:
    """z, r = σ(W x + R H' + b), c = g(W x + b + r (R H' + b')), H = (1 - z) c + z H', in the order z, r, c.

    With linear_before_reset=0, the default, c = g(W x + b + R (r H') + b').
    """
    net, op = Recurrence(at, gates=3, activations=("Sigmoid", "Tanh")), at.op
    squash, g = net.activations
    linear, sizes = at.attribute("linear_before_reset", 0), [2 * net.hidden, net.hidden]

    @functools.cache
    def back() -> Back:
        before = net.before
        r_gates, r_new = op.Split(net.r, sizes, axis=1, _outputs=2)
        b_gates, b_new = None, None
        if net.bias[1] is not None:
            b_gates, b_new = op.Split(net.bias[1], sizes, axis=1, _outputs=2)
        x_z, x_r, x_new = net.split(net.from_x(), 3)
        h_z, h_r = net.split(net.from_h(before, r_gates, b_gates, 2), 2)
        z, r = squash.run(op, op.Add(x_z, h_z)), squash.run(op, op.Add(x_r, h_r))
        reset = before if linear else op.Mul(r, before)
        h_new = net.from_h(reset, r_new, b_new, 1)
        new = g.run(op, op.Add(x_new, op.Mul(r, h_new) if linear else h_new))
        dnew = op.Mul(op.Sub(1.0, z), g.slope(op, new))
        dz = op.Mul(op.Sub(before, new), squash.slope(op, z))
        dr = op.Mul(h_new if linear else before, squash.slope(op, r))

        def step(op: OpBuilder, states: _Values, elements: _Values) -> tuple[_Values, _Values]:
            (dh,), (dy, z, r, dz, dr, dnew) = states, elements
            dh = op.Add(dy, dh)
            dnew = op.Mul(dh, dnew)
            if linear:
                dreset = dnew
                dh_new = op.Mul(dnew, r)
                through = op.MatMul(dh_new, r_new)
            else:
                dreset = op.MatMul(dnew, r_new)
                dh_new = dnew
                through = op.Mul(dreset, r)
            dgates = op.Concat(op.Mul(dh, dz), op.Mul(dreset, dr), axis=-1)
            through = op.Add(op.Add(op.Mul(dh, z), through), op.MatMul(dgates, r_gates))
            return [through], [op.Concat(dgates, dnew, axis=-1), *([dh_new] if linear else [])]

        elements = [net.adjoint(dy), z, r, dz, dr, dnew]
        dh, *found = scan(op, step, [net.state(dy_h)], [net.flipped(x) for x in elements])
        dx_all = net.rows(net.flipped(found[0]), 3 * net.hidden)
        dh_new = [net.rows(net.flipped(x), net.hidden) for x in found[1:]]
        dgates, dx_new = op.Split(dx_all, sizes, axis=-1, _outputs=2)

        def dr_all() -> ir.Value:
            new = net.product(dh_new[0] if linear else dx_new, reset)
            return op.Concat(net.product(dgates, before), new, axis=1)  # type: ignore[no-any-return]

        return Back(dx_all, op.Concat(dgates, *dh_new, axis=-1) if linear else dx_all, dr_all, [dh])

    return net.adjoints(back)


@rule("RNN", versions=(14, 22), inputs=(0, 1, 2, 3, 5))
def rnn(at: Site, dy: ir.Value | None = None, dy_h: ir.Value | None = None) -> Sequence[Adjoint]:
    """H = f(W x + R H' + b), whose slope the output tells."""
    net, op = Recurrence(at, gates=1, activations=("Tanh",)), at.op

    @functools.cache
    def back() -> Back:
        def step(op: OpBuilder, states: _Values, elements: _Values) -> tuple[_Values, _Values]:
            dy, slope = elements
            dz = op.Mul(op.Add(dy, states[0]), slope)
            return [op.MatMul(dz, net.r)], [dz]

        elements = [net.adjoint(dy), net.activations[0].slope(op, net.h)]
        dh, found = scan(op, step, [net.state(dy_h)], [net.flipped(x) for x in elements])
        dz = net.rows(net.flipped(found), net.hidden)
        return Back(dz, dz, lambda: net.product(dz, net.before), [dh])

    return net.adjoints(back)
