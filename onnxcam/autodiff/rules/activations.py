"""Rules of activations.

Where the output tells as much as the input, the mask is taken from the output: a second reader of the input would
break the fusion of Conv and activation.
"""

from __future__ import annotations

__all__: list[str] = []

import functools
import math
from collections.abc import Sequence

import onnx_ir as ir

from onnxcam.autodiff.registry import Adjoint, Site, rule
from onnxcam.autodiff.rules.masks import as_type_of, masked


@rule("Relu", versions=(13, 14))
def relu(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    (y,) = at.y
    return (lambda: masked(at, at.op.Greater(y, 0.0), dy),)


@rule("LeakyRelu", versions=(6, 16))
def leaky_relu(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    (x,), (y,), alpha = at.x, at.y, at.attribute("alpha", 0.01)
    op = at.op

    def dx() -> ir.Value:  # y has the sign of x unless alpha < 0
        above = as_type_of(at, op.Greater(y if alpha >= 0 else x, 0.0), dy)
        slope = op.Max(above, alpha) if 0 <= alpha <= 1 else op.Add(op.Mul(above, 1.0 - alpha), alpha)
        return op.Mul(dy, slope)  # type: ignore[no-any-return]

    return (dx,)


@rule("Sigmoid", versions=(13,))
def sigmoid(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    (y,) = at.y
    return (lambda: at.op.Mul(dy, at.op.Mul(y, at.op.Sub(1.0, y))),)


@rule("Tanh", versions=(13,))
def tanh(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    (y,) = at.y
    return (lambda: at.op.Mul(dy, at.op.Sub(1.0, at.op.Mul(y, y))),)


@rule("Clip", versions=(13,))
def clip(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    """0 at the bounds, as torch's relu6 and hardtanh have it; torch's clamp has 1 there."""
    (y,), low, high = at.y, at.optional(1), at.optional(2)

    def dx() -> ir.Value:
        inside = []
        if low is not None and at.constant(low) != -math.inf:
            inside.append(at.op.Greater(y, low))
        if high is not None and at.constant(high) != math.inf:
            inside.append(at.op.Less(y, high))
        return masked(at, functools.reduce(at.op.And, inside), dy) if inside else dy

    return (dx,)


@rule("HardSigmoid", versions=(6, 22))
def hard_sigmoid(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    (y,), alpha = at.y, at.attribute("alpha", 0.2)
    return (lambda: at.op.Mul(masked(at, at.op.And(at.op.Greater(y, 0.0), at.op.Less(y, 1.0)), dy), alpha),)


@rule("HardSwish", versions=(14, 22))
def hard_swish(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    """With h = HardSigmoid(x): y = x h, y' = h + x h', where x h' = h - 1/2 for 0 < h < 1. 0 at -3 and 1 at 3."""
    op, x = at.op, at.input(0)

    def dx() -> ir.Value:
        gate = op.HardSigmoid(x, alpha=1 / 6, beta=0.5)
        centred = op.Sub(gate, 0.5)
        slope = op.Add(gate, masked(at, op.Less(op.Abs(centred), 0.5), centred))
        return op.Mul(dy, slope)  # type: ignore[no-any-return]

    return (dx,)


@rule("Gelu", versions=(20,))
def gelu(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    """y = x Φ(x), y' = Φ + x Φ'."""
    (x,) = at.x
    op = at.op

    def exact() -> ir.Value:  # Φ = (1 + erf(x/√2)) / 2, Φ' = exp(-x²/2) / √(2π)
        t = op.Mul(x, math.sqrt(0.5))
        cumulative = op.Mul(op.Add(op.Erf(t), 1.0), 0.5)
        density = op.Mul(op.Exp(op.Neg(op.Mul(t, t))), 1 / math.sqrt(2 * math.pi))
        return op.Mul(dy, op.Add(cumulative, op.Mul(x, density)))  # type: ignore[no-any-return]

    def approximate() -> ir.Value:  # Φ = (1 + tanh(k x (1 + c x²))) / 2 = sigmoid(2 k x (1 + c x²))
        k, c = math.sqrt(2 / math.pi), 0.044715
        square = op.Mul(x, x)
        gate = op.Sigmoid(op.Mul(x, op.Add(op.Mul(square, 2 * k * c), 2 * k)))
        inner = op.Mul(x, op.Add(op.Mul(square, 6 * k * c), 2 * k))
        return op.Mul(dy, op.Mul(gate, op.Add(op.Mul(inner, op.Sub(1.0, gate)), 1.0)))  # type: ignore[no-any-return]

    return (approximate if at.attribute("approximate", "none") == "tanh" else exact,)
