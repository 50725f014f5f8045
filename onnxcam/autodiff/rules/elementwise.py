"""Rules of operators that work on each element: arithmetic, activations, selection and casts.

A mask is cast and multiplied: ONNX Runtime runs ``Where`` several times slower. Where the output tells as much as the
input, the mask is taken from the output: a second reader of the input would break the fusion of Conv and activation.
"""

from __future__ import annotations

__all__: list[str] = []

import functools
import math
from collections.abc import Sequence

import onnx_ir as ir

from onnxcam.autodiff.registry import ALL, Adjoint, Site, rule

# Arithmetic


@rule("Add", versions=(13, 14), inputs=(0, 1), broadcasts=True)
def add(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    return lambda: dy, lambda: dy


@rule("Sub", versions=(13, 14), inputs=(0, 1), broadcasts=True)
def sub(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    return lambda: dy, lambda: at.op.Neg(dy)


@rule("Mul", versions=(13, 14), inputs=(0, 1), broadcasts=True)
def mul(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    a, b = at.x
    return lambda: at.op.Mul(dy, b), lambda: at.op.Mul(dy, a)


@rule("Div", versions=(13, 14), inputs=(0, 1), broadcasts=True)
def div(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    (_, b), (y,) = at.x, at.y
    return lambda: at.op.Div(dy, b), lambda: at.op.Neg(at.op.Mul(dy, at.op.Div(y, b)))


@rule("Sum", versions=(13,), inputs=ALL, broadcasts=True)
def sum_(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    return [lambda: dy for _ in at.x]


@rule("Neg", versions=(13,))
def neg(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    return (lambda: at.op.Neg(dy),)


@rule("Abs", versions=(13,))
def abs_(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    (x,) = at.x
    return (lambda: at.op.Mul(dy, at.op.Sign(x)),)


@rule("Sign", versions=(13,))
def sign(at: Site, dy: ir.Value) -> Sequence[Adjoint | None]:
    return (None,)


@rule("Reciprocal", versions=(13,))
def reciprocal(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    (y,) = at.y
    return (lambda: at.op.Neg(at.op.Mul(dy, at.op.Mul(y, y))),)


@rule("Exp", versions=(13,))
def exp(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    (y,) = at.y
    return (lambda: at.op.Mul(dy, y),)


@rule("Log", versions=(13,))
def log(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    (x,) = at.x
    return (lambda: at.op.Div(dy, x),)


@rule("Sqrt", versions=(13,))
def sqrt(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    (y,) = at.y
    return (lambda: at.op.Div(at.op.Mul(dy, 0.5), y),)


@rule("Erf", versions=(13,))
def erf(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    (x,) = at.x
    return (lambda: at.op.Mul(dy, at.op.Mul(at.op.Exp(at.op.Neg(at.op.Mul(x, x))), 2 / math.sqrt(math.pi))),)


@rule("Pow", versions=(13, 15), inputs=(0, 1), broadcasts=True)
def pow_(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    x, p = at.input(0), at.input(1)
    known = at.constant(p)
    if isinstance(known, (int, float)):
        return lambda: _pow_base(at, dy, float(known)), lambda: _pow_exponent(at, dy, p)
    op, power = at.op, _cast(at, p, dy)

    def dx() -> ir.Value:  # for p = 0 the exponent below is 0, not -1: 0 also where x = 0
        below = op.Add(op.Sub(power, 1.0), _cast(at, op.Equal(power, 0.0), dy))
        return op.Mul(dy, op.Mul(power, op.Pow(x, below)))  # type: ignore[no-any-return]

    return dx, lambda: _pow_exponent(at, dy, p)


def _pow_base(at: Site, dy: ir.Value, p: float) -> ir.Value:
    """``dy p x^(p-1)``, in the cheapest form."""
    x, (y,) = at.input(0), at.y
    slope: ir.Value
    if p == 1:
        return dy
    if p == 2:
        slope = at.op.Mul(x, 2.0)
    elif p == 0.5:
        slope = at.op.Div(0.5, y)
    elif p == 0:
        slope = at.op.CastLike(0.0, dy)
    else:
        slope = at.op.Mul(at.op.Pow(x, p - 1), p)
    return at.op.Mul(dy, slope)  # type: ignore[no-any-return]


def _pow_exponent(at: Site, dy: ir.Value, p: ir.Value) -> ir.Value:
    """``dy y log(x)``, and 0 at x = 0 unless the exponent is negative."""
    op, x, (y,) = at.op, at.input(0), at.y
    zero = op.And(op.Equal(x, 0.0), op.GreaterOrEqual(p, 0.0))
    return _cast(at, op.Mul(dy, op.Mul(y, op.Log(op.Add(x, _cast(at, zero, dy))))), p)


# Activations


@rule("Relu", versions=(13, 14))
def relu(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    (y,) = at.y
    return (lambda: _where(at, at.op.Greater(y, 0.0), dy),)


@rule("LeakyRelu", versions=(6, 16))
def leaky_relu(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    (x,), (y,), alpha = at.x, at.y, at.attribute("alpha", 0.01)
    op = at.op

    def dx() -> ir.Value:  # y has the sign of x unless alpha < 0
        above = _cast(at, op.Greater(y if alpha >= 0 else x, 0.0), dy)
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
        return _where(at, functools.reduce(at.op.And, inside), dy) if inside else dy

    return (dx,)


@rule("HardSigmoid", versions=(6, 22))
def hard_sigmoid(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    (y,), alpha = at.y, at.attribute("alpha", 0.2)
    return (lambda: at.op.Mul(_where(at, at.op.And(at.op.Greater(y, 0.0), at.op.Less(y, 1.0)), dy), alpha),)


@rule("HardSwish", versions=(14, 22))
def hard_swish(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    """With h = HardSigmoid(x): y = x h, y' = h + x h', where x h' = h - 1/2 for 0 < h < 1. 0 at -3 and 1 at 3."""
    op, x = at.op, at.input(0)

    def dx() -> ir.Value:
        gate = op.HardSigmoid(x, alpha=1 / 6, beta=0.5)
        centred = op.Sub(gate, 0.5)
        slope = op.Add(gate, _where(at, op.Less(op.Abs(centred), 0.5), centred))
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


# Selection and casts


@rule("Where", versions=(9, 16), inputs=(1, 2), broadcasts=True)
def where(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    condition = at.input(0)
    return lambda: _where(at, condition, dy), lambda: _where(at, at.op.Not(condition), dy)


@rule("Identity", versions=(13, 14, 16, 19, 21, 23, 24, 25))
def identity(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    return (lambda: dy,)


@rule("Cast", versions=(13, 19, 21, 23, 24, 25, 28))
def cast(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    return (lambda: _cast(at, dy, at.input(0)),)


@rule("CastLike", versions=(15, 19, 21, 23, 24, 25), inputs=(0, 1))
def cast_like(at: Site, dy: ir.Value) -> Sequence[Adjoint | None]:
    return lambda: _cast(at, dy, at.input(0)), None


@rule("Dropout", versions=(13, 22))
def dropout(at: Site, dy: ir.Value, _: ir.Value | None = None) -> Sequence[Adjoint]:
    training = at.optional(2)
    if training is not None and at.constant(training) is not False:
        raise at.unsupported("training_mode draws a random mask: export the model in evaluation mode")
    return (lambda: dy,)


def _where(at: Site, condition: ir.Value, value: ir.Value) -> ir.Value:
    """``value`` where the condition holds, elsewhere 0."""
    return at.op.Mul(value, _cast(at, condition, value))  # type: ignore[no-any-return]


def _cast(at: Site, value: ir.Value, like: ir.Value) -> ir.Value:
    """``value`` in the type of ``like``."""
    if like.dtype is None:
        return at.op.CastLike(value, like)  # type: ignore[no-any-return]
    return value if value.dtype == like.dtype else at.op.Cast(value, to=like.dtype)
