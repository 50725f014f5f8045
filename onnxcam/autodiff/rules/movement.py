"""Rules of operators that move data without changing it: reshaping, joining, cutting, padding, picking."""

from __future__ import annotations

__all__ = ["restore", "scatter_add", "zeros"]

import functools
from collections.abc import Callable, Sequence

import onnx_ir as ir

from onnxcam.autodiff.registry import ALL, Adjoint, Site, rule, static_shape


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


def zeros(at: Site, like: ir.Value) -> ir.Value:
    """Zeros of the type and shape of ``like``."""
    made: ir.Value = at.op.Expand(at.op.CastLike(0.0, like), at.op.Shape(like))
    return made


def scatter_add(at: Site, dy: ir.Value, source: ir.Value, x: ir.Value) -> ir.Value:
    """Zeros of the shape of ``x``, with each element of ``dy`` added at the flat position that ``source`` names.

    In half precision the sums are made in float32: ONNX Runtime's CPU kernel has no half-precision addition.
    """
    half = x.dtype in (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
    updates = at.op.Reshape(dy, [-1])
    if half:
        updates = at.op.Cast(updates, to=ir.DataType.FLOAT)
    flat = at.op.Expand(at.op.CastLike(0.0, updates), at.op.Reshape(at.op.Size(x), [1]))
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
        present = [i for i, dy in enumerate(dys) if dy is not None]
        known = [size for size in sizes if size is not None]
        found: ir.Value
        if len(present) == 1 and len(known) == len(sizes):
            (i,) = present
            return _pad(at, dys[i], {axis: (sum(known[:i]), sum(known[i + 1 :]))})
        found = at.op.Concat(*(zeros(at, y) if dy is None else dy for dy, y in zip(dys, at.y, strict=True)), axis=axis)
        return found

    return (dx,)


@rule("Slice", versions=(13,))
def slice_(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    return (lambda: _slice_static(at, dy) or _slice_dynamic(at, dy),)


def _slice_static(at: Site, dy: ir.Value) -> ir.Value | None:
    """The adjoint in at most five cheap nodes, where what is cut is known when the graph is built."""
    x = at.input(0)
    starts, ends = at.constant(at.input(1)), at.constant(at.input(2))
    if starts is None or ends is None:
        return None
    axes = at.constant(at.optional(3)) if at.optional(3) else list(range(len(starts)))
    steps = at.constant(at.optional(4)) if at.optional(4) else [1] * len(starts)
    if axes is None or steps is None:
        return None
    axes = at.axes(axes, at.rank(x))
    taken = {}
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        size = _length(x, axis)
        if size is None:
            return None
        taken[axis] = range(*slice(start, end, step).indices(size))
    backwards = [axis for axis, picked in taken.items() if picked.step < 0]
    strides = {axis: abs(picked.step) for axis, picked in taken.items() if abs(picked.step) > 1}
    if strides and (merged := _merged(x, taken, strides)) is None:
        return None
    if backwards:
        count = len(backwards)
        dy = at.op.Slice(dy, [-1] * count, [-(2**31)] * count, backwards, [-1] * count)
    if strides:  # behind every element, as many zeros as the step skips
        behind = [axis + 1 + i for i, axis in enumerate(sorted(strides))]
        dy = at.op.Unsqueeze(dy, behind)
        dy = _pad(at, dy, {axis: (0, strides[of] - 1) for axis, of in zip(behind, sorted(strides), strict=True)}, at.rank(x) + len(behind))
        dy = at.op.Reshape(dy, merged)
    pads = {}
    for axis, picked in taken.items():
        first = min(picked[0], picked[-1]) if picked else 0
        size = _length(x, axis) or 0
        pads[axis] = first, size - first - len(picked) * abs(picked.step)
    return _pad(at, dy, pads)


def _merged(x: ir.Value, taken: dict[int, range], strides: dict[int, int]) -> list[int] | None:
    """The target of the Reshape that merges each strided axis with its zeros, or None where it needs a Shape."""
    dims: list[int] = []
    for axis in range(0 if x.shape is None else len(x.shape)):
        size = len(taken[axis]) if axis in taken else _length(x, axis)
        if size is not None:
            dims.append(size * strides.get(axis, 1))
        else:
            dims.append(0 if axis < min(strides) else -1)
    return dims if dims.count(-1) <= 1 else None


def _slice_dynamic(at: Site, dy: ir.Value) -> ir.Value:
    bounds = [at.optional(i) for i in range(1, 5)]
    return _trace(at, dy, lambda positions: at.op.Slice(positions, *bounds))


@rule("Pad", versions=(13, 18, 19, 21, 23, 24, 25))
def pad(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    mode, pads, axes = at.attribute("mode", "constant"), at.input(1), at.optional(3)
    extra = () if axes is None else (None, axes)
    if mode == "constant":
        known = at.constant(pads)
        back = at.op.Neg(pads) if known is None else [-p for p in known]
        return (lambda: at.op.Pad(dy, back, *extra),)
    return (lambda: _trace(at, dy, lambda positions: at.op.Pad(positions, pads, *extra, mode=mode)),)


def _pad(at: Site, value: ir.Value | None, pads: dict[int, tuple[int, int]], rank: int | None = None) -> ir.Value:
    """``value`` with zeros before and behind on some axes (cut where negative)."""
    if value is None or not any(before or behind for before, behind in pads.values()):
        assert value is not None
        return value
    rank = at.rank(at.input(0)) if rank is None else rank
    padded: ir.Value = at.op.Pad(value, [pads.get(axis, (0, 0))[side] for side in (0, 1) for axis in range(rank)])
    return padded


# Picking


@rule("Gather", versions=(13,))
def gather(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    x, indices = at.input(0), at.input(1)
    axis = at.attribute("axis", 0) % at.rank(x)
    index, size = at.constant(indices), _length(x, axis)

    def dx() -> ir.Value:
        if isinstance(index, int) and size is not None:
            first = index % size
            return _pad(at, at.op.Unsqueeze(dy, [axis]), {axis: (first, size - first - 1)})
        return _trace(at, dy, lambda positions: at.op.Gather(positions, indices, axis=axis))

    return (dx,)


def _length(value: ir.Value, axis: int) -> int | None:
    """The length of ``value`` along ``axis``, None where it is not known when the graph is built."""
    dim = None if value.shape is None else value.shape[axis]
    return dim if isinstance(dim, int) else None
