"""Rules of convolutions."""

from __future__ import annotations

__all__ = ["correlation_adjoint"]

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
import onnx_ir as ir

from onnxcam.autodiff.registry import Adjoint, Site, rule
from onnxcam.autodiff.rules.masks import as_type_of
from onnxcam.autodiff.rules.movement import fit
from onnxcam.autodiff.rules.windows import Window, spatial, windows

_BEFORE_FIRST: Final = -(2**31)
"""The ``ends`` of a Slice with a negative step that takes the first element too."""


def correlation_adjoint(
    at: Site,
    dy: ir.Value,
    w: Callable[[], ir.Value],
    along: Sequence[Window],
    *,
    x: ir.Value,
    group: int = 1,
    mirrored: Callable[[], ir.Value],
) -> ir.Value:
    """The adjoint with respect to x of ``y = Conv(x, w)``: every y spreads over its window.

    With stride 1 this is a Conv with the mirrored weight, which ONNX Runtime runs faster than a ConvTranspose. So it is
    with greater strides where channels stay apart, of dy with zeros between its elements; and where windows are of one
    place, with zeros between the elements of what the Conv gives.

    w: emits the weight.
    x: gives the spatial sizes where they are not static.
    mirrored: emits w with its channels swapped and its spatial axes reversed.
    """
    if all(a.stride == 1 and a.begin is not None for a in along):
        return _by_conv(at, dy, mirrored(), along, group)
    dense = [a for a in (each.dense() for each in along) if a is not None]
    if len(dense) == len(along):  # all sizes are known
        if all(a.kernel == 1 for a in along):
            few = _spread(at, at.op.Conv(dy, mirrored(), group=group), along)
            return fit(at, few, {2 + i: (-(a.begin or 0), -(a.end or 0)) for i, a in enumerate(dense)}, 2 + len(along))
        if _is_depthwise(dy, x, group):
            return _by_conv(at, _spread(at, dy, along), mirrored(), dense, group)
    return _by_conv_transpose(at, dy, w(), along, x, group)


def _by_conv(at: Site, dy: ir.Value, w: ir.Value, along: Sequence[Window], group: int) -> ir.Value:
    begins = [a.extent - 1 - a.begin for a in along if a.begin is not None]
    ends = [a.extent - 1 - a.end for a in along if a.end is not None]
    # The outermost windows may lie in the padding alone.
    margins = {2 + i: (min(p, 0), min(q, 0)) for i, (p, q) in enumerate(zip(begins, ends, strict=True))}
    dy = fit(at, dy, margins, 2 + len(along))
    dx: ir.Value = at.op.Conv(
        dy,
        w,
        kernel_shape=[a.kernel for a in along],
        dilations=[a.dilation for a in along],
        pads=[max(p, 0) for p in begins + ends],
        group=group,
    )
    return dx


def _is_depthwise(dy: ir.Value, x: ir.Value, group: int) -> bool:
    """Whether each channel of x makes one of y, and no other."""
    return all(value.shape is not None and value.shape[1] == group for value in (dy, x))


def _spread(at: Site, value: ir.Value, along: Sequence[Window]) -> ir.Value:
    """``value``, of one element a window, with ``stride - 1`` zeros behind each: repeated, and what repeats masked."""
    strides = [a.stride for a in along]
    repeated = at.op.Resize(
        value, None, [1.0, 1.0, *map(float, strides)], mode="nearest", coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    )  # fmt: skip
    first = np.zeros((1, 1, *strides), np.float32)
    first[(0,) * first.ndim] = 1
    mask = at.op.Tile(as_type_of(at, at.op.Constant(value=ir.tensor(first)), value), [1, 1, *(a.count for a in along)])
    return at.op.Mul(repeated, mask)  # type: ignore[no-any-return]


