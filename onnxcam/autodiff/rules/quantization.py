"""Rules of operators that quantise: the straight-through estimator, which takes rounding as the identity.

A quantised integer stands for the real number that dequantising makes of it. Its adjoint is floating, in the type of
the scale, and counts in steps: it is the derivative with respect to the integer as if that were real. Operators that
only move or pick data need nothing else, and integer products follow the rules of real ones.
"""

from __future__ import annotations

__all__ = ["CONTRIB", "as_real", "dequantized", "ends_are_clipped", "in_file", "scalar"]

from collections.abc import Sequence
from typing import Final

import numpy as np
import onnx_ir as ir

from onnxcam.autodiff.registry import Adjoint, Site, expansion, rule, sum_to, within_integer_kernel

CONTRIB: Final = "com.microsoft"

_STEPS: Final = {
    ir.DataType.INT8: (-(2**7), 2**7 - 1),
    ir.DataType.UINT8: (0, 2**8 - 1),
    ir.DataType.INT16: (-(2**15), 2**15 - 1),
    ir.DataType.UINT16: (0, 2**16 - 1),
}
"""The integers that values are quantised to, and where these end."""


@rule("QuantizeLinear", versions=(13, 19, 21, 23, 24, 25, 28), quantizes=True)
@rule("QuantizeLinear", domain=CONTRIB, versions=(1,), quantizes=True)
def quantize_linear(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    """With y = clip(round(x / scale) + zero): dx = dy / scale where nothing was clipped, 0 elsewhere, as torch has it.

    Inside one of ONNX Runtime's integer kernels x does not exist, and y tells: its lowest and highest step then
    count as clipped. (Where a Relu or a Clip went into the quantisation, its bounds are these steps.)
    """
    x, scale, y = at.input(0), at.input(1), at.node.outputs[0]
    if y.dtype not in _STEPS:
        known = ", ".join(dtype.name.lower() for dtype in _STEPS)
        raise at.unsupported(f"values quantised to {y.dtype} are not differentiated: quantise to one of {known}")
    ends = _STEPS[y.dtype]
    op = at.op

    def dx() -> ir.Value:
        kept, real = _kept(at, x, y, *ends), _per_real(at, dy, scale, x)
        if kept is not None:
            real = op.Mul(real, op.Cast(kept, to=real.dtype or ir.DataType.FLOAT))
        return _like(at, real, x)

    return (dx,)


def _kept(at: Site, x: ir.Value, y: ir.Value, low: int, high: int) -> ir.Value | None:
    """Where nothing was clipped; None where nothing can be."""
    maker = x.producer()
    if maker is None or not within_integer_kernel(x):
        return _would_be_inside(at, x, low, high)
    if maker.op_type in _MOVES and _same_steps(at, maker):
        return None
    before = maker.inputs[0]
    if maker.op_type == "GlobalAveragePool" and before is not None:  # the same again, at little cost
        return _would_be_inside(at, at.op.ReduceMean(before, list(range(2, at.rank(before)))), low, high)
    return _inside(at, y, low, high)


def ends_are_clipped(node: ir.Node) -> bool:
    """Whether the lowest and the highest step of QuantizeLinear ``node`` count as clipped: see `quantize_linear`."""
    x = node.inputs[0]
    maker = None if x is None else x.producer()
    if x is None or maker is None or not within_integer_kernel(x):
        return False
    return maker.op_type != "GlobalAveragePool" and maker.op_type not in _MOVES


_MOVES: Final = frozenset({"Flatten", "Gather", "MaxPool", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"})
"""Operators whose results are among the values they read."""


def _same_steps(at: Site, node: ir.Node) -> bool:
    """Whether what ``node`` reads was dequantised from the very steps that ``at`` quantises to."""
    made = node.inputs[0].producer() if node.inputs[0] is not None else None
    if made is None or made.op_type != "DequantizeLinear" or len(made.inputs) != len(at.x):
        return False
    pairs = list(zip(made.inputs[1:], at.x[1:], strict=True))
    known = [(at.constant(a), at.constant(b)) for a, b in pairs]
    return all(a is b or (i is not None and i == j) for (a, b), (i, j) in zip(pairs, known, strict=True))


def _inside(at: Site, y: ir.Value, low: int, high: int) -> ir.Value:
    """Where the integers ``y`` lie between ``low`` and ``high``."""
    op = at.op
    if high - low < 2**8:  # the faster way, for which ONNX Runtime has no kernel of 16 bits
        return op.Equal(op.Clip(y, low + 1, high - 1), y)  # type: ignore[no-any-return]
    q = op.Cast(y, to=ir.DataType.FLOAT)
    return op.And(op.Greater(q, float(low)), op.Less(q, float(high)))  # type: ignore[no-any-return]


def _would_be_inside(at: Site, x: ir.Value, low: int, high: int) -> ir.Value:
    """Where ``x`` rounds to one of ``low`` to ``high``."""
    op, scale, zero = at.op, at.input(1), at.optional(2)
    q = op.Round(op.Div(_like(at, x, scale), _along(at, scale, x)))
    if zero is not None:
        q = op.Add(q, _along(at, op.Cast(zero, to=scale.dtype), x))
    return op.And(op.GreaterOrEqual(q, float(low)), op.LessOrEqual(q, float(high)))  # type: ignore[no-any-return]


@rule("DequantizeLinear", versions=(13, 19, 21, 23, 24, 25, 28), inputs=(0, 1))
@rule("DequantizeLinear", domain=CONTRIB, versions=(1,), inputs=(0, 1))
def dequantize_linear(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    """y = scale (x - zero): dx = scale dy, and dscale = Σ (x - zero) dy."""
    x, scale, zero = at.input(0), at.input(1), at.optional(2)
    op = at.op

    def dscale() -> ir.Value:
        if at.attribute("block_size", 0):
            raise at.unsupported("the scales of blocks are not differentiated: dequantise with constant ones")
        spread = _along(at, scale, x)
        steps = as_real(at, x, None if zero is None else _along(at, zero, x), scale)
        summed = sum_to(at, op.Mul(_like(at, dy, scale), steps), spread, x)
        return op.Reshape(summed, op.Shape(scale))  # type: ignore[no-any-return]

    return lambda: op.Mul(_like(at, dy, scale), _along(at, scale, x)), dscale


def _along(at: Site, parameter: ir.Value, x: ir.Value) -> ir.Value:
    """A scale or zero point of ``x``, one for all, for each place along an axis or for each block, against its axes."""
    op, rank, block = at.op, at.rank(x), at.attribute("block_size", 0)
    axis = at.attribute("axis", 1) % max(rank, 1)
    if block:
        places = op.Range(0, op.Squeeze(op.Shape(x, start=axis, end=axis + 1)), 1)
        return op.Gather(parameter, op.Div(places, block), axis=axis)  # type: ignore[no-any-return]
    if at.rank(parameter) == 0 or rank - axis == 1:
        return parameter
    if list(parameter.shape or ()) == [1]:
        return op.Squeeze(parameter, [0])  # type: ignore[no-any-return]
    return op.Unsqueeze(parameter, list(range(1, rank - axis)))  # type: ignore[no-any-return]


def _per_real(at: Site, dy: ir.Value, scale: ir.Value, x: ir.Value) -> ir.Value:
    """``dy / scale``. Where DequantizeLinear has just multiplied by the same scale, neither is done."""
    made = dy.producer()
    if made is not None and made.op_type == "Mul" and at.rank(scale) == 0 and dy.dtype == scale.dtype:
        before, factor = made.inputs
        known = at.constant(scale)
        if before is not None and (factor is scale or (known is not None and at.constant(factor) == known)):
            return before
    return at.op.Div(dy, _along(at, scale, x))  # type: ignore[no-any-return]


def _like(at: Site, value: ir.Value, like: ir.Value) -> ir.Value:
    """``value`` in the type of ``like``, if that is floating."""
    if like.dtype is None or value.dtype == like.dtype or not like.dtype.is_floating_point():
        return value
    return at.op.Cast(value, to=like.dtype)  # type: ignore[no-any-return]


# Quantised as the values come


@rule("DynamicQuantizeLinear", versions=(11,), quantizes=True)
def dynamic_quantize_linear(
    at: Site, dy: ir.Value | None, dscale: ir.Value | None = None, dzero: ir.Value | None = None
) -> Sequence[Adjoint | None]:
    """dx = dy / scale, where the scale counts as a constant: nothing is clipped by a range that x itself gave."""
    scale = at.y[1]
    return (None if dy is None else lambda: _per_real(at, dy, scale, at.input(0)),)


def as_real(at: Site, x: ir.Value, zero: ir.Value | None, like: ir.Value | None = None) -> ir.Value:
    """The steps of the integers ``x`` from their zero point, as real numbers of the type of ``like`` or float32."""
    dtype = ir.DataType.FLOAT if like is None or like.dtype is None else like.dtype
    real = at.op.Cast(x, to=dtype)
    if zero is not None:
        real = at.op.Sub(real, at.op.Cast(zero, to=dtype))
    return real  # type: ignore[no-any-return]


def dequantized(at: Site, x: ir.Value, scale: ir.Value, zero: ir.Value | None, *, axis: int = 0) -> ir.Value:
    """The real numbers ``x`` stands for; scales that are not one for all lie along ``axis``."""
    one = scale.shape is not None and list(scale.shape) in ([], [1])
    if not one and at.rank(scale) != 1:
        raise at.unsupported(f"the scale '{scale.name}' has {at.rank(scale)} axes: one value, or one a channel, is")
    if one:
        scale, zero = scalar(at, scale), None if zero is None else scalar(at, zero)
    inputs = [x, scale] if zero is None else [x, scale, zero]
    found: ir.Value = at.op.DequantizeLinear(*inputs, **({} if one else {"axis": axis}))
    return found


def scalar(at: Site, x: ir.Value) -> ir.Value:
    """``x``, which holds one value, without axes: in the file again if it is there, as integer kernels want it."""
    if at.rank(x) == 0:
        return x
    known = ir.convenience.get_const_tensor(x)
    return at.op.Squeeze(x) if known is None else in_file(at, known.numpy().reshape(()))


def in_file(at: Site, value: np.ndarray) -> ir.Value:
    """``value`` as an initializer of its own type."""
    count = len(at.op.builder.graph.initializers)
    return at.op.initializer(ir.tensor(value), name=f"quantization_{count}")


@expansion("MatMulInteger", versions=(10,), quantizes=True)
def matmul_integer(at: Site) -> Sequence[ir.Value]:
    a, b = at.input(0), at.input(1)
    return [at.op.MatMul(as_real(at, a, _single(at, 2)), as_real(at, b, at.optional(3)))]


@expansion("ConvInteger", versions=(10,), quantizes=True)
def conv_integer(at: Site) -> Sequence[ir.Value]:
    x, w = at.input(0), at.input(1)
    attributes = {name: attribute.value for name, attribute in at.node.attributes.items()}
    return [at.op.Conv(as_real(at, x, _single(at, 2)), as_real(at, w, _single(at, 3)), **attributes)]


def _single(at: Site, index: int) -> ir.Value | None:
    """Input ``index``, a zero point for all: ONNX Runtime runs no other."""
    zero = at.optional(index)
    if zero is not None and list(zero.shape or ()) not in ([], [1]):
        raise at.unsupported(f"the zero point '{zero.name}' is not one for all, which ONNX Runtime does not run")
    return zero


@expansion("DynamicQuantizeMatMul", domain=CONTRIB)
def dynamic_quantize_matmul(at: Site) -> Sequence[ir.Value]:
    """A is rounded in the kernel; here it is taken as it came."""
    product = at.op.MatMul(at.input(0), dequantized(at, at.input(1), at.input(2), at.optional(3), axis=-1))
    return [_biased(at, product, at.optional(4))]


@expansion("MatMulIntegerToFloat", domain=CONTRIB)
def matmul_integer_to_float(at: Site) -> Sequence[ir.Value]:
    a, b = at.input(0), at.input(1)
    scale_a, scale_b, zero_a, zero_b = at.input(2), at.input(3), at.optional(4), at.optional(5)
    if list(scale_a.shape or ()) not in ([], [1]):
        raise at.unsupported("a scale for each column of A has no meaning in a product: give it one scale")
    product = at.op.MatMul(dequantized(at, a, scale_a, zero_a), dequantized(at, b, scale_b, zero_b, axis=-1))
    return [_biased(at, product, at.optional(6))]


def _biased(at: Site, y: ir.Value, bias: ir.Value | None) -> ir.Value:
    return y if bias is None else at.op.Add(y, bias)
