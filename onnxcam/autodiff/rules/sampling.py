"""Rules of operators between pictures and their windows or samples."""

from __future__ import annotations

__all__: list[str] = []

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from onnxcam.autodiff.registry import Adjoint, Site, rule
from onnxcam.autodiff.rules.movement import identity, length, narrowed, number, restore, scatter_add, widened, zeros


@rule("Col2Im", versions=(18,))
def col2im(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    """The adjoint lays the windows of dy out as columns: a Conv with one kernel for each place in a window."""
    x, block = at.input(0), at.constant(at.input(2))
    if block is None:
        raise at.unsupported("block_shape must be known when the graph is built: make it a constant")
    rank, count = len(block), math.prod(block)

    def dx() -> ir.Value:
        kernels = at.op.Reshape(narrowed(at, identity(at, [count, count], dy), dy), [count, 1, *block])
        spatial = at.op.Shape(dy, start=2)
        planes = at.op.Reshape(dy, at.op.Concat([-1, 1], spatial, axis=0))
        columns = at.op.Conv(
            planes,
            kernels,
            kernel_shape=block,
            strides=at.attribute("strides", [1] * rank),
            pads=at.attribute("pads", [0] * (2 * rank)),
            dilations=at.attribute("dilations", [1] * rank),
        )
        return restore(at, columns, x)

    return (dx,)


@dataclass(frozen=True, slots=True)
class _Taps:
    """The elements of x that each sample reads along one axis or several: [N, samples, taps] each.

    index: flat over these axes.
    weight: what the element counts; 0 where it lies outside.
    slope: the derivative of the weight along the one axis.
    """

    index: ir.Value
    weight: ir.Value
    slope: ir.Value


@rule("GridSample", versions=(16, 20, 22), inputs=(0, 1))
def grid_sample(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    """y = Σ w(grid) x[taps], so dx adds w dy up at the taps, and dgrid = Σ w'(grid) x[taps] dy."""
    op, x, grid = at.op, at.input(0), at.input(1)
    spatial = at.rank(x) - 2
    if "cubic" in at.attribute("mode", "linear"):
        raise at.unsupported("cubic sampling is not covered: export with mode='bilinear'")

    @functools.cache
    def along() -> list[_Taps]:
        return [_taps(at, axis) for axis in range(spatial)]

    @functools.cache
    def index() -> ir.Value:  # [N, 1, samples, taps]
        flat = along()[0].index
        for axis, taps in list(enumerate(along()))[1:]:
            flat = _pairs(at, op.Add, op.Mul(flat, _size(at, axis)), taps.index)
        return op.Unsqueeze(flat, [1])  # type: ignore[no-any-return]

    @functools.cache
    def spread() -> ir.Value:  # [N, C, samples, 1]
        return op.Unsqueeze(op.Reshape(widened(at, dy), [0, 0, -1]), [3])  # type: ignore[no-any-return]

    def weight(sloping: int | None = None) -> ir.Value:
        """[N, samples, taps], or its derivative along an axis."""
        factors = [taps.slope if axis == sloping else taps.weight for axis, taps in enumerate(along())]
        return functools.reduce(lambda a, b: _pairs(at, op.Mul, a, b), factors)

    def dx() -> ir.Value:
        planes = op.Shape(x, end=2)
        area = op.Squeeze(functools.reduce(op.Mul, [_size(at, axis) for axis in range(spatial)]))
        first = op.Mul(op.Range(0, op.ReduceProd(planes, keepdims=0), 1), area)
        source = op.Add(op.Reshape(first, op.Concat(planes, [1, 1], axis=0)), index())
        return scatter_add(at, op.Mul(spread(), op.Unsqueeze(weight(), [1])), source, x)

    def dgrid() -> ir.Value:
        if "nearest" in at.attribute("mode", "linear"):
            return zeros(at, grid)
        picked = op.Reshape(index(), [0, 1, -1])
        picked = op.Expand(picked, op.Concat([1], op.Shape(x, start=1, end=2), [1], axis=0))
        read = op.GatherElements(op.Reshape(widened(at, x), [0, 0, -1]), picked, axis=2)
        read = op.Reshape(read, op.Concat(op.Shape(x, end=2), op.Shape(index(), start=2), axis=0))
        products = op.ReduceSum(op.Mul(read, spread()), [1], keepdims=0)
        slopes = [op.ReduceSum(op.Mul(products, weight(axis)), [2]) for axis in reversed(range(spatial))]
        return restore(at, narrowed(at, op.Concat(*slopes, axis=2), grid), grid)

    return dx, dgrid


def _size(at: Site, axis: int) -> ir.Value | list[int]:
    """The length of x along a spatial axis, as a list of one."""
    known = length(at.input(0), 2 + axis)
    found: ir.Value | list[int] = at.op.Shape(at.input(0), start=2 + axis, end=3 + axis) if known is None else [known]
    return found


def _pairs(at: Site, combine: Any, a: ir.Value, b: ir.Value) -> ir.Value:
    """Each tap of ``a`` with each tap of ``b``, flat."""
    found: ir.Value = at.op.Reshape(combine(at.op.Unsqueeze(a, [3]), at.op.Unsqueeze(b, [2])), [0, 0, -1])
    return found


def _taps(at: Site, axis: int) -> _Taps:
    """What the samples read along one spatial axis of x. The grid names the last axis first."""
    op, grid = at.op, widened(at, at.input(1))
    aligned, padding = at.attribute("align_corners", 0), at.attribute("padding_mode", "zeros")
    size = op.CastLike(_size(at, axis), grid)
    last = op.Sub(size, op.CastLike(1.0, grid))
    half = op.Mul(last if aligned else size, op.CastLike(0.5, grid))
    place = op.Reshape(op.Gather(grid, [at.rank(at.input(0)) - 3 - axis], axis=-1), [0, -1, 1])
    place = op.Add(op.Mul(place, half), op.Mul(last, op.CastLike(0.5, grid)))
    slope = half
    if padding == "reflection":  # a zigzag of the period 2·span
        low = op.CastLike(0.0 if aligned else -0.5, grid)
        span = last if aligned else size
        span = op.Max(span, op.CastLike(1e-6, grid))  # one element, aligned
        away = op.Sub(place, low)
        folded = op.Mod(op.Abs(away), op.Mul(span, op.CastLike(2.0, grid)), fmod=1)
        place = op.Add(op.Sub(span, op.Abs(op.Sub(folded, span))), low)
        slope = op.Mul(slope, op.Mul(op.Sign(away), op.Sign(op.Sub(span, folded))))
    nearest = "nearest" in at.attribute("mode", "linear")
    if padding != "zeros":
        inside = op.And(op.Greater(place, op.CastLike(0.0, grid)), op.Less(place, last))
        slope = op.Mul(slope, op.CastLike(inside, grid))
        place = op.Min(op.Max(place, op.CastLike(0.0, grid)), last)
    if nearest:
        index = op.Round(place)
        weight = op.Add(op.Sub(index, index), op.CastLike(1.0, grid))
    else:
        floor = op.Floor(place)
        index = op.Add(floor, op.CastLike([0.0, 1.0], grid))
        weight = op.Sub(op.CastLike(1.0, grid), op.Abs(op.Sub(place, index)))
        slope = op.Mul(slope, op.CastLike([-1.0, 1.0], grid))
    inside = op.And(op.GreaterOrEqual(index, op.CastLike(0.0, grid)), op.LessOrEqual(index, last))
    inside = op.CastLike(inside, grid)
    kept = op.Min(op.Max(index, op.CastLike(0.0, grid)), last)
    return _Taps(op.Cast(kept, to=ir.DataType.INT64), op.Mul(weight, inside), op.Mul(slope, inside))


@rule("AffineGrid", versions=(20,))
def affine_grid(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    """y = (place, 1) thetaᵀ, and under the identity the operator itself gives the places."""
    op, theta, size, spatial = at.op, at.input(0), at.input(1), at.rank(at.y[0]) - 2

    def dtheta() -> ir.Value:
        g = op.Reshape(widened(at, dy), op.Concat(op.Shape(dy, end=1), [-1, spatial], axis=0))
        still = op.Unsqueeze(identity(at, [spatial, spatial + 1], dy), [0])
        one_picture = op.Concat([1], op.Slice(size, [1], [spatial + 2]), axis=0)
        places = op.AffineGrid(still, one_picture, align_corners=at.attribute("align_corners", 0))
        turned = op.MatMul(op.Transpose(g, perm=[0, 2, 1]), op.Reshape(places, [1, -1, spatial]))
        moved = op.Transpose(op.ReduceSum(g, [1]), perm=[0, 2, 1])
        return narrowed(at, op.Concat(turned, moved, axis=2), theta)

    return (dtheta,)


@rule("RoiAlign", versions=(16, 22))
def roi_align(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    """For each region y = R_h x R_wᵀ, so dx = R_hᵀ dy R_w.

    The operator itself gives each R: of pictures of one lit row each, two elements wide, and a region that lies
    inside along the other axis.
    """
    op, x, rois, batch = at.op, at.input(0), at.input(1), at.input(2)
    if at.attribute("mode", "avg") != "avg":
        raise at.unsupported("mode max is not covered: export with mode='avg'")
    attributes = {name: attribute.value for name, attribute in at.node.attributes.items()}
    scale = at.attribute("spatial_scale", 1.0)

    def weights(axis: int) -> ir.Value:
        """Rᵀ, [regions, in, out]."""
        size = _size(at, axis)
        count = op.Concat(size, size, axis=0) if isinstance(size, ir.Value) else size * 2
        lit = op.Unsqueeze(identity(at, count, x), [0, 3 - axis])
        lit = op.Concat(lit, lit, axis=3 - axis)
        edges = op.Gather(widened(at, rois), [1 - axis, 3 - axis], axis=1)  # of x1, y1, x2, y2
        inside = op.Expand(op.CastLike([0.5 / scale, 1.5 / scale], edges), op.Shape(edges))
        order = [2, 0, 3, 1] if axis == 0 else [0, 2, 1, 3]
        regions = op.Gather(op.Concat(edges, inside, axis=1), order, axis=1)
        across = "output_width" if axis == 0 else "output_height"
        found = op.RoiAlign(lit, regions, op.Sub(batch, batch), **{**attributes, across: 1})
        return op.Squeeze(found, [3 - axis])  # type: ignore[no-any-return]

    def dx() -> ir.Value:
        rows, columns = (op.Unsqueeze(weights(axis), [1]) for axis in (0, 1))
        found = op.MatMul(op.MatMul(rows, widened(at, dy)), op.Transpose(columns, perm=[0, 1, 3, 2]))
        zero = op.Expand(number(at, 0.0, found), at.shape(x))
        return narrowed(at, op.ScatterND(zero, op.Unsqueeze(batch, [1]), found, reduction="add"), x)

    return (dx,)