def _by_conv_transpose(
    at: Site, dy: ir.Value, w: ir.Value, along: Sequence[Window], x: ir.Value, group: int
) -> ir.Value:
    """Only symmetric padding goes into the node: ONNX Runtime has no CUDA kernel for the rest, which is sliced off."""
    reaches = [a.reach for a in along if a.reach is not None]
    begins = [a.begin for a in along if a.begin is not None]
    sizes = [a.size for a in along if a.size is not None]
    if len(reaches) == len(along):
        pads = [min(b, e + a.stride - 1) for a, b, e in zip(along, begins, reaches, strict=True)]
        more = [max(p - e, 0) for p, e in zip(pads, reaches, strict=True)]
    else:  # at least as long as x, whatever its size
        pads, more = [0] * len(along), [a.stride - 1 for a in along]
    full = at.op.ConvTranspose(
        dy,
        w,
        kernel_shape=[a.kernel for a in along],
        strides=[a.stride for a in along],
        dilations=[a.dilation for a in along],
        pads=pads + pads,
        output_padding=more,
        group=group,
    )
    axes = list(range(2, 2 + len(along)))
    dx: ir.Value
    if len(reaches) == len(along):
        if pads == begins and all(e <= p for p, e in zip(pads, reaches, strict=True)):
            return full  # type: ignore[no-any-return]
        starts = [b - p for b, p in zip(begins, pads, strict=True)]
        dx = at.op.Slice(full, starts, [s + size for s, size in zip(starts, sizes, strict=True)], axes)
        return dx
    height_width = at.op.Shape(x, start=2)
    if len(begins) == len(along):
        dx = at.op.Slice(full, begins, at.op.Add(height_width, begins), axes)
        return dx
    beyond = at.op.Sub(at.op.Sub(at.op.Shape(full, start=2), more), height_width)
    total = at.op.Max(beyond, [0])
    begin = at.op.Div(at.op.Add(total, [1]) if at.attribute("auto_pad", "") == "SAME_LOWER" else total, [2])
    dx = at.op.Slice(full, begin, at.op.Add(height_width, begin), axes)
    return dx


