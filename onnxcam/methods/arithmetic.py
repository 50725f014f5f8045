"""Arithmetic with the exceptions that maps need: nothing over nothing is nothing."""

from __future__ import annotations

__all__ = ["between_zero_and_one", "quotient", "sign"]

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import onnx_ir as ir
    from onnxscript import OpBuilder

TINY: Final = 1e-30
"""Keeps a zero divisor from making NaN, and is far below whatever a float32 map holds."""


def quotient(op: OpBuilder, x: ir.Value, y: ir.Value, floor: ir.Value | float) -> ir.Value:
    """x / y, and 0 where |y| ≤ ``floor``."""
    small = op.CastLike(op.LessOrEqual(op.Abs(y), floor), y)
    below_one = isinstance(floor, float) and floor < 1  # then y + 1 is no zero where y is small
    divisor = op.Add(y, small if below_one else op.Mul(small, op.Sub(1.0, y)))
    divided: ir.Value = op.Mul(op.Div(x, divisor), op.Sub(1.0, small))
    return divided


def sign(op: OpBuilder, x: ir.Value) -> ir.Value:
    """-1 where x < 0, else 1."""
    one: ir.Value = op.Sub(1.0, op.Mul(2.0, op.CastLike(op.Less(x, 0.0), x)))
    return one


def between_zero_and_one(op: OpBuilder, cam: ir.Value) -> ir.Value:
    """Each map of [N, h, w], or of [N, C, h, w], less its minimum, over its range; a flat one becomes 0."""
    raised = op.Sub(cam, op.ReduceMin(cam, [-2, -1], keepdims=1))
    scaled: ir.Value = op.Div(raised, op.Max(op.ReduceMax(raised, [-2, -1], keepdims=1), TINY))
    return scaled
