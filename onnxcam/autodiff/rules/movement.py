"""Rules of operators that move data without changing it: reshaping, joining, repeating, reordering."""

from __future__ import annotations

__all__ = [
    "HALF",
    "UNBOUNDED",
    "add_along",
    "fit",
    "identity",
    "length",
    "narrowed",
    "number",
    "restore",
    "scatter_add",
    "spread_evenly",
    "summed_blocks",
    "trace",
    "widened",
    "zeros",
]

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import onnx_ir as ir

from onnxcam.autodiff.registry import ALL, Adjoint, Site, rule, static_shape

HALF: Final = frozenset({ir.DataType.FLOAT16, ir.DataType.BFLOAT16})
"""The types whose sums are made in float32."""

UNBOUNDED: Final = 2**31 - 1
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
    if like.dtype == ir.DataType.FLOAT:
        return value
    typed: ir.Value = at.op.CastLike(value, like) if like.dtype is None else at.op.Cast(value, to=like.dtype)
    return typed


def spread_evenly(at: Site, dy: ir.Value, sizes: Sequence[int]) -> ir.Value:
    """``dy`` over as many places as ``sizes`` has, in each of them; a size of 1 stands for an axis that stays as it is.

    As a product with a constant, which ONNX Runtime finds faster than an Expand.
    """
    spread: ir.Value = at.op.Mul(dy, at.op.Expand(number(at, 1.0 / math.prod(sizes), dy), list(sizes)))
    return spread


def zeros(at: Site, like: ir.Value, typed: ir.Value | None = None) -> ir.Value:
    """Zeros of the shape of ``like`` and its type, or that of ``typed``."""
    made: ir.Value = at.op.Expand(number(at, 0.0, typed or like), at.shape(like))
    return made


def fit(at: Site, value: ir.Value, margins: Mapping[int, tuple[int, int]], rank: int) -> ir.Value:
    """``value``, of ``rank`` axes, with zeros added before and behind on some of them, and cut where negative.

    (A Pad with negative pads would do both; few runtimes know it.)
    """
    cuts = {axis: margin for axis, margin in margins.items() if min(margin) < 0}
    if cuts:
        starts = [max(-before, 0) for before, _ in cuts.values()]
        value = at.op.Slice(value, starts, [min(behind, 0) or UNBOUNDED for _, behind in cuts.values()], list(cuts))
    pads = [max(margins.get(axis, (0, 0))[side], 0) for side in (0, 1) for axis in range(rank)]
    if any(pads):
        value = at.op.Pad(value, pads)
    return value


def scatter_add(at: Site, dy: ir.Value, source: ir.Value, x: ir.Value) -> ir.Value:
    """Zeros of the shape of ``x``, with each element of ``dy`` added at the flat position that ``source`` names.

    In half precision the sums are made in float32: ONNX Runtime's CPU kernel has no half-precision addition.
    """
    half = dy.dtype in HALF
    updates = at.op.Reshape(dy, [-1])
    if half:
        updates = at.op.Cast(updates, to=ir.DataType.FLOAT)
    zero = 0.0 if half else number(at, 0.0, dy)
    shape = static_shape(x)
    flat = at.op.Expand(zero, at.op.Reshape(at.op.Size(x), [1]) if shape is None else [math.prod(shape)])
    dx = at.op.ScatterElements(flat, at.op.Reshape(source, [-1]), updates, axis=0, reduction="add")
    return restore(at, narrowed(at, dx, x), x)


def add_along(at: Site, dy: ir.Value, indices: ir.Value, x: ir.Value, axis: int) -> ir.Value:
    """Zeros of the shape of ``x``, with each element of ``dy`` added at its index along ``axis``."""
    zero = at.op.Expand(0.0, at.shape(x)) if x.dtype in HALF else zeros(at, x)
    dx: ir.Value = at.op.ScatterElements(zero, indices, widened(at, dy), axis=axis, reduction="add")
    return narrowed(at, dx, x)


def widened(at: Site, value: ir.Value) -> ir.Value:
    """``value`` for sums: half precision in float32."""
    wide: ir.Value = at.op.Cast(value, to=ir.DataType.FLOAT) if value.dtype in HALF else value
    return wide


def narrowed(at: Site, value: ir.Value, like: ir.Value) -> ir.Value:
    """The sum ``value`` of what was `widened` in the type of ``like`` again."""
    found: ir.Value = at.op.Cast(value, to=like.dtype) if like.dtype in HALF else value
    return found


def identity(at: Site, shape: ir.Value | list[int], like: ir.Value) -> ir.Value:
    """Ones on the diagonal of a matrix, in the type of ``like``; half precision in float32."""
    dtype = ir.DataType.FLOAT if like.dtype in HALF else like.dtype
    found: ir.Value = at.op.EyeLike(at.op.ConstantOfShape(shape), dtype=dtype)
    return found


