"""Rules of operators that move data without changing it: reshaping, joining, cutting, padding, picking."""

from __future__ import annotations

__all__ = ["fit", "number", "restore", "scatter_add", "zeros"]

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import onnx_ir as ir

from onnxcam.autodiff.registry import ALL, Adjoint, Site, rule, static_shape

_UNBOUNDED: Final = 2**31 - 1
"""An ``ends`` of Slice that stands for the end of any axis."""


def restore(at: Site, dy: ir.Value, x: ir.Value) -> ir.Value:
    """``dy``, which has the elements of ``x`` in order, in the shape of ``x``."""
    dx: ir.Value
    dims = [None] if x.shape is None else [dim if isinstance(dim, int) else None for dim in x.shape]
    if not dims:
        dx = at.op.Squeeze(dy)
    elif dims.count(None) > 1 or 0 in dims or x.shape is None:
        dx = at.op.Reshape(dy, at.op.Shape(x), allowzero=1)
    else:
        dx = at.op.Reshape(dy, [-1 if dim is None else dim for dim in dims])
    return dx


def number(at: Site, value: float, like: ir.Value) -> ir.Value | float:
    """``value`` as an operand of the type of ``like``."""
    typed: ir.Value | float = value if like.dtype == ir.DataType.FLOAT else at.op.CastLike(value, like)
    return typed


def zeros(at: Site, like: ir.Value) -> ir.Value:
    """Zeros of the type and shape of ``like``."""
    made: ir.Value = at.op.Expand(number(at, 0.0, like), at.shape(like))
    return made


def fit(at: Site, value: ir.Value, margins: Mapping[int, tuple[int, int]], rank: int) -> ir.Value:
    """``value``, of ``rank`` axes, with zeros added before and behind on some of them, and cut where negative.

    (A Pad with negative pads would do both; few runtimes know it.)
    """
    cuts = {axis: margin for axis, margin in margins.items() if min(margin) < 0}
    if cuts:
        starts = [max(-before, 0) for before, _ in cuts.values()]
        value = at.op.Slice(value, starts, [min(behind, 0) or _UNBOUNDED for _, behind in cuts.values()], list(cuts))
    pads = [max(margins.get(axis, (0, 0))[side], 0) for side in (0, 1) for axis in range(rank)]
    if any(pads):
        value = at.op.Pad(value, pads)
    return value


