"""Rules of normalisations."""

from __future__ import annotations

__all__: list[str] = []

import functools
from collections.abc import Sequence
from typing import Final

import onnx_ir as ir

from onnxcam.autodiff.registry import Adjoint, Site, rule, sum_to
from onnxcam.autodiff.rules.movement import restore

_HALF: Final = frozenset({ir.DataType.FLOAT16, ir.DataType.BFLOAT16})
_TINY: Final = 1e-37
"""Keeps a division by a length of 0 finite, in float32 as well."""


def _wide(at: Site, value: ir.Value) -> ir.Value:
    """``value``, in float32 where it is of half precision: sums over many elements are made in that."""
    return at.op.Cast(value, to=ir.DataType.FLOAT) if value.dtype in _HALF else value


def _like(at: Site, value: ir.Value, like: ir.Value) -> ir.Value:
    """``value`` in the type of ``like``."""
    return value if like.dtype is None or value.dtype == like.dtype else at.op.Cast(value, to=like.dtype)


class _Normal:
    """z = (x - mean(x)) / std over ``axes`` of x, or x / rms(x) where not ``centred``; emitted when first asked for.

    outside: epsilon is added to the standard deviation instead of the variance.
    """

    def __init__(
        self,
        at: Site,
        x: ir.Value,
        axes: Sequence[int],
        epsilon: float,
        *,
        centred: bool = True,
        outside: bool = False,
    ) -> None:
        self._at, self._x, self._axes, self._epsilon = at, x, list(axes), epsilon
        self._centred, self._outside = centred, outside

    @functools.cached_property
    def z(self) -> ir.Value:
        z: ir.Value = self._at.op.Div(self._deviation, self.std)
        return z

    @functools.cached_property
    def std(self) -> ir.Value:
        op, variance = self._at.op, self.mean(self._at.op.Mul(self._deviation, self._deviation))
        std: ir.Value = op.Sqrt(variance if self._outside else op.Add(variance, self._epsilon))
        if self._outside:
            std = op.Add(std, self._epsilon)
        return std

    @functools.cached_property
    def _deviation(self) -> ir.Value:
        x = _wide(self._at, self._x)
        deviation: ir.Value = self._at.op.Sub(x, self.mean(x)) if self._centred else x
        return deviation

    def mean(self, value: ir.Value) -> ir.Value:
        """The mean over the axes, which are kept."""
        mean: ir.Value = self._at.op.ReduceMean(value, self._axes)
        return mean

    def adjoint(self, dz: ir.Value) -> ir.Value:
        """dx = (dz - mean(dz) - z mean(dz z)) / std; without the first mean where not centred."""
        op = self._at.op
        along_z = op.Mul(self.z, self.mean(op.Mul(dz, self.z)))
        if self._centred:
            dz = op.Sub(dz, self.mean(dz))
        dx: ir.Value = op.Div(op.Sub(dz, along_z), self.std)
        return dx


@rule("BatchNormalization", versions=(14, 15), inputs=(0, 1, 2, 3, 4))
def batch_normalization(at: Site, dy: ir.Value, *_: ir.Value | None) -> Sequence[Adjoint]:
    """In inference y = scale (x - mean) / std + bias, with mean and std as further inputs."""
    if at.attribute("training_mode", 0):
        raise at.unsupported("training_mode=1 normalises by the batch's own mean: export the model in evaluation mode")
    op, rank = at.op, at.rank(at.input(0))
    x, scale, bias, mean, variance = (at.input(i) for i in range(5))

    def channels(value: ir.Value, like: ir.Value) -> ir.Value:
        """One value a channel, in the type of ``like`` and against the axes of x."""
        value = _like(at, value, like)
        return value if rank <= 2 else op.Unsqueeze(value, [*range(1, rank - 1)])

    @functools.cache
    def std() -> ir.Value:
        return op.Sqrt(op.Add(variance, at.attribute("epsilon", 1e-5)))  # type: ignore[no-any-return]

    def total(value: ir.Value) -> ir.Value:
        """The sum over all axes but the channels, in the type of the statistics."""
        return _like(at, op.ReduceSum(value, [axis for axis in range(rank) if axis != 1], keepdims=0), variance)

    @functools.cache
    def dy_total() -> ir.Value:
        return total(_wide(at, dy))

    @functools.cache
    def dy_z_total() -> ir.Value:
        wide = _wide(at, dy)
        z = op.Div(op.Sub(_wide(at, x), channels(mean, wide)), channels(std(), wide))
        return total(op.Mul(wide, z))

    def gain() -> ir.Value:
        return op.Div(_like(at, scale, variance), std())  # type: ignore[no-any-return]

    def dx() -> ir.Value:
        return op.Mul(dy, op.Div(channels(scale, dy), channels(std(), dy)))  # type: ignore[no-any-return]

    def dvariance() -> ir.Value:
        return op.Mul(op.Div(op.Mul(dy_z_total(), gain()), std()), -0.5)  # type: ignore[no-any-return]

    return (
        dx,
        lambda: _like(at, dy_z_total(), scale),
        lambda: _like(at, dy_total(), bias),
        lambda: op.Neg(op.Mul(dy_total(), gain())),
        dvariance,
    )


