"""Rules of operators that reduce axes, and of the softmax family."""

from __future__ import annotations

__all__: list[str] = []

import math
from collections.abc import Sequence

import onnx_ir as ir

from onnxcam.autodiff.registry import Adjoint, Site, rule


@rule("ReduceSum", versions=(13,))
def reduce_sum(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    return (lambda: _spread(at, dy),)


@rule("ReduceMean", versions=(13, 18))
def reduce_mean(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    return (lambda: _spread(at, _divided_by_count(at, dy)),)


@rule("Softmax", versions=(13,))
def softmax(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    """dx = y (dy - Σ y dy)."""
    (y,), axis = at.y, at.attribute("axis", -1)

    def dx() -> ir.Value:
        y_dy = at.op.Mul(y, dy)
        return at.op.Sub(y_dy, at.op.Mul(y, at.op.ReduceSum(y_dy, [axis])))  # type: ignore[no-any-return]

    return (dx,)


@rule("LogSoftmax", versions=(13,))
def log_softmax(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    """dx = dy - exp(y) Σ dy."""
    (y,), axis = at.y, at.attribute("axis", -1)
    return (lambda: at.op.Sub(dy, at.op.Mul(at.op.Exp(y), at.op.ReduceSum(dy, [axis]))),)


def _reduced(at: Site) -> tuple[int, ...] | ir.Value:
    """The reduced axes; a value where they are known only when the graph runs."""
    axes = at.attribute("axes", None)  # an input since ReduceSum-13 and ReduceMean-18
    given = at.optional(1)
    if given is not None:
        axes = at.constant(given)
        if axes is None:
            return given
    rank = at.rank(at.input(0))
    if axes:
        return at.axes(axes, rank)
    return () if at.attribute("noop_with_empty_axes", 0) else tuple(range(rank))


def _spread(at: Site, dy: ir.Value) -> ir.Value:
    """``dy`` repeated along the axes that were reduced."""
    op, x, axes = at.op, at.input(0), _reduced(at)
    if axes == ():
        return dy
    if isinstance(axes, ir.Value):
        dy = dy if at.attribute("keepdims", 1) else op.Unsqueeze(dy, axes)
        return op.Expand(dy, op.Shape(x))  # type: ignore[no-any-return]
    if not at.attribute("keepdims", 1) and len(axes) < at.rank(x):  # a scalar needs no axes to expand
        dy = op.Unsqueeze(dy, axes)
    lengths = _lengths(x, axes)
    if lengths is None:
        return op.Expand(dy, op.Shape(x))  # type: ignore[no-any-return]
    target = dict(zip(axes, lengths, strict=True))
    return op.Expand(dy, [target.get(axis, 1) for axis in range(at.rank(x))])  # type: ignore[no-any-return]


def _divided_by_count(at: Site, dy: ir.Value) -> ir.Value:
    """``dy`` over the number of elements that each of its elements was the mean of."""
    op, x, axes = at.op, at.input(0), _reduced(at)
    if axes == ():
        return dy
    lengths = None if isinstance(axes, ir.Value) else _lengths(x, axes)
    if lengths is not None:
        count = math.prod(lengths)
        return dy if count == 1 else op.Mul(dy, 1 / count)
    return op.Div(dy, op.CastLike(op.Div(op.Size(x), op.Size(dy)), dy))  # type: ignore[no-any-return]


def _lengths(x: ir.Value, axes: Sequence[int]) -> list[int] | None:
    """The lengths of ``x`` along ``axes``, None where one is not known when the graph is built."""
    lengths = [] if x.shape is None else [x.shape[axis] for axis in axes]
    known = [length for length in lengths if isinstance(length, int)]
    return known if len(known) == len(axes) else None
