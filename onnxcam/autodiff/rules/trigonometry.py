"""Rules of circular and hyperbolic functions."""

from __future__ import annotations

__all__: list[str] = []

from collections.abc import Sequence

import onnx_ir as ir

from onnxcam.autodiff.registry import Adjoint, Site, rule

# Circular


@rule("Sin", versions=(7, 22))
def sin(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    (x,) = at.x
    return (lambda: at.op.Mul(dy, at.op.Cos(x)),)


@rule("Cos", versions=(7, 22))
def cos(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    (x,) = at.x
    return (lambda: at.op.Neg(at.op.Mul(dy, at.op.Sin(x))),)


@rule("Tan", versions=(7, 22))
def tan(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    (y,) = at.y
    return (lambda: at.op.Mul(dy, at.op.Add(at.op.Mul(y, y), 1.0)),)


@rule("Asin", versions=(7, 22))
def asin(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    x = at.input(0)
    return (lambda: at.op.Div(dy, at.op.Sqrt(_one_minus_square(at, x))),)


@rule("Acos", versions=(7, 22))
def acos(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    x = at.input(0)
    return (lambda: at.op.Neg(at.op.Div(dy, at.op.Sqrt(_one_minus_square(at, x)))),)


@rule("Atan", versions=(7, 22))
def atan(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    (x,) = at.x
    return (lambda: at.op.Div(dy, at.op.Add(at.op.Mul(x, x), 1.0)),)


# Hyperbolic


@rule("Sinh", versions=(9, 22))
def sinh(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    (x,) = at.x
    return (lambda: at.op.Mul(dy, at.op.Cosh(x)),)


@rule("Cosh", versions=(9, 22))
def cosh(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    (x,) = at.x
    return (lambda: at.op.Mul(dy, at.op.Sinh(x)),)


@rule("Tanh", versions=(13,))
def tanh(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    (y,) = at.y
    return (lambda: at.op.Mul(dy, at.op.Sub(1.0, at.op.Mul(y, y))),)


@rule("Asinh", versions=(9, 22))
def asinh(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    """1 / √(x² + 1) = 1 / cosh(y), which does not overflow."""
    (y,) = at.y
    return (lambda: at.op.Div(dy, at.op.Cosh(y)),)


@rule("Acosh", versions=(9, 22))
def acosh(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    """1 / √(x² - 1) = 1 / sinh(y), which does not overflow."""
    (y,) = at.y
    return (lambda: at.op.Div(dy, at.op.Sinh(y)),)


@rule("Atanh", versions=(9, 22))
def atanh(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    x = at.input(0)
    return (lambda: at.op.Div(dy, _one_minus_square(at, x)),)


def _one_minus_square(at: Site, x: ir.Value) -> ir.Value:
    """1 - x², as a product: the difference would cancel near 1."""
    return at.op.Mul(at.op.Sub(1.0, x), at.op.Add(x, 1.0))  # type: ignore[no-any-return]
