"""Rules of activations.

Where the output tells as much as the input, the mask is taken from the output: a second reader of the input would
break the fusion of Conv and activation.
"""

from __future__ import annotations

__all__ = ["gelu_adjoint"]

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


@rule("Elu", versions=(6, 22))
def elu(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    """y = x above 0, else α (exp(x) - 1)."""
    return (lambda: _exponential_unit(at, dy, above=1.0, below=at.attribute("alpha", 1.0)),)


@rule("Selu", versions=(6, 22))
def selu(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    """y = γ x above 0, else γ α (exp(x) - 1)."""
    alpha, gamma = at.attribute("alpha", 1.6732632), at.attribute("gamma", 1.050701)
    return (lambda: _exponential_unit(at, dy, above=gamma, below=gamma * alpha),)


def _exponential_unit(at: Site, dy: ir.Value, *, above: float, below: float) -> ir.Value:
    """``dy`` times ``above`` where x > 0, else times ``below`` exp(x), which is y + ``below``."""
    op, x, (y,) = at.op, at.input(0), at.y
    if above > 0 and below >= 0:  # y has the sign of x
        signed, slope = y, op.Add(op.Min(y, 0.0), below)
    else:
        signed, slope = x, op.Mul(op.Exp(op.Min(x, 0.0)), below)
    if above != below:
        slope = op.Add(slope, op.Mul(as_type_of(at, op.Greater(signed, 0.0), dy), above - below))
    return op.Mul(dy, slope)  # type: ignore[no-any-return]


@rule("Celu", versions=(12, 28))
def celu(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    """y = x above 0, else α (exp(x/α) - 1); y' = exp(x/α) = y/α + 1."""
    (y,), alpha = at.y, at.attribute("alpha", 1.0)
    op = at.op

    def dx() -> ir.Value:
        below = op.Min(y, 0.0)
        return op.Mul(dy, op.Add(below if alpha == 1 else op.Mul(below, 1 / alpha), 1.0))  # type: ignore[no-any-return]

    return (dx,)


@rule("PRelu", versions=(16,), inputs=(0, 1), broadcasts=True)
def prelu(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    op, x, slope = at.op, at.input(0), at.input(1)

    def dx() -> ir.Value:
        above = as_type_of(at, op.Greater(x, 0.0), dy)
        return op.Mul(dy, op.Add(op.Mul(above, op.Sub(1.0, slope)), slope))  # type: ignore[no-any-return]

    return dx, lambda: op.Mul(dy, op.Min(x, 0.0))


@rule("ThresholdedRelu", versions=(10, 22))
def thresholded_relu(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    (x,), alpha = at.x, at.attribute("alpha", 1.0)
    return (lambda: masked(at, at.op.Greater(x, alpha), dy),)


@rule("Shrink", versions=(9,))
def shrink(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    (x,), lambd = at.x, at.attribute("lambd", 0.5)
    return (lambda: masked(at, at.op.Greater(at.op.Abs(x), lambd), dy),)


@rule("Sigmoid", versions=(13,))
def sigmoid(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    (y,) = at.y
    return (lambda: at.op.Mul(dy, at.op.Mul(y, at.op.Sub(1.0, y))),)


@rule("Softplus", versions=(1, 22))
def softplus(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    (x,) = at.x
    return (lambda: at.op.Mul(dy, at.op.Sigmoid(x)),)


@rule("Softsign", versions=(1, 22))
def softsign(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    """y' = 1 / (1 + |x|)², divided twice: the square would overflow in half precision."""
    (x,) = at.x

    def dx() -> ir.Value:
        divisor = at.op.Add(at.op.Abs(x), 1.0)
        return at.op.Div(at.op.Div(dy, divisor), divisor)  # type: ignore[no-any-return]

    return (dx,)


@rule("Mish", versions=(18, 22))
def mish(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    """y = x t with t = tanh(softplus(x)); y' = t + x t', t' = (1 - t²) sigmoid(x)."""
    (x,) = at.x
    op = at.op

    def dx() -> ir.Value:
        t = op.Tanh(op.Softplus(x))
        slope = op.Mul(op.Sub(1.0, op.Mul(t, t)), op.Sigmoid(x))
        return op.Mul(dy, op.Add(t, op.Mul(x, slope)))  # type: ignore[no-any-return]

    return (dx,)


@rule("Swish", versions=(24,))
def swish(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    """y = x s with s = sigmoid(α x); y' = s + x s' = s + α y (1 - s), which does not overflow."""
    (x,), (y,), alpha = at.x, at.y, at.attribute("alpha", 1.0)
    op = at.op

    def dx() -> ir.Value:
        gate = op.Sigmoid(x if alpha == 1 else op.Mul(x, alpha))
        rest = op.Mul(y, op.Sub(1.0, gate))
        return op.Mul(dy, op.Add(gate, rest if alpha == 1 else op.Mul(rest, alpha)))  # type: ignore[no-any-return]

    return (dx,)


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
    approximate = at.attribute("approximate", "none") == "tanh"
    return (lambda: gelu_adjoint(at, dy, at.input(0), approximate=approximate),)


def gelu_adjoint(at: Site, dy: ir.Value, x: ir.Value, *, approximate: bool) -> ir.Value:
    """y = x Φ(x), y' = Φ + x Φ'."""
    op = at.op
    slope: ir.Value
    if approximate:  # Φ = (1 + tanh(k x (1 + c x²))) / 2 = sigmoid(2 k x (1 + c x²))
        k, c = math.sqrt(2 / math.pi), 0.044715
        square = op.Mul(x, x)
        gate = op.Sigmoid(op.Mul(x, op.Add(op.Mul(square, 2 * k * c), 2 * k)))
        inner = op.Mul(x, op.Add(op.Mul(square, 6 * k * c), 2 * k))
        slope = op.Mul(gate, op.Add(op.Mul(inner, op.Sub(1.0, gate)), 1.0))
    else:  # Φ = (1 + erf(x/√2)) / 2, Φ' = exp(-x²/2) / √(2π)
        t = op.Mul(x, math.sqrt(0.5))
        cumulative = op.Mul(op.Add(op.Erf(t), 1.0), 0.5)
        density = op.Mul(op.Exp(op.Neg(op.Mul(t, t))), 1 / math.sqrt(2 * math.pi))
        slope = op.Add(cumulative, op.Mul(x, density))
    return op.Mul(dy, slope)  # type: ignore[no-any-return]
