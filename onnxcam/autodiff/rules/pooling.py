"""Rules of pools."""

from __future__ import annotations

__all__: list[str] = []

import functools
import math
from collections.abc import Callable, Sequence

import onnx_ir as ir

from onnxcam.autodiff.registry import Adjoint, Site, rule
from onnxcam.autodiff.rules.convolution import correlation_adjoint
from onnxcam.autodiff.rules.movement import fit, number, restore, scatter_add, spread_evenly
from onnxcam.autodiff.rules.windows import Window, windows


@rule("GlobalAveragePool", versions=(1, 22))
def global_average_pool(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    x = at.input(0)
    return (lambda: _spread_evenly(at, dy, x),)


def _spread_evenly(at: Site, dy: ir.Value, x: ir.Value) -> ir.Value:
    """``dy``, one value a channel, shared out over the spatial axes of ``x``."""
    height_width = [dim for dim in (x.shape or [])[2:] if isinstance(dim, int)]
    dx: ir.Value
    if len(height_width) == at.rank(x) - 2:
        dx = spread_evenly(at, dy, [1, 1, *height_width])
    else:
        size = at.op.ReduceProd(at.op.Shape(x, start=2), keepdims=0)
        dx = at.op.Expand(at.op.Div(dy, at.op.CastLike(size, dy)), at.op.Shape(x))
    return dx


@rule("GlobalMaxPool", versions=(1, 22))
def global_max_pool(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    x, (y,) = at.input(0), at.y
    axes = list(range(2, at.rank(x)))

    def dx() -> ir.Value:  # equal maxima share evenly
        mask = at.op.CastLike(at.op.Equal(x, y), dy)
        shared: ir.Value = at.op.Mul(at.op.Div(dy, at.op.ReduceSum(mask, axes)), mask)
        return shared

    return (dx,)


@rule("GlobalLpPool", versions=(2, 22))
def global_lp_pool(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    return (lambda: _lp_adjoint(at, dy, lambda shared: shared),)


@rule("LpPool", versions=(11, 18, 22))
def lp_pool(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    x = at.input(0)
    along = _windows(at)
    return (lambda: _lp_adjoint(at, dy, lambda shared: _spread_over_windows(at, shared, x, along)),)


def _lp_adjoint(at: Site, dy: ir.Value, spread: Callable[[ir.Value], ir.Value]) -> ir.Value:
    """y = (Σ |x|^p)^(1/p): dx = sign(x) |x|^(p-1) Σ dy y^(1-p), and 0 where y is 0.

    In half precision the powers are taken in float32. spread: emits that sum, over the windows each x lies in.
    """
    op, x, y, p = at.op, at.input(0), at.y[0], at.attribute("p", 2)
    half = x.dtype in (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
    if half:
        x, y, dy = (op.Cast(value, to=ir.DataType.FLOAT) for value in (x, y, dy))
    if p == 1:
        dx = op.Mul(op.Sign(x), spread(dy))
    else:
        y = op.Add(y, op.CastLike(op.Equal(y, 0.0), y))
        shared = op.Div(dy, y) if p == 2 else op.Mul(dy, op.Pow(y, 1.0 - p))
        power = x if p == 2 else op.Pow(x, p - 1.0) if p % 2 == 0 else op.Mul(op.Sign(x), op.Pow(x, p - 1.0))
        dx = op.Mul(power, spread(shared))
    return op.CastLike(dx, at.input(0)) if half else dx  # type: ignore[no-any-return]


@rule("MaxPool", versions=(12, 22))
def max_pool(at: Site, dy: ir.Value, _: ir.Value | None = None) -> Sequence[Adjoint]:
    x = at.input(0)
    attributes = {name: attribute.value for name, attribute in at.node.attributes.items() if name != "storage_order"}

    def dx() -> ir.Value:
        if len(at.y) > 1 and not at.attribute("storage_order", 0):
            return scatter_add(at, dy, at.y[1], x)
        # A forward node without Indices stays so: they would slow it several times.
        _, source = at.op.MaxPool(x, **attributes, _outputs=2)
        return scatter_add(at, dy, source, x)

    return (dx,)


@rule("MaxUnpool", versions=(11, 22))
def max_unpool(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    """Each x stands in y at the flat position that the second input names."""
    if at.optional(2) is not None:
        raise at.unsupported("runtimes disagree on where the indices point under output_shape: leave it out and pad y")
    return (lambda: at.op.Gather(at.op.Reshape(dy, [-1]), at.input(1)),)


@rule("AveragePool", versions=(11, 19, 22))
def average_pool(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    """Every y gives 1/div to each x in its window, where div is the size K of the window or of a part of it."""
    x, along = at.input(0), _windows(at)
    ceil_mode = bool(at.attribute("ceil_mode", 0)) and not at.attribute("auto_pad", "").startswith("SAME")

    def dx() -> ir.Value:
        whole = _lie_inside(along) or (at.attribute("count_include_pad", 0) and not ceil_mode)
        shared = dy if whole else _over_divisor(at, dy, x, along, ceil_mode)
        return _spread_over_windows(at, shared, x, along, 1.0 / math.prod(a.kernel for a in along))

    return (dx,)


def _windows(at: Site) -> list[Window]:
    """The windows of the pool. ONNX Runtime (1.32) overlooks dilations under SAME, and lets its padding be negative."""
    along = windows(at, at.input(0), [int(k) for k in at.attribute("kernel_shape", ())])
    same = at.attribute("auto_pad", "").startswith("SAME")
    if same and any(a.extent > a.kernel or a.stride > a.kernel + 1 for a in along):
        raise at.unsupported(
            "runtimes disagree on auto_pad SAME with dilations, or with strides beyond the window: write the pads out"
        )
    return along


def _lie_inside(along: Sequence[Window]) -> bool:
    """Whether no window reaches beyond x."""
    return all(a.begin == 0 and (a.end == 0 and a.ceil is False if a.reach is None else a.reach <= 0) for a in along)


def _shares(at: Site, share: float, like: ir.Value, along: Sequence[Window]) -> ir.Value:
    """The weight of a Conv that gives ``share`` of every position of the window, in the type of ``like``."""
    weight: ir.Value = at.op.Expand(number(at, share, like), [1, 1, *(a.kernel for a in along)])
    return weight


def _spread_over_windows(at: Site, dy: ir.Value, x: ir.Value, along: Sequence[Window], share: float = 1.0) -> ir.Value:
    """Every ``dy`` times ``share``, added to each position of its window over ``x``."""
    kernel = [a.kernel for a in along]
    if _lie_inside(along) and all(a.kernel == a.stride and a.dilation == 1 and a.size and a.count for a in along):
        return _tile(at, dy if share == 1.0 else at.op.Mul(dy, share), along)
    pads = [a.extent - 1 - (a.begin or 0) for a in along] + [a.extent - 1 - (a.end or 0) for a in along]
    if all(a.stride == a.dilation == 1 and a.begin is not None for a in along) and min(pads) >= 0:
        means: ir.Value = at.op.AveragePool(dy, kernel_shape=kernel, pads=pads, count_include_pad=1)
        times = share * math.prod(kernel)
        return means if times == 1.0 else at.op.Mul(means, times)
    counts = [a.count for a in along if a.count is not None]
    known = len(counts) == len(along)
    planes = at.op.Reshape(dy, [-1, 1, *counts] if known else at.op.Concat([-1, 1], at.op.Shape(dy, start=2), axis=0))
    shares = functools.cache(lambda: _shares(at, share, dy, along))
    return restore(at, correlation_adjoint(at, planes, shares, along, x=x, mirrored=shares), x)


def _tile(at: Site, dy: ir.Value, along: Sequence[Window]) -> ir.Value:
    """Each value of ``dy`` over its whole window, where windows lie side by side; zeros where no window lies."""
    counts = [(a.count or 0) for a in along]
    apart = at.op.Reshape(dy, [0, 0, *(n for count in counts for n in (count, 1))])
    tiled = at.op.Expand(apart, [1, 1, *(n for a in along for n in (1, a.kernel))])
    dx: ir.Value = at.op.Reshape(tiled, [0, 0, *(count * a.kernel for count, a in zip(counts, along, strict=True))])
    behind = {2 + i: (0, -(a.reach or 0)) for i, a in enumerate(along)}
    return fit(at, dx, behind, 2 + len(along))


def _over_divisor(at: Site, dy: ir.Value, x: ir.Value, along: Sequence[Window], ceil_mode: bool) -> ir.Value:
    """``dy · K/div``. The factor depends on the sizes alone: where those are static it is folded to a constant.

    Under ceil_mode a Conv counts: onnx's reference evaluator, which folds constants for exporters, lays the windows
    of pools wrongly there.
    """
    kept = ("kernel_shape", "strides", "dilations", "pads", "auto_pad")
    attributes = {name: attribute.value for name, attribute in at.node.attributes.items() if name in kept}
    padding_counts = ceil_mode and at.attribute("count_include_pad", 0)
    margins = [(a.begin or 0, a.end or 0) if padding_counts else (0, 0) for a in along]
    sizes = [a.size + sum(margin) for a, margin in zip(along, margins, strict=True) if a.size is not None]
    shape: ir.Value | list[int] = [1, 1, *sizes]
    if len(sizes) < len(along):
        lengths = at.op.Shape(x, start=2)
        if padding_counts:
            lengths = at.op.Add(lengths, [sum(margin) for margin in margins])
        shape = at.op.Concat([1, 1], lengths, axis=0)
    ones = at.op.Expand(number(at, 1.0, dy), shape)
    scaled: ir.Value
    if not ceil_mode:
        scaled = at.op.Div(dy, at.op.AveragePool(ones, **attributes, count_include_pad=1))
        return scaled
    begins = [(a.begin or 0) - begin for a, (begin, _) in zip(along, margins, strict=True)]
    reaches = [(a.end or 0) + a.stride - 1 if a.reach is None else a.reach for a in along]
    ends = [max(reach - end, 0) for reach, (_, end) in zip(reaches, margins, strict=True)]
    attributes = {name: value for name, value in attributes.items() if name not in ("pads", "auto_pad")}
    inside = at.op.Conv(
        ones, _shares(at, 1.0 / math.prod(a.kernel for a in along), dy, along), **attributes, pads=begins + ends
    )
    if any(a.reach is None for a in along):  # one window more than the pool has, perhaps
        spatial = list(range(2, 2 + len(along)))
        inside = at.op.Slice(inside, [0] * len(along), at.op.Shape(dy, start=2), spatial)
    scaled = at.op.Div(dy, inside)
    return scaled
