"""Rules of cumulative sums and products, and of ranges."""

from __future__ import annotations

__all__: list[str] = []

from collections.abc import Sequence

import onnx_ir as ir

from onnxcam.autodiff.registry import Adjoint, Site, rule
from onnxcam.autodiff.rules.masks import as_type_of


@rule("CumSum", versions=(14,))
def cum_sum(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    return (lambda: _sum_of_later(at, dy),)


@rule("CumProd", versions=(26,))
def cum_prod(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    """dx_i = Σ dy_k y_k / x_i over the later k. At the first zero of x the same, with a 1 in its place.

    Behind the first zero every product is 0 whatever x_i is.
    """
    op, x, axis, (y,) = at.op, at.input(0), at.input(1), at.y
    exclusive, backwards = at.attribute("exclusive", 0), at.attribute("reverse", 0)

    def dx() -> ir.Value:
        zero = as_type_of(at, op.Equal(x, 0.0), dy)
        count = op.CumSum(zero, axis, reverse=backwards)
        first = op.Mul(zero, as_type_of(at, op.Equal(count, 1.0), dy))
        filled = op.CumProd(op.Add(x, first), axis, exclusive=exclusive, reverse=backwards)
        elsewhere = op.Div(_sum_of_later(at, op.Mul(dy, y)), op.Add(x, zero))
        return op.Add(elsewhere, op.Mul(first, _sum_of_later(at, op.Mul(dy, filled))))  # type: ignore[no-any-return]

    return (dx,)


def _sum_of_later(at: Site, dy: ir.Value) -> ir.Value:
    """For each element, the sum of ``dy`` over the outputs that it goes into."""
    exclusive, backwards = at.attribute("exclusive", 0), at.attribute("reverse", 0)
    return at.op.CumSum(dy, at.input(1), exclusive=exclusive, reverse=1 - backwards)  # type: ignore[no-any-return]


@rule("Range", versions=(11, 27), inputs=(0, 2))
def range_(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    """y_i = start + i delta; where it ends is no more than their number."""
    op = at.op

    def ddelta() -> ir.Value:
        places = op.CastLike(op.Range(0, op.Size(dy), 1), dy)
        return op.ReduceSum(op.Mul(dy, places), keepdims=0)  # type: ignore[no-any-return]

    return lambda: op.ReduceSum(dy, keepdims=0), ddelta
