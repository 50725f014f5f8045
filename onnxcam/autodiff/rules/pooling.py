"""Rules of pools."""

from __future__ import annotations

__all__: list[str] = []

import math
from collections.abc import Sequence

import onnx_ir as ir

from onnxcam.autodiff.registry import Adjoint, Site, rule
from onnxcam.autodiff.rules.convolution import Window, correlation_adjoint, windows
from onnxcam.autodiff.rules.movement import restore, scatter_add


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
    attributes = {
        name: attribute.value for name, attribute in at.node.attributes.items() if name != "storage_order"
    }

    def dx() -> ir.Value:  # the forward node stays without Indices: they would slow it several times
        _, source = at.op.MaxPool(x, **attributes, _outputs=2)
        return scatter_add(at, dy, source, x)

    return (dx,)


@rule("AveragePool", versions=(11, 19, 22))
def average_pool(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    x, (y,) = at.input(0), at.y
    kernel = [int(k) for k in at.attribute("kernel_shape", ())]
    along = windows(at, x, y, kernel)
    return (lambda: _average_pool_adjoint(at, dy, x, kernel, along),)
