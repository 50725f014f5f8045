"""Rules of operators that put elements into a tensor."""

from __future__ import annotations

__all__: list[str] = []

import functools
from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from onnxcam.autodiff.registry import Adjoint, Site, rule
from onnxcam.autodiff.rules.movement import length, narrowed, restore, widened, zeros

_Scatter = Callable[[ir.Value, ir.Value, str], ir.Value]
"""data, updates, reduction → data with the updates put in."""

_Gather = Callable[[ir.Value], ir.Value]
"""A tensor of the shape of data → its elements at the places of the updates."""


@rule("ScatterElements", versions=(13, 16, 18), inputs=(0, 2))
def scatter_elements(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    indices, axis = at.input(1), at.attribute("axis", 0) % at.rank(at.input(0))

    def repeat() -> bool:
        known = at.constant(indices)
        if known is None:
            return length(indices, axis) != 1
        ordered = np.sort(np.array(known), axis=axis)
        return bool(ordered.size) and bool((ordered.min() < 0) | (np.diff(ordered, axis=axis) == 0).any())

    def scatter(data: ir.Value, updates: ir.Value, reduction: str) -> ir.Value:
        return at.op.ScatterElements(data, indices, updates, axis=axis, reduction=reduction)  # type: ignore[no-any-return]

    return _adjoints(at, dy, scatter, lambda value: at.op.GatherElements(value, indices, axis=axis), repeat)


@rule("ScatterND", versions=(13, 16, 18), inputs=(0, 2))
def scatter_nd(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    indices = at.input(1)

    def repeat() -> bool:
        known = at.constant(indices)
        if known is None:
            return indices.shape is None or any(dim != 1 for dim in list(indices.shape)[:-1])
        places = np.array(known).reshape(-1, np.shape(known)[-1])
        return bool(places.size) and bool(places.min() < 0 or len(np.unique(places, axis=0)) < len(places))

    def scatter(data: ir.Value, updates: ir.Value, reduction: str) -> ir.Value:
        return at.op.ScatterND(data, indices, updates, reduction=reduction)  # type: ignore[no-any-return]

    return _adjoints(at, dy, scatter, lambda value: at.op.GatherND(value, indices), repeat)


def _adjoints(
    at: Site, dy: ir.Value, scatter: _Scatter, gather: _Gather, repeat: Callable[[], bool]
) -> Sequence[Adjoint]:
    """The adjoints of data and updates.

    repeat: whether two updates may have one place. The standard forbids that without a reduction; the adjoint then
    goes to the one update that the runtime keeps.
    """
    reduction, updates = at.attribute("reduction", "none"), at.input(2)
    if reduction == "add":
        return lambda: dy, lambda: gather(dy)
    if reduction == "mul":
        return _multiplied(at, dy, scatter, gather)
    if reduction in ("max", "min"):
        return _extreme(at, dy, scatter, gather)

    def dupdates() -> ir.Value:
        found = gather(dy)
        if not repeat():
            return found
        numbers = restore(at, at.op.Range(0, at.op.Size(updates), 1), updates)
        nowhere = at.op.Expand(-1, at.op.Shape(at.input(0)))
        kept = at.op.Equal(gather(scatter(nowhere, numbers, "none")), numbers)
        return at.op.Mul(found, at.op.CastLike(kept, found))  # type: ignore[no-any-return]

    return lambda: scatter(dy, zeros(at, updates), "none"), dupdates


def _multiplied(at: Site, dy: ir.Value, scatter: _Scatter, gather: _Gather) -> Sequence[Adjoint]:
    """Each adjoint is dy times all other factors: the product over the own factor, with zeros counted apart."""
    op, x, updates = at.op, at.input(0), at.input(2)

    def without_zeros(value: ir.Value) -> tuple[ir.Value, ir.Value]:
        wide = widened(at, value)
        is_zero = op.CastLike(op.Equal(wide, op.CastLike(0.0, wide)), wide)
        return op.Add(wide, is_zero), is_zero

    def dx() -> ir.Value:
        wide = widened(at, dy)
        ones = op.Expand(op.CastLike(1.0, wide), at.shape(x))
        return narrowed(at, op.Mul(wide, scatter(ones, widened(at, updates), "mul")), x)

    def dupdates() -> ir.Value:
        (factor, is_zero), (first, first_is_zero) = without_zeros(updates), without_zeros(x)
        product = op.Mul(widened(at, dy), scatter(first, factor, "mul"))
        other_zeros = op.Sub(gather(scatter(first_is_zero, is_zero, "add")), is_zero)
        kept = op.CastLike(op.Less(other_zeros, op.CastLike(0.5, factor)), factor)
        return narrowed(at, op.Mul(op.Div(gather(product), factor), kept), updates)

    return dx, dupdates


def _extreme(at: Site, dy: ir.Value, scatter: _Scatter, gather: _Gather) -> Sequence[Adjoint]:
    """Equal extrema share evenly."""
    op, x, updates, (y,) = at.op, at.input(0), at.input(2), at.y

    @functools.cache
    def masks_and_share() -> tuple[ir.Value, ir.Value, ir.Value]:
        wide = widened(at, dy)
        chosen = op.CastLike(op.Equal(x, y), wide)
        chosen_updates = op.CastLike(op.Equal(updates, gather(y)), wide)
        return chosen, chosen_updates, op.Div(wide, scatter(chosen, chosen_updates, "add"))

    def dx() -> ir.Value:
        chosen, _, share = masks_and_share()
        return narrowed(at, op.Mul(share, chosen), x)

    def dupdates() -> ir.Value:
        _, chosen_updates, share = masks_and_share()
        return narrowed(at, op.Mul(gather(share), chosen_updates), updates)

    return dx, dupdates


@rule("TensorScatter", versions=(24,), inputs=(0, 1))
def tensor_scatter(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    op, x, updates, begin = at.op, at.input(0), at.input(1), at.optional(2)
    rank = at.rank(x)
    axis, mode = at.attribute("axis", -2) % rank, at.attribute("mode", "linear")

    def dupdates() -> ir.Value:
        count = op.Squeeze(op.Shape(updates, start=axis, end=axis + 1))
        places = op.Reshape(op.Range(0, count, 1), [1] * axis + [-1] + [1] * (rank - axis - 1))
        if begin is not None:
            places = op.Add(places, op.Reshape(begin, [-1] + [1] * (rank - 1)))
        if mode == "circular":
            places = op.Mod(places, op.Shape(x, start=axis, end=axis + 1))
        return op.GatherElements(dy, op.Expand(places, at.shape(updates)), axis=axis)  # type: ignore[no-any-return]

    rest = () if begin is None else (begin,)
    return lambda: op.TensorScatter(dy, zeros(at, updates), *rest, axis=axis, mode=mode), dupdates
