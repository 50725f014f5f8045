"""Rules of operators that reduce axes, and of the softmax family."""

from __future__ import annotations

__all__: list[str] = []

import math
from collections.abc import Callable, Sequence

import onnx_ir as ir

from onnxcam.autodiff.registry import Adjoint, Site, has_adjoint, rule
from onnxcam.autodiff.rules.masks import as_type_of
from onnxcam.autodiff.rules.movement import spread_evenly

# Sums and norms


@rule("ReduceSum", versions=(13,))
def reduce_sum(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    return (lambda: _spread(at, dy),)


@rule("ReduceMean", versions=(13, 18))
def reduce_mean(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    def dx() -> ir.Value:
        axes = _axes(at)
        lengths = None if isinstance(axes, ir.Value) else _lengths(at.input(0), axes)
        if not axes or lengths is None:
            return _spread(at, _divided_by_count(at, dy))
        target = dict(zip(axes, lengths, strict=True))  # type: ignore[arg-type]
        return spread_evenly(at, _kept(at, dy), [target.get(axis, 1) for axis in range(at.rank(at.input(0)))])

    return (dx,)


@rule("ReduceSumSquare", versions=(18,))
def reduce_sum_square(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    return (lambda: at.op.Mul(at.input(0), at.op.Mul(_kept(at, dy), 2.0)),)


@rule("ReduceL1", versions=(18,))
def reduce_l1(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    return (lambda: at.op.Mul(_kept(at, dy), at.op.Sign(at.input(0))),)


@rule("ReduceL2", versions=(18,))
def reduce_l2(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    """dx = dy x / y, and 0 where the norm is 0."""
    op, x, (y,) = at.op, at.input(0), at.y

    def dx() -> ir.Value:
        divisor = op.Add(y, as_type_of(at, op.Equal(y, 0.0), y))
        return op.Mul(x, _kept(at, op.Div(dy, divisor)))  # type: ignore[no-any-return]

    return (dx,)


@rule("ReduceLogSum", versions=(18, 28))
def reduce_log_sum(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    """dx = dy / Σ x, where Σ x = exp(y)."""
    (y,) = at.y
    return (lambda: _spread(at, at.op.Div(dy, at.op.Exp(y))),)


@rule("ReduceLogSumExp", versions=(18, 28))
def reduce_log_sum_exp(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    """dx = dy e / Σ e with e = exp(x - max x), and 0 where every x is -infinity.

    Not exp(x - y): the rounding of a large y would be taken to the exponent, several percent in half precision.
    """
    op, x = at.op, at.input(0)

    def dx() -> ir.Value:
        top = op.Max(_reduced(at, op.ReduceMax, x), float((x.dtype or ir.DataType.FLOAT).min))
        e = op.Exp(op.Sub(x, top))
        return op.Mul(e, op.Div(_kept(at, dy), op.Max(_summed(at, e), 1.0)))  # type: ignore[no-any-return]

    return (dx,)


# Extrema and products


@rule("ReduceMax", versions=(18, 20))
def reduce_max(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    return (lambda: _to_extremum(at, dy),)


@rule("ReduceMin", versions=(18, 20))
def reduce_min(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    return (lambda: _to_extremum(at, dy),)


def _to_extremum(at: Site, dy: ir.Value) -> ir.Value:
    """``dy`` to the elements that the output equals, in even shares; 0 to the others."""
    op, x, (y,) = at.op, at.input(0), at.y
    chosen = as_type_of(at, op.Equal(x, _kept(at, y)), dy)
    return op.Mul(chosen, op.Div(_kept(at, dy), _summed(at, chosen)))  # type: ignore[no-any-return]


@rule("ReduceProd", versions=(18,))
def reduce_prod(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    """dx = dy times the product of the others: 0 where one of them is 0, elsewhere Π / x with 1 in place of a zero."""
    op, x = at.op, at.input(0)

    def dx() -> ir.Value:
        zero = as_type_of(at, op.Equal(x, 0.0), dy)
        others = op.Sub(_summed(at, zero), zero)
        filled = op.Add(x, zero)
        product = op.Div(op.Mul(_kept(at, dy), _reduced(at, op.ReduceProd, filled)), filled)
        return op.Mul(product, as_type_of(at, op.Equal(others, 0.0), dy))  # type: ignore[no-any-return]

    return (dx,)


# Softmax


@rule("Softmax", versions=(13,))
def softmax(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    """dx = y (dy - Σ y dy)."""
    (forward,), axis = at.y, at.attribute("axis", -1)
    y = as_type_of(at, _blanked(forward, axis), forward)

    def dx() -> ir.Value:
        y_dy = at.op.Mul(y, dy)
        return at.op.Sub(y_dy, at.op.Mul(y, at.op.ReduceSum(y_dy, [axis])))  # type: ignore[no-any-return]

    return (dx,)


def _blanked(y: ir.Value, axis: int) -> ir.Value:
    """``y``, or where its one reader puts 0 in place of whole rows or of NaN, what that gives.

    So attention blanks the rows of which all is masked: their softmax is NaN, which times an adjoint of 0 would be NaN.
    """
    uses = [(node, index) for node, index in y.uses() if has_adjoint(node, index)]
    if len(uses) != 1 or y.is_graph_output():
        return y
    ((node, index),) = uses
    if node.op_type in ("Cast", "Identity"):
        found = _blanked(node.outputs[0], axis)
        return y if found is node.outputs[0] else found
    condition = node.inputs[0] if node.op_type == "Where" and index == 2 else None
    if condition is None:
        return y
    producer, shape, behind = condition.producer(), condition.shape, len(y.shape or ()) - axis if axis >= 0 else -axis
    of_rows = shape is not None and (len(shape) < behind or shape[len(shape) - behind] == 1)
    of_nan = producer is not None and producer.op_type == "IsNaN"
    return node.outputs[0] if of_rows or of_nan else y


@rule("LogSoftmax", versions=(13,))
def log_softmax(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    """dx = dy - exp(y) Σ dy."""
    (y,), axis = at.y, at.attribute("axis", -1)
    return (lambda: at.op.Sub(dy, at.op.Mul(at.op.Exp(y), at.op.ReduceSum(dy, [axis]))),)


# Axes


def _axes(at: Site) -> tuple[int, ...] | ir.Value:
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


def _kept(at: Site, y: ir.Value) -> ir.Value:
    """``y``, of the shape of the output, with the reduced axes in it: against ``x`` it broadcasts."""
    axes = _axes(at)
    if at.attribute("keepdims", 1) or axes == ():
        return y
    if not isinstance(axes, ir.Value) and len(axes) == at.rank(at.input(0)):  # a scalar needs no axes to broadcast
        return y
    return at.op.Unsqueeze(y, axes)  # type: ignore[no-any-return]


def _spread(at: Site, dy: ir.Value) -> ir.Value:
    """``dy`` repeated along the axes that were reduced."""
    op, x, axes = at.op, at.input(0), _axes(at)
    if axes == ():
        return dy
    dy = _kept(at, dy)
    lengths = None if isinstance(axes, ir.Value) else _lengths(x, axes)
    if lengths is None or isinstance(axes, ir.Value):
        return op.Expand(dy, op.Shape(x))  # type: ignore[no-any-return]
    target = dict(zip(axes, lengths, strict=True))
    return op.Expand(dy, [target.get(axis, 1) for axis in range(at.rank(x))])  # type: ignore[no-any-return]


def _summed(at: Site, value: ir.Value) -> ir.Value:
    """``value``, of the shape of the input, summed over the reduced axes, which stay with length 1."""
    return _reduced(at, at.op.ReduceSum, value)


def _reduced(at: Site, reduce: Callable[..., ir.Value], value: ir.Value) -> ir.Value:
    """``value``, of the shape of the input, reduced over the node's axes, which stay with length 1."""
    axes = _axes(at)
    if axes == ():
        return value
    if isinstance(axes, ir.Value):
        return reduce(value, axes, noop_with_empty_axes=at.attribute("noop_with_empty_axes", 0))
    return reduce(value, list(axes))


def _divided_by_count(at: Site, dy: ir.Value) -> ir.Value:
    """``dy`` over the number of elements that each of its elements was the mean of."""
    op, x, axes = at.op, at.input(0), _axes(at)
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
