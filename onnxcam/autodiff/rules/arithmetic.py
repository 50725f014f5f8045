"""Rules of arithmetic on each element."""

from __future__ import annotations

__all__: list[str] = []

import functools
import math
from collections.abc import Sequence

import onnx_ir as ir

from onnxcam.autodiff.registry import ALL, Adjoint, Site, rule
from onnxcam.autodiff.rules.masks import as_type_of


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


@rule("Mean", versions=(13,), inputs=ALL, broadcasts=True)
def mean(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    @functools.cache
    def share() -> ir.Value:
        return dy if len(at.x) == 1 else at.op.Mul(dy, 1 / len(at.x))

    return [share for _ in at.x]


@rule("Max", versions=(13,), inputs=ALL, broadcasts=True)
def max_(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    return _extremum(at, dy)


@rule("Min", versions=(13,), inputs=ALL, broadcasts=True)
def min_(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    return _extremum(at, dy)


def _extremum(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    """``dy`` to the operands that the output equals, in even shares; 0 to the others."""
    op, (y,), operands = at.op, at.y, [at.input(index) for index in range(len(at.x))]

    @functools.cache
    def chosen(index: int) -> ir.Value:
        return as_type_of(at, op.Equal(operands[index], y), dy)

    @functools.cache
    def share() -> ir.Value:
        return op.Div(dy, op.Sum(*(chosen(index) for index in range(len(operands)))))  # type: ignore[no-any-return]

    def dx(index: int) -> ir.Value:
        return dy if len(operands) == 1 else op.Mul(share(), chosen(index))

    return [functools.partial(dx, index) for index in range(len(operands))]


@rule("Mod", versions=(13, 28), inputs=(0, 1), broadcasts=True)
def mod(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    """y = a - q b with a whole quotient q = (a - y) / b, constant almost everywhere."""
    op, a, b, (y,) = at.op, at.input(0), at.input(1), at.y
    return lambda: dy, lambda: op.Mul(dy, op.Round(op.Div(op.Sub(y, a), b)))


@rule("Neg", versions=(13,))
def neg(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    return (lambda: at.op.Neg(dy),)


@rule("Abs", versions=(13,))
def abs_(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    (x,) = at.x
    return (lambda: at.op.Mul(dy, at.op.Sign(x)),)


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
    op, power = at.op, as_type_of(at, p, dy)

    def dx() -> ir.Value:  # for p = 0 the exponent below is 0, not -1: 0 also where x = 0
        below = op.Add(op.Sub(power, 1.0), as_type_of(at, op.Equal(power, 0.0), dy))
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
    return as_type_of(at, op.Mul(dy, op.Mul(y, op.Log(op.Add(x, as_type_of(at, zero, dy))))), p)