def summed_blocks(at: Site, dy: ir.Value, x: ir.Value, factors: Mapping[int, int], *, whole: bool) -> ir.Value:
    """``dy``, which has the elements of ``x`` several times along some axes, with those of each summed.

    factors: how many times, for each such axis.
    whole: the axis is repeated as a whole (abab), not each of its elements by itself (aabb).
    """
    factors = {axis: factor for axis, factor in sorted(factors.items()) if factor != 1}
    if not factors:
        return dy
    pieces: list[int | ir.Value] = []
    summed = []
    for axis in range(at.rank(x)):
        size: int | ir.Value | None = length(x, axis)
        if size is None:
            size = 0 if axis < min(factors) else at.op.Shape(x, start=axis, end=axis + 1)  # 0 copies
        if axis in factors:
            summed.append(len(pieces) + (0 if whole else 1))
            pieces += [factors[axis], size] if whole else [size, factors[axis]]
        else:
            pieces.append(size)
    unknown = [i for i, piece in enumerate(pieces) if isinstance(piece, ir.Value)]
    if len(unknown) == 1:
        pieces[unknown[0]] = -1
    if len(unknown) > 1:
        shape = at.op.Concat(*([piece] if isinstance(piece, int) else piece for piece in pieces), axis=0)
    else:
        shape = pieces
    dx: ir.Value = at.op.ReduceSum(at.op.Reshape(dy, shape), summed, keepdims=0)
    return dx


def trace(at: Site, dy: ir.Value, apply: Callable[[ir.Value], ir.Value]) -> ir.Value:
    """The adjoint of any operator that only picks elements of x: run on positions, it tells where each came from."""
    x = at.input(0)
    positions = restore(at, at.op.Range(0, at.op.Size(x), 1), x)
    return scatter_add(at, dy, apply(positions), x)


def length(value: ir.Value, axis: int) -> int | None:
    """The length of ``value`` along ``axis``, None where it is not known when the graph is built."""
    dim = None if value.shape is None else value.shape[axis]
    return dim if isinstance(dim, int) else None


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


# Joining and cutting


@rule("Concat", versions=(13,), inputs=ALL)
def concat(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    xs = [at.input(i) for i in range(len(at.x))]
    axis = at.attribute("axis", 0) % at.rank(at.y[0])
    sizes = [length(x, axis) for x in xs]
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
    sizes = [length(y, axis) for y in at.y]

    def dx() -> ir.Value:
        (first, only), *others = [(i, dy) for i, dy in enumerate(dys) if dy is not None]
        known = [size for size in sizes if size is not None]
        if not others and len(known) == len(sizes):
            return fit(at, only, {axis: (sum(known[:first]), sum(known[first + 1 :]))}, at.rank(at.input(0)))
        parts = [zeros(at, y, only) if dy is None else dy for dy, y in zip(dys, at.y, strict=True)]
        joined: ir.Value = at.op.Concat(*parts, axis=axis)
        return joined

    return (dx,)


# Repeating


@rule("Expand", versions=(13,), broadcasts=True)
def expand(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    return (lambda: dy,)


@rule("Tile", versions=(13,))
def tile(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    x, repeats = at.input(0), at.input(1)
    known, rank = at.constant(repeats), at.rank(x)

    def dx() -> ir.Value:
        if known is not None and 0 not in known and 0 not in (static_shape(x) or ()):
            return summed_blocks(at, dy, x, dict(enumerate(known)), whole=True)
        if rank == 0:
            return dy
        pairs = at.op.Concat(at.op.Unsqueeze(repeats, [1]), at.op.Unsqueeze(at.op.Shape(x), [1]), axis=1)
        apart = at.op.Reshape(dy, at.op.Reshape(pairs, [-1]), allowzero=1)
        return at.op.ReduceSum(apart, list(range(0, 2 * rank, 2)), keepdims=0)  # type: ignore[no-any-return]

    return (dx,)


# Reordering


@rule("DepthToSpace", versions=(13, 28))
def depth_to_space(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    x, size = at.input(0), at.attribute("blocksize", 1)

    def dx() -> ir.Value:
        deep: ir.Value = at.op.SpaceToDepth(dy, blocksize=size)  # the block before the channel: DCR
        if at.attribute("mode", "DCR") == "DCR":
            return deep
        depth, block = length(x, 1), size * size
        channels = at.op.Div(at.op.Shape(x, start=1, end=2), [block]) if depth is None else [depth // block]
        apart = at.op.Reshape(deep, at.op.Concat([0, block], channels, [-1], axis=0))
        return restore(at, at.op.Transpose(apart, perm=[0, 2, 1, 3]), x)

    return (dx,)


@rule("SpaceToDepth", versions=(13, 28))
def space_to_depth(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    size, mode = at.attribute("blocksize", 1), at.attribute("mode", "DCR")
    return (lambda: at.op.DepthToSpace(dy, blocksize=size, mode=mode),)


@rule("ReverseSequence", versions=(10, 28))
def reverse_sequence(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    """Reversed twice, a sequence is as it was."""
    axes = {"batch_axis": at.attribute("batch_axis", 1), "time_axis": at.attribute("time_axis", 0)}
    return (lambda: at.op.ReverseSequence(dy, at.input(1), **axes),)