@rule("Conv", versions=(11, 22), inputs=(0, 1, 2))
def conv(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    x, w = at.input(0), at.input(1)
    group, kernel = at.attribute("group", 1), _kernel(at, w)
    along = windows(at, x, kernel)

    def dx() -> ir.Value:
        if group == 1 and _is_one_place(w, x) and _is_one_place(w, at.y[0]):
            return _by_matrix(at, dy, w, len(along))
        return correlation_adjoint(
            at, dy, lambda: w, along, x=x, group=group, mirrored=lambda: _mirrored(at, w, kernel, group)
        )

    return (
        dx,
        lambda: _weight_adjoint(at, dy, x, w, along, group),
        lambda: at.op.ReduceSum(dy, [0, *range(2, 2 + len(along))], keepdims=0),
    )


def _is_one_place(w: ir.Value, x: ir.Value) -> bool:
    """Whether the kernel of ``w`` and the map ``x`` are of one place, as behind a global pool."""
    return all(
        value.shape is not None and len(value.shape) > 2 and all(size == 1 for size in value.shape[2:])
        for value in (w, x)
    )


def _by_matrix(at: Site, dy: ir.Value, w: ir.Value, rank: int) -> ir.Value:
    """``dy`` times ``w`` as a matrix, which needs no mirrored copy of the weight and half the time of a Conv."""
    op = at.op
    dx: ir.Value = op.MatMul(op.Flatten(dy), op.Flatten(w))
    return op.Unsqueeze(dx, list(range(2, 2 + rank)))  # type: ignore[no-any-return]


def _kernel(at: Site, w: ir.Value) -> list[int]:
    """The spatial shape of the weight ``w``."""
    kernel = at.attribute("kernel_shape", None) or (None if w.shape is None else list(w.shape)[2:])
    found = [k for k in kernel or () if isinstance(k, int)]
    if kernel is None or len(found) < len(kernel):
        raise at.unsupported(f"the kernel's shape is not static (weight '{w.name}')")
    return found


def _mirrored(at: Site, w: ir.Value, kernel: Sequence[int], group: int) -> ir.Value:
    """``w`` with input and output channels swapped within each group and the spatial axes reversed.

    Folded when a session loads the model, so the file holds a constant weight once.
    """
    rank = len(kernel)
    spatial = range(2, 2 + rank)
    if group == 1:
        w = at.op.Transpose(w, perm=[1, 0, *spatial])
    else:
        shape = [n for n in list(w.shape or ())[:2] if isinstance(n, int)]
        if len(shape) < 2:
            raise at.unsupported(f"the channels of the grouped weight '{w.name}' are not static")
        outs, ins = shape[0] // group, shape[1]
        if outs > 1 and ins > 1:
            w = at.op.Reshape(w, [group, outs, ins, *kernel])
            w = at.op.Transpose(w, perm=[0, 2, 1, *range(3, 3 + rank)])
        if outs > 1 or ins > 1:
            w = at.op.Reshape(w, [group * ins, outs, *kernel])
    axes = [axis for axis, k in zip(spatial, kernel, strict=True) if k > 1]
    if axes:
        w = at.op.Slice(w, [-1] * len(axes), [_BEFORE_FIRST] * len(axes), axes, [-1] * len(axes))
    return w


def _weight_adjoint(at: Site, dy: ir.Value, x: ir.Value, w: ir.Value, along: Sequence[Window], group: int) -> ir.Value:
    """``dw = Conv(x, dy)`` with batch and channels swapped, and strides and dilations too."""
    rank = len(along)
    spatial = list(range(2, 2 + rank))
    begins, ends = [a.begin for a in along if a.begin is not None], [a.end for a in along if a.end is not None]
    if len(begins) < rank:
        raise at.unsupported("the weight's gradient under auto_pad SAME needs static sizes")
    if group > 1:  # [N, g·c, …] → [c, g·N, …]
        channels = None if w.shape is None else w.shape[1]
        if not isinstance(channels, int):
            raise at.unsupported(f"the channels of the grouped weight '{w.name}' are not static")
        height_width = at.op.Shape(x, start=2)
        x = at.op.Reshape(x, at.op.Concat([0, group, channels], height_width, axis=0))
        x = at.op.Transpose(x, perm=[2, 1, 0, *range(3, 3 + rank)])
        x = at.op.Reshape(x, at.op.Concat([channels, -1], height_width, axis=0))
    else:
        x = at.op.Transpose(x, perm=[1, 0, *spatial])
    dw = at.op.Conv(
        x,
        at.op.Transpose(dy, perm=[1, 0, *spatial]),
        strides=[a.dilation for a in along],
        dilations=[a.stride for a in along],
        pads=begins + ends,
        group=group,
    )
    dw = at.op.Slice(dw, [0] * rank, [a.kernel for a in along], spatial)  # what no window read made it longer
    swapped: ir.Value = at.op.Transpose(dw, perm=[1, 0, *spatial])
    return swapped


@rule("ConvTranspose", versions=(11, 22), inputs=(0, 1, 2))
def conv_transpose(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    """y is the adjoint of a Conv of the same weight: dx is that Conv of dy, and dw is its weight's, with x for dy."""
    x, w, group = at.input(0), at.input(1), at.attribute("group", 1)
    along = _windows_of_transpose(at, x, at.y[0], _kernel(at, w))
    rank = len(along)
    pads = [a.begin or 0 for a in along] + [a.end or 0 for a in along]

    def dx() -> ir.Value:
        found: ir.Value = at.op.Conv(
            dy,
            w,
            kernel_shape=[a.kernel for a in along],
            strides=[a.stride for a in along],
            dilations=[a.dilation for a in along],
            pads=pads,
            group=group,
        )
        return found

    return (
        dx,
        lambda: _weight_adjoint(at, x, dy, w, along, group),
        lambda: at.op.ReduceSum(dy, [0, *range(2, 2 + rank)], keepdims=0),
    )


def _windows_of_transpose(at: Site, x: ir.Value, y: ir.Value, kernel: Sequence[int]) -> list[Window]:
    """The windows of the Conv whose adjoint a ConvTranspose is: over y, one for each element of x.

    Where ``output_shape`` or auto_pad SAME asks for more than the windows reach, zeros stand at the end.
    """
    rank = len(kernel)
    strides = at.attribute("strides", [1] * rank)
    dilations = at.attribute("dilations", [1] * rank)
    more = at.attribute("output_padding", [0] * rank)
    pads = at.attribute("pads", [0] * (2 * rank))
    auto_pad = at.attribute("auto_pad", "NOTSET")
    output_shape = (at.attribute("output_shape", None) or [])[-rank:]
    sizes, counts = spatial(y, rank), spatial(x, rank)
    along = []
    for i, (k, stride, dilation) in enumerate(zip(kernel, strides, dilations, strict=True)):
        begin, end, count = pads[i], pads[i + rank], counts[i]
        if output_shape or auto_pad.startswith("SAME"):
            beyond = dilation * (k - 1) + 1 + more[i] - stride  # how much longer y were without padding than stride · x
            if output_shape and count is None:
                raise at.unsupported("output_shape needs static sizes")
            total = max(beyond + (stride * (count or 0) - output_shape[i] if output_shape else 0), 0)
            begin = total // 2 if auto_pad == "SAME_UPPER" else total - total // 2
            end = total - begin
        along.append(Window(sizes[i], k, stride, dilation, begin, end))
    return along
