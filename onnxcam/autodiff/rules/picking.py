"""Rules of operators that pick some elements of a tensor."""

from __future__ import annotations

__all__: list[str] = []

from collections.abc import Sequence

import onnx_ir as ir

from onnxcam.autodiff.registry import Adjoint, Site, rule
from onnxcam.autodiff.rules.movement import (
    UNBOUNDED,
    add_along,
    fit,
    length,
    narrowed,
    trace,
    widened,
    zeros,
)

# Gathering


@rule("Gather", versions=(13,))
def gather(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    x, indices = at.input(0), at.input(1)
    axis = at.attribute("axis", 0) % at.rank(x)
    index, size = at.constant(indices), length(x, axis)

    def dx() -> ir.Value:
        picked = [index] if isinstance(index, int) else index if isinstance(index, list) else []
        if size is None or not all(isinstance(i, int) for i in picked):
            picked = []
        block = [i % (size or 1) for i in picked]
        if block and block == list(range(block[0], block[0] + len(block))):
            dy_kept = at.op.Unsqueeze(dy, [axis]) if isinstance(index, int) else dy
            return fit(at, dy_kept, {axis: (block[0], (size or 1) - block[-1] - 1)}, at.rank(x))
        return trace(at, dy, lambda positions: at.op.Gather(positions, indices, axis=axis))

    return (dx,)


@rule("GatherElements", versions=(13,))
def gather_elements(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    return (lambda: add_along(at, dy, at.input(1), at.input(0), at.attribute("axis", 0)),)


@rule("GatherND", versions=(13,))
def gather_nd(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    indices, batch_dims = at.input(1), at.attribute("batch_dims", 0)
    return (lambda: trace(at, dy, lambda positions: at.op.GatherND(positions, indices, batch_dims=batch_dims)),)


@rule("Compress", versions=(11, 28))
def compress(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    axis = at.attribute("axis", None)
    attributes = {} if axis is None else {"axis": axis}
    return (lambda: trace(at, dy, lambda positions: at.op.Compress(positions, at.input(1), **attributes)),)


@rule("TopK", versions=(11, 24))
def top_k(at: Site, dy: ir.Value, _: ir.Value | None = None) -> Sequence[Adjoint]:
    x, axis = at.input(0), at.attribute("axis", -1)

    def dx() -> ir.Value:  # no index comes twice
        return at.op.ScatterElements(zeros(at, x), at.y[1], dy, axis=axis)  # type: ignore[no-any-return]

    return (dx,)


@rule("OneHot", versions=(11, 28), inputs=(2,))
def one_hot(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    """y = off + (on - off) hot, with values = [off, on]."""
    indices, depth, values = (at.input(i) for i in range(3))

    def dvalues() -> ir.Value:
        wide = widened(at, dy)
        sums = []
        for place in ([1.0, 0.0], [0.0, 1.0]):
            hot = at.op.OneHot(indices, depth, at.op.CastLike(place, wide), axis=at.attribute("axis", -1))
            sums.append(at.op.Reshape(at.op.ReduceSum(at.op.Mul(wide, hot), keepdims=0), [1]))
        return narrowed(at, at.op.Concat(*sums, axis=0), values)

    return (dvalues,)


@rule("Trilu", versions=(14,))
def trilu(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    return (lambda: at.op.Trilu(dy, at.optional(1), upper=at.attribute("upper", 1)),)


# Slices


@rule("Slice", versions=(13,))
def slice_(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    bounds = [at.optional(i) for i in range(1, 5)]

    def dx() -> ir.Value:
        found = _uncut(at, dy)
        return trace(at, dy, lambda positions: at.op.Slice(positions, *bounds)) if found is None else found

    return (dx,)


def _uncut(at: Site, dy: ir.Value) -> ir.Value | None:
    """The adjoint of a Slice in a few cheap nodes, or None where too little is known when the graph is built."""
    x, along = at.input(0), _axes_and_steps(at)
    if along is None:
        return None
    starts, ends = at.constant(at.input(1)), at.constant(at.input(2))
    if starts is None or ends is None:
        steps = [step for _, step in along]
        return _uncut_once_run(at, dy, [axis for axis, _ in along], at.input(1)) if set(steps) <= {1} else None
    cuts = {
        axis: slice(start, end, step)
        for (axis, step), start, end in zip(along, starts, ends, strict=True)
        if start != 0 or step != 1 or end < UNBOUNDED
    }
    picked = {axis: _positions(cut, size) for axis, cut in cuts.items() if (size := length(x, axis)) is not None}
    if len(picked) == len(cuts):
        return _spread(at, dy, picked)
    if any(cut.step != 1 for cut in cuts.values()):
        return None
    return _uncut_once_run(at, dy, list(cuts), [int(cut.start) for cut in cuts.values()])


def _positions(cut: slice, size: int) -> range:
    """What a Slice takes of an axis. Unlike Python's, a negative step from before the first takes the first."""
    last = size if cut.step > 0 else size - 1
    start, end = (bound + size if bound < 0 else bound for bound in (cut.start, cut.stop))
    return range(min(max(start, 0), last), min(max(end, last - size), last), cut.step)


def _axes_and_steps(at: Site) -> list[tuple[int, int]] | None:
    """The axes that a Slice names, with the step along each, if known when the graph is built."""
    given = at.input(1).shape
    count = given[0] if given is not None else None
    axes = at.constant(at.optional(3)) if at.optional(3) is not None else isinstance(count, int) and list(range(count))
    if not isinstance(axes, list):
        return None
    steps = [1] * len(axes) if at.optional(4) is None else at.constant(at.optional(4))
    return None if steps is None else list(zip(at.axes(axes, at.rank(at.input(0))), steps, strict=True))


def _uncut_once_run(at: Site, dy: ir.Value, axes: list[int], starts: ir.Value | list[int]) -> ir.Value:
    """The adjoint of a Slice of step 1 whose bounds depend on sizes, or are no constants."""
    x = at.input(0)
    sizes, taken = at.op.Gather(at.op.Shape(x), axes), at.op.Gather(at.op.Shape(dy), axes)
    before: ir.Value | list[int] = starts
    if isinstance(before, ir.Value):
        before = at.op.Cast(before, to=ir.DataType.INT64)
        from_end = at.op.Mul(sizes, at.op.Cast(at.op.Less(before, [0]), to=ir.DataType.INT64))
        before = at.op.Max(at.op.Add(from_end, before), [0])
    elif min(before) < 0:
        from_end = at.op.Mul(sizes, [int(start < 0) for start in before])
        before = at.op.Max(at.op.Add(from_end, before), [0])
    before = at.op.Min(sizes, before)
    after = at.op.Sub(at.op.Sub(sizes, taken), before)
    dx: ir.Value = at.op.Pad(dy, at.op.Concat(before, after, axis=0), None, axes)
    return dx


def _spread(at: Site, dy: ir.Value, picked: dict[int, range]) -> ir.Value | None:
    """``dy`` back at the positions ``picked`` along each axis, zeros between and around."""
    x = at.input(0)
    if not all(picked.values()):
        return zeros(at, x)
    steps = {axis: abs(positions.step) for axis, positions in sorted(picked.items()) if abs(positions.step) > 1}
    merged: list[int] = []
    for axis in range(at.rank(x)):
        count = len(picked[axis]) if axis in picked else length(x, axis)
        dim = 0 if steps and axis < min(steps) else -1  # a dimension that is not known: copied, or what remains
        merged.append(dim if count is None else count * steps.get(axis, 1))
    if steps and merged.count(-1) > 1:
        return None
    backwards = [axis for axis, positions in picked.items() if positions.step < 0]
    if backwards:
        count = len(backwards)
        dy = at.op.Slice(dy, [-1] * count, [-UNBOUNDED] * count, backwards, [-1] * count)
    if steps:  # behind every element as many zeros as its step skips
        behind = [axis + 1 + i for i, axis in enumerate(steps)]
        skipped = {axis: (0, step - 1) for axis, step in zip(behind, steps.values(), strict=True)}
        dy = fit(at, at.op.Unsqueeze(dy, behind), skipped, at.rank(x) + len(behind))
        dy = at.op.Reshape(dy, merged)
    around = {}
    for axis, positions in picked.items():
        first = min(positions[0], positions[-1])
        around[axis] = first, (length(x, axis) or 0) - first - len(positions) * abs(positions.step)
    return fit(at, dy, around, at.rank(x))