def scatter_add(at: Site, dy: ir.Value, source: ir.Value, x: ir.Value) -> ir.Value:
    """Zeros of the shape of ``x``, with each element of ``dy`` added at the flat position that ``source`` names.

    In half precision the sums are made in float32: ONNX Runtime's CPU kernel has no half-precision addition.
    """
    half = x.dtype in (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
    updates = at.op.Reshape(dy, [-1])
    if half:
        updates = at.op.Cast(updates, to=ir.DataType.FLOAT)
    zero = 0.0 if half else number(at, 0.0, x)
    shape = static_shape(x)
    flat = at.op.Expand(zero, at.op.Reshape(at.op.Size(x), [1]) if shape is None else [math.prod(shape)])
    dx = at.op.ScatterElements(flat, at.op.Reshape(source, [-1]), updates, axis=0, reduction="add")
    return restore(at, at.op.CastLike(dx, dy) if half else dx, x)


def _trace(at: Site, dy: ir.Value, apply: Callable[[ir.Value], ir.Value]) -> ir.Value:
    """The adjoint of any operator that only picks elements of x: run on positions, it tells where each came from."""
    x = at.input(0)
    positions = restore(at, at.op.Range(0, at.op.Size(x), 1), x)
    return scatter_add(at, dy, apply(positions), x)


# Shape only


@rule("Reshape", versions=(13, 14, 19, 21, 23, 24, 25))
def reshape(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    return (lambda: restore(at, dy, at.input(0)),)


@rule("Flatten", versions=(13, 21, 23, 24, 25))
def flatten(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    return (lambda: restore(at, dy, at.input(0)),)


@rule("Squeeze", versions=(13, 21, 23, 24, 25))
def squeeze(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    axes = at.optional(1)
    return (lambda: restore(at, dy, at.input(0)) if axes is None else at.op.Unsqueeze(dy, axes),)


@rule("Unsqueeze", versions=(13, 21, 23, 24, 25))
def unsqueeze(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    return (lambda: at.op.Squeeze(dy, at.input(1)),)


@rule("Transpose", versions=(13, 21, 23, 24, 25))
def transpose(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    perm = at.attribute("perm", None) or range(at.rank(at.input(0)))[::-1]
    return (lambda: at.op.Transpose(dy, perm=[list(perm).index(axis) for axis in range(len(perm))]),)


@rule("Expand", versions=(13,), broadcasts=True)
def expand(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    return (lambda: dy,)


# Joining and cutting


@rule("Concat", versions=(13,), inputs=ALL)
def concat(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    xs = [at.input(i) for i in range(len(at.x))]
    axis = at.attribute("axis", 0) % at.rank(at.y[0])
    sizes = [_length(x, axis) for x in xs]
    known = [size for size in sizes if size is not None]

    @functools.cache
    def parts() -> Sequence[ir.Value]:
        if len(xs) == 1:
            return [dy]
        lengths = (
            known
            if len(known) == len(xs)
            else at.op.Concat(*(at.op.Shape(x, start=axis, end=axis + 1) for x in xs), axis=0)
        )
        found: Sequence[ir.Value] = at.op.Split(dy, lengths, axis=axis, _outputs=len(xs))
        return found

    def part(i: int) -> ir.Value:
        if sum(at.active) > 1 or len(known) < len(xs):
            return parts()[i]
        dx: ir.Value = at.op.Slice(dy, [sum(known[:i])], [sum(known[: i + 1])], [axis])
        return dx

    return [functools.partial(part, i) for i in range(len(xs))]


@rule("Split", versions=(13, 18))
def split(at: Site, *dys: ir.Value | None) -> Sequence[Adjoint]:
    axis = at.attribute("axis", 0) % at.rank(at.input(0))
    sizes = [_length(y, axis) for y in at.y]

    def dx() -> ir.Value:
        (first, only), *others = [(i, dy) for i, dy in enumerate(dys) if dy is not None]
        known = [size for size in sizes if size is not None]
        if not others and len(known) == len(sizes):
            return fit(at, only, {axis: (sum(known[:first]), sum(known[first + 1 :]))}, at.rank(at.input(0)))
        parts = [zeros(at, y) if dy is None else dy for dy, y in zip(dys, at.y, strict=True)]
        joined: ir.Value = at.op.Concat(*parts, axis=axis)
        return joined

    return (dx,)


@rule("Slice", versions=(13,))
def slice_(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    bounds = [at.optional(i) for i in range(1, 5)]

    def dx() -> ir.Value:
        found = _uncut(at, dy)
        return _trace(at, dy, lambda positions: at.op.Slice(positions, *bounds)) if found is None else found

    return (dx,)


def _uncut(at: Site, dy: ir.Value) -> ir.Value | None:
    """The adjoint of a Slice in a few cheap nodes, or None where too little is known when the graph is built."""
    x, cuts = at.input(0), _cuts(at)
    if cuts is None:
        return None
    picked = {axis: range(*cut.indices(size)) for axis, cut in cuts.items() if (size := _length(x, axis)) is not None}
    if len(picked) == len(cuts):
        return _spread(at, dy, picked)
    if any(cut.step != 1 for cut in cuts.values()):
        return None
    axes, starts = list(cuts), [int(cut.start) for cut in cuts.values()]
    sizes, taken = at.op.Gather(at.op.Shape(x), axes), at.op.Gather(at.op.Shape(dy), axes)
    before = at.op.Min(sizes, starts)
    if min(starts) < 0:
        from_end = at.op.Mul(sizes, [int(start < 0) for start in starts])
        before = at.op.Max(at.op.Add(from_end, starts), [0])
    after = at.op.Sub(at.op.Sub(sizes, taken), before)
    dx: ir.Value = at.op.Pad(dy, at.op.Concat(before, after, axis=0), None, axes)
    return dx


def _cuts(at: Site) -> dict[int, slice] | None:
    """What a Slice takes of each axis that it does not take whole, if known when the graph is built."""
    starts, ends = at.constant(at.input(1)), at.constant(at.input(2))
    if starts is None or ends is None:
        return None
    axes = list(range(len(starts))) if at.optional(3) is None else at.constant(at.optional(3))
    steps = [1] * len(starts) if at.optional(4) is None else at.constant(at.optional(4))
    if axes is None or steps is None:
        return None
    cuts = zip(at.axes(axes, at.rank(at.input(0))), map(slice, starts, ends, steps), strict=True)
    return {axis: cut for axis, cut in cuts if cut.start != 0 or cut.step != 1 or cut.stop < _UNBOUNDED}


def _spread(at: Site, dy: ir.Value, picked: dict[int, range]) -> ir.Value | None:
    """``dy`` back at the positions ``picked`` along each axis, zeros between and around."""
    x = at.input(0)
    steps = {axis: abs(positions.step) for axis, positions in sorted(picked.items()) if abs(positions.step) > 1}
    merged: list[int] = []
    for axis in range(at.rank(x)):
        length = len(picked[axis]) if axis in picked else _length(x, axis)
        dim = 0 if steps and axis < min(steps) else -1  # a dimension that is not known: copied, or what remains
        merged.append(dim if length is None else length * steps.get(axis, 1))
    if steps and merged.count(-1) > 1:
        return None
    backwards = [axis for axis, positions in picked.items() if positions.step < 0]
    if backwards:
        count = len(backwards)
        dy = at.op.Slice(dy, [-1] * count, [-_UNBOUNDED] * count, backwards, [-1] * count)
    if steps:  # behind every element as many zeros as its step skips
        behind = [axis + 1 + i for i, axis in enumerate(steps)]
        skipped = {axis: (0, step - 1) for axis, step in zip(behind, steps.values(), strict=True)}
        dy = fit(at, at.op.Unsqueeze(dy, behind), skipped, at.rank(x) + len(behind))
        dy = at.op.Reshape(dy, merged)
    around = {}
    for axis, positions in picked.items():
        first = min(positions[0], positions[-1]) if positions else 0
        around[axis] = first, (_length(x, axis) or 0) - first - len(positions) * abs(positions.step)
    return fit(at, dy, around, at.rank(x))


@rule("Pad", versions=(13, 18, 19, 21, 23, 24, 25))
def pad(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    mode, pads, axes = at.attribute("mode", "constant"), at.input(1), at.optional(3)
    extra = () if axes is None else (None, axes)
    if mode != "constant":
        return (lambda: _trace(at, dy, lambda positions: at.op.Pad(positions, pads, *extra, mode=mode)),)
    known, rank = at.constant(pads), at.rank(at.input(0))
    padded = list(range(rank)) if axes is None else at.constant(axes)
    if known is None or padded is None:
        return (lambda: at.op.Pad(dy, at.op.Neg(pads), *extra),)
    sides = zip(known[: len(padded)], known[len(padded) :], strict=True)
    margins = {axis: (-before, -behind) for axis, (before, behind) in zip(at.axes(padded, rank), sides, strict=True)}
    return (lambda: fit(at, dy, margins, rank),)


# Picking


@rule("Gather", versions=(13,))
def gather(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    x, indices = at.input(0), at.input(1)
    axis = at.attribute("axis", 0) % at.rank(x)
    index, size = at.constant(indices), _length(x, axis)

    def dx() -> ir.Value:
        picked = [index] if isinstance(index, int) else index if isinstance(index, list) else []
        if size is None or not all(isinstance(i, int) for i in picked):
            picked = []
        block = [i % (size or 1) for i in picked]
        if block and block == list(range(block[0], block[0] + len(block))):
            dy_kept = at.op.Unsqueeze(dy, [axis]) if isinstance(index, int) else dy
            return fit(at, dy_kept, {axis: (block[0], (size or 1) - block[-1] - 1)}, at.rank(x))
        return _trace(at, dy, lambda positions: at.op.Gather(positions, indices, axis=axis))

    return (dx,)


def _length(value: ir.Value, axis: int) -> int | None:
    """The length of ``value`` along ``axis``, None where it is not known when the graph is built."""
    dim = None if value.shape is None else value.shape[axis]
    return dim if isinstance(dim, int) else None