@rule("InstanceNormalization", versions=(6, 22), inputs=(0, 1, 2))
def instance_normalization(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    """y = scale (x - mean) / std + bias, with mean and std of every channel of every image."""
    x, scale, bias, rank = at.input(0), at.input(1), at.input(2), at.rank(at.input(0))
    normal = _Normal(at, x, range(2, rank), at.attribute("epsilon", 1e-5))
    return (
        lambda: _like(at, normal.adjoint(at.op.Mul(_wide(at, dy), _channels(at, scale, rank))), x),
        lambda: _channel_sums(at, at.op.Mul(_wide(at, dy), normal.z), scale, rank),
        lambda: _channel_sums(at, _wide(at, dy), bias, rank),
    )


@rule("GroupNormalization", versions=(18, 21), inputs=(0, 1, 2))
def group_normalization(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    """y = scale (x - mean) / std + bias, with mean and std of every group of channels of every image.

    Scale and bias hold one value a group in version 18, one a channel from 21 on.
    """
    x, scale, bias, rank = at.input(0), at.input(1), at.input(2), at.rank(at.input(0))

    def grouped(value: ir.Value) -> ir.Value:
        return at.op.Reshape(value, [0, at.attribute("num_groups", 1), -1])  # type: ignore[no-any-return]

    normal = _Normal(at, grouped(x), [2], at.attribute("epsilon", 1e-5))
    by_group = at.version < 21

    def dx() -> ir.Value:
        if by_group:
            dz = at.op.Mul(grouped(_wide(at, dy)), _channels(at, scale, 3))
        else:
            dz = grouped(at.op.Mul(_wide(at, dy), _channels(at, scale, rank)))
        return restore(at, _like(at, normal.adjoint(dz), x), x)

    def dscale() -> ir.Value:
        if by_group:
            return _channel_sums(at, at.op.Mul(grouped(_wide(at, dy)), normal.z), scale, 3)
        return _channel_sums(at, at.op.Mul(_wide(at, dy), restore(at, normal.z, x)), scale, rank)

    def dbias() -> ir.Value:
        wide = _wide(at, dy)
        return _channel_sums(at, grouped(wide), bias, 3) if by_group else _channel_sums(at, wide, bias, rank)

    return dx, dscale, dbias


def _channels(at: Site, value: ir.Value, rank: int) -> ir.Value:
    """One value a channel, widened, against the axes of an x of ``rank`` axes."""
    value = _wide(at, value)
    return value if rank <= 2 else at.op.Unsqueeze(value, [*range(1, rank - 1)])


def _channel_sums(at: Site, value: ir.Value, like: ir.Value, rank: int) -> ir.Value:
    """The sum over all axes but axis 1, in the type of ``like``."""
    return _like(at, at.op.ReduceSum(value, [axis for axis in range(rank) if axis != 1], keepdims=0), like)


@rule("LayerNormalization", versions=(17,), inputs=(0, 1, 2))
def layer_normalization(
    at: Site, dy: ir.Value | None, dmean: ir.Value | None = None, drstd: ir.Value | None = None
) -> Sequence[Adjoint | None]:
    """y = scale (x - mean) / std + bias over the axes from ``axis`` on; mean and 1 / std may be outputs too.

    With n elements normalised together, these add (dmean - drstd z / std²) / n to dx.
    """
    op, x, (y, *_) = at.op, at.input(0), at.y
    axes = _axes_from(at, x)
    normal = _Normal(at, x, axes, at.attribute("epsilon", 1e-5))

    def dx() -> ir.Value:
        parts = [] if dy is None else [normal.adjoint(op.Mul(_wide(at, dy), _wide(at, at.input(1))))]
        if dmean is not None:
            parts.append(op.Expand(share(dmean), at.shape(x)))
        if drstd is not None:
            parts.append(op.Mul(normal.z, op.Div(op.Neg(share(drstd)), op.Mul(normal.std, normal.std))))
        return _like(at, functools.reduce(op.Add, parts), x)

    def share(value: ir.Value) -> ir.Value:
        """``value``, one for each row, over the number of elements in a row."""
        lengths = op.Gather(op.Shape(x), list(axes))
        count = op.CastLike(op.ReduceProd(lengths, keepdims=0), normal.std)
        return op.Div(_like(at, value, normal.std), count)  # type: ignore[no-any-return]

    if dy is None:
        return dx, None, None

    def dscale() -> ir.Value:
        return _like(at, sum_to(at, op.Mul(_wide(at, dy), normal.z), at.input(1), y), at.input(1))

    return dx, dscale, lambda: _like(at, sum_to(at, _wide(at, dy), at.input(2), y), at.input(2))


@rule("RMSNormalization", versions=(23,), inputs=(0, 1))
def rms_normalization(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    """y = scale x / rms(x) over the axes from ``axis`` on."""
    x, scale, (y,) = at.input(0), at.input(1), at.y
    normal = _Normal(at, x, _axes_from(at, x), at.attribute("epsilon", 1e-5), centred=False)
    return (
        lambda: _like(at, normal.adjoint(at.op.Mul(_wide(at, dy), _wide(at, scale))), x),
        lambda: _like(at, sum_to(at, at.op.Mul(_wide(at, dy), normal.z), scale, y), scale),
    )


def _axes_from(at: Site, x: ir.Value) -> range:
    """The axes of ``x`` from the attribute ``axis`` on."""
    rank = at.rank(x)
    return range(at.attribute("axis", -1) % rank, rank)


@rule("MeanVarianceNormalization", versions=(13,))
def mean_variance_normalization(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    """y = (x - mean) / (std + 1e-9), with mean and std over ``axes``."""
    x = at.input(0)
    axes = at.axes(at.attribute("axes", [0, 2, 3]), at.rank(x))
    normal = _Normal(at, x, axes, 1e-9, outside=True)
    return (lambda: _like(at, normal.adjoint(_wide(at, dy)), x),)


@rule("LpNormalization", versions=(1, 22))
def lp_normalization(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    """With z = sign(x) for p = 1 and z = y for p = 2: dx = (dy - z Σ dy y) / ‖x‖; 0 where x is 0 all along the axis."""
    op, x, (y,), axis, p = at.op, at.input(0), at.y, [at.attribute("axis", -1)], at.attribute("p", 2)

    def dx() -> ir.Value:
        g, wide = _wide(at, dy), _wide(at, x)
        length, z = (op.ReduceL1(wide, axis), op.Sign(wide)) if p == 1 else (op.ReduceL2(wide, axis), _wide(at, y))
        scale = op.Div(op.CastLike(op.Greater(length, 0.0), length), op.Max(length, _TINY))
        across = op.Sub(g, op.Mul(z, op.ReduceSum(op.Mul(g, _wide(at, y)), axis)))
        return _like(at, op.Mul(across, scale), x)

    return (dx,)


@rule("LRN", versions=(13,))
def lrn(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    """y = x b^-β, b = bias + α mean(x²) over ``size`` channels around: dx = dy b^-β - 2 α β x mean(dy y / b).

    Both are means over ``size`` channels, of which those outside count as 0; the second mean is over the channels
    that have this one around them: for an even size, one more lies before it instead of behind.
    """
    op, x, (y,) = at.op, at.input(0), at.y
    alpha, beta, size = at.attribute("alpha", 1e-4), at.attribute("beta", 0.75), at.attribute("size", 1)
    before, behind = (size - 1) // 2, size // 2

    def mean(value: ir.Value, before: int, behind: int) -> ir.Value:
        planes = op.Reshape(op.Unsqueeze(value, [1]), [0, 0, 0, -1])
        pads = [before, 0, behind, 0]
        means = op.AveragePool(planes, kernel_shape=[size, 1], pads=pads, count_include_pad=1)
        return restore(at, means, x)

    def dx() -> ir.Value:
        wide, g = _wide(at, x), _wide(at, dy)
        b = op.Add(op.Mul(mean(op.Mul(wide, wide), before, behind), alpha), at.attribute("bias", 1.0))
        around = mean(op.Div(op.Mul(g, _wide(at, y)), b), behind, before)
        found = op.Sub(op.Mul(g, op.Pow(b, -beta)), op.Mul(op.Mul(wide, around), 2 * alpha * beta))
        return _like(at, found, x)

    return (dx,)
