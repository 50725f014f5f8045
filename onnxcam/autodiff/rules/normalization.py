"""Rules of normalisations."""

from __future__ import annotations

__all__: list[str] = []

import functools
from collections.abc import Sequence

import onnx_ir as ir

from onnxcam.autodiff.registry import Adjoint, Site, rule, sum_to


@rule("BatchNormalization", versions=(14, 15), inputs=(0, 1, 2))
def batch_normalization(at: Site, dy: ir.Value, *_: ir.Value | None) -> Sequence[Adjoint]:
    """In inference y = scale (x - mean) / std + bias, with mean and std as constants of each channel."""
    if at.attribute("training_mode", 0):
        raise at.unsupported("training_mode=1 normalises by the batch's own mean: export the model in evaluation mode")
    op, x, rank = at.op, at.input(0), at.rank(at.input(0))
    others = [axis for axis in range(rank) if axis != 1]

    def channels(value: ir.Value) -> ir.Value:
        """One value a channel, in the type of dy and against the axes of x."""
        if value.dtype != dy.dtype:
            value = op.Cast(value, to=dy.dtype)
        return value if rank <= 2 else op.Unsqueeze(value, [*range(1, rank - 1)])

    @functools.cache
    def std() -> ir.Value:
        return op.Sqrt(op.Add(at.input(4), at.attribute("epsilon", 1e-5)))  # type: ignore[no-any-return]

    def dx() -> ir.Value:
        return op.Mul(dy, op.Div(channels(at.input(1)), channels(std())))  # type: ignore[no-any-return]

    def dscale() -> ir.Value:
        normal = op.Div(op.Sub(x, channels(at.input(3))), channels(std()))
        return _like(at, op.ReduceSum(op.Mul(dy, normal), others, keepdims=0), at.input(1))

    def dbias() -> ir.Value:
        return _like(at, op.ReduceSum(dy, others, keepdims=0), at.input(2))

    return dx, dscale, dbias


@rule("LayerNormalization", versions=(17,), inputs=(0, 1, 2))
def layer_normalization(
    at: Site, dy: ir.Value, dmean: ir.Value | None = None, drstd: ir.Value | None = None
) -> Sequence[Adjoint]:
    """With z = (x - mean) / std and ĝ = dy scale: dx = (ĝ - mean(ĝ) - z mean(ĝ z)) / std.

    Mean and std are recomputed, in float32 for half precision, as the operator has them.
    """
    if dmean is not None or drstd is not None:
        raise at.unsupported("the outputs Mean and InvStdDev are not differentiated")
    op, x, (y, *_), half = at.op, at.input(0), at.y, at.input(0).dtype in _HALF
    rank = at.rank(x)
    axes = list(range(at.attribute("axis", -1) % rank, rank))

    def wide(value: ir.Value) -> ir.Value:
        return op.Cast(value, to=ir.DataType.FLOAT) if half else value

    def mean(value: ir.Value) -> ir.Value:
        return op.ReduceMean(value, axes)  # type: ignore[no-any-return]

    @functools.cache
    def normal_and_std() -> tuple[ir.Value, ir.Value]:
        centred = op.Sub(wide(x), mean(wide(x)))
        std = op.Sqrt(op.Add(mean(op.Mul(centred, centred)), at.attribute("epsilon", 1e-5)))
        return op.Div(centred, std), std

    def dx() -> ir.Value:
        z, std = normal_and_std()
        g = op.Mul(wide(dy), wide(at.input(1)))
        centred = op.Sub(op.Sub(g, mean(g)), op.Mul(z, mean(op.Mul(g, z))))
        return _like(at, op.Div(centred, std), x)

    def dscale() -> ir.Value:
        z, _ = normal_and_std()
        return _like(at, sum_to(at, op.Mul(wide(dy), z), at.input(1), y), at.input(1))

    return dx, dscale, lambda: sum_to(at, dy, at.input(2), y)


_HALF = frozenset({ir.DataType.FLOAT16, ir.DataType.BFLOAT16})


def _like(at: Site, value: ir.Value, like: ir.Value) -> ir.Value:
    """``value`` in the type of ``like``."""
    return value if like.dtype is None or value.dtype == like.dtype else at.op.Cast(value, to=like.dtype)
