"""Rules of pools."""

from __future__ import annotations

__all__: list[str] = []

import functools
import math
from collections.abc import Sequence

import onnx_ir as ir

from onnxcam.autodiff.registry import Adjoint, Site, rule
from onnxcam.autodiff.rules.convolution import Window, correlation_adjoint, windows
from onnxcam.autodiff.rules.movement import fit, number, restore, scatter_add


@rule("GlobalAveragePool", versions=(1, 22))
def global_average_pool(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    x = at.input(0)
    return (lambda: _spread_evenly(at, dy, x),)


def _spread_evenly(at: Site, dy: ir.Value, x: ir.Value) -> ir.Value:
    """``dy``, one value a channel, shared out over the spatial axes of ``x``."""
    height_width = [dim for dim in (x.shape or [])[2:] if isinstance(dim, int)]
    dx: ir.Value
    if len(height_width) == at.rank(x) - 2:
        dx = at.op.Expand(at.op.Mul(dy, 1.0 / math.prod(height_width)), [1, 1, *height_width])
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


@rule("MaxPool", versions=(12, 22))
def max_pool(at: Site, dy: ir.Value, _: ir.Value | None = None) -> Sequence[Adjoint]:
    x = at.input(0)
    attributes = {name: attribute.value for name, attribute in at.node.attributes.items() if name != "storage_order"}

    def dx() -> ir.Value:  # the forward node stays without Indices: they would slow it several times
        _, source = at.op.MaxPool(x, **attributes, _outputs=2)
        return scatter_add(at, dy, source, x)

    return (dx,)


@rule("AveragePool", versions=(11, 19, 22))
def average_pool(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    x = at.input(0)
    kernel = [int(k) for k in at.attribute("kernel_shape", ())]
    along = windows(at, x, kernel)
    return (lambda: _average_pool_adjoint(at, dy, x, kernel, along),)


def _average_pool_adjoint(
    at: Site, dy: ir.Value, x: ir.Value, kernel: Sequence[int], along: Sequence[Window]
) -> ir.Value:
    """Every y gives 1/div to each x in its window: of K positions that is K/div, spread by a kernel of 1/K."""
    whole = math.prod(kernel)
    ceil_mode = bool(at.attribute("ceil_mode", 0)) and not at.attribute("auto_pad", "").startswith("SAME")
    inside = all(a.begin == 0 and (a.end == 0 and not ceil_mode if a.reach is None else a.reach <= 0) for a in along)
    dx: ir.Value
    if inside and all(a.kernel == a.stride and a.dilation == 1 and a.size and a.count for a in along):
        return _tile(at, at.op.Mul(dy, 1.0 / whole), along)
    share = functools.cache(lambda: at.op.Expand(number(at, 1.0 / whole, dy), [1, 1, *kernel]))
    if not inside and (ceil_mode or not at.attribute("count_include_pad", 0)):
        dy = _over_divisor(at, dy, x, along, share, ceil_mode)
    pads = [a.extent - 1 - (a.begin or 0) for a in along] + [a.extent - 1 - (a.end or 0) for a in along]
    if all(a.stride == a.dilation == 1 and a.begin is not None for a in along) and min(pads) >= 0:
        dx = at.op.AveragePool(dy, kernel_shape=kernel, pads=pads, count_include_pad=1)
        return dx
    counts = [a.count for a in along if a.count is not None]
    known = len(counts) == len(along)
    planes = at.op.Reshape(dy, [-1, 1, *counts] if known else at.op.Concat([-1, 1], at.op.Shape(dy, start=2), axis=0))
    return restore(at, correlation_adjoint(at, planes, share, along, x=x, mirrored=share), x)


def _tile(at: Site, dy: ir.Value, along: Sequence[Window]) -> ir.Value:
    """Each value of ``dy`` over its whole window, where windows lie side by side; zeros where no window lies."""
    counts = [(a.count or 0) for a in along]
    apart = at.op.Reshape(dy, [0, 0, *(n for count in counts for n in (count, 1))])
    tiled = at.op.Expand(apart, [1, 1, *(n for a in along for n in (1, a.kernel))])
    dx: ir.Value = at.op.Reshape(tiled, [0, 0, *(count * a.kernel for count, a in zip(counts, along, strict=True))])
    behind = {2 + i: (0, -(a.reach or 0)) for i, a in enumerate(along)}
    return fit(at, dx, behind, 2 + len(along))


def _over_divisor(
    at: Site, dy: ir.Value, x: ir.Value, along: Sequence[Window], share: Adjoint, ceil_mode: bool
) -> ir.Value:
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
    inside = at.op.Conv(ones, share(), **attributes, pads=begins + ends)
    if any(a.reach is None for a in along):  # one window more than the pool has, perhaps
        spatial = list(range(2, 2 + len(along)))
        inside = at.op.Slice(inside, [0] * len(along), at.op.Shape(dy, start=2), spatial)
    scaled = at.op.Div(dy, inside)
    return scaled
