"""Rules of operators that put a margin around a tensor, or cut one off."""

from __future__ import annotations

__all__: list[str] = []

from collections.abc import Sequence

import onnx_ir as ir

from onnxcam.autodiff.registry import Adjoint, Site, rule
from onnxcam.autodiff.rules.movement import fit, length, narrowed, restore, trace, widened, zeros


@rule("Pad", versions=(13, 18, 19, 21, 23, 24, 25), inputs=(0, 2))
def pad(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    mode, pads, axes, rank = at.attribute("mode", "constant"), at.input(1), at.optional(3), at.rank(at.input(0))
    extra = () if axes is None else (None, axes)

    def dx() -> ir.Value:
        if mode != "constant":
            return trace(at, dy, lambda positions: at.op.Pad(positions, pads, *extra, mode=mode))
        known = at.constant(pads)
        padded = list(range(rank)) if axes is None else at.constant(axes)
        if known is None or padded is None:
            return at.op.Pad(dy, at.op.Neg(pads), *extra)  # type: ignore[no-any-return]
        sides = zip(known[: len(padded)], known[len(padded) :], strict=True)
        margins = {axis: (-begin, -end) for axis, (begin, end) in zip(at.axes(padded, rank), sides, strict=True)}
        return fit(at, dy, margins, rank)

    def dvalue() -> ir.Value:
        """The sum of dy over the margin."""
        x, value, wide = at.input(0), at.input(2), widened(at, dy)
        if mode != "constant":
            return zeros(at, value)
        inside = at.op.Expand(at.op.CastLike(0.0, wide), at.shape(x))
        margin = at.op.Pad(inside, pads, at.op.CastLike(1.0, wide), *extra[1:])
        return narrowed(at, restore(at, at.op.ReduceSum(at.op.Mul(wide, margin), keepdims=0), value), value)

    return dx, dvalue


@rule("CenterCropPad", versions=(18,))
def center_crop_pad(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    """What was cut off at one side is padded there, and the other way round: the odd one is always behind."""
    x, rank = at.input(0), at.rank(at.input(0))
    axes = at.axes(at.attribute("axes", None) or range(rank), rank)

    def dx() -> ir.Value:
        missing = [_difference(length(x, axis), length(at.y[0], axis)) for axis in axes]
        known = [m for m in missing if m is not None]
        if len(known) < len(axes):
            return at.op.CenterCropPad(dy, at.op.Gather(at.op.Shape(x), list(axes)), axes=axes)  # type: ignore[no-any-return]
        # before: half of it, towards zero
        before = [abs(m) // 2 * (1 if m > 0 else -1) for m in known]
        return fit(at, dy, {axis: (b, m - b) for axis, b, m in zip(axes, before, known, strict=True)}, rank)

    return (dx,)


def _difference(a: int | None, b: int | None) -> int | None:
    return None if a is None or b is None else a - b
