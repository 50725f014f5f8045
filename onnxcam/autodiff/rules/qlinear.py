"""Operators that take quantised values and give them, through what they compute: dequantise, operate, quantise.

Tables of ONNX Runtime and of its quantisation tools give the order of inputs: a value, its scale, its zero point.
"""

from __future__ import annotations

__all__: list[str] = []

import functools
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxcam.autodiff.registry import Site, expansion
from onnxcam.autodiff.rules.quantization import CONTRIB, dequantized, in_file, scalar


def _real(at: Site, first: int, *, axis: int = 0) -> ir.Value:
    """The real numbers that inputs ``first``, its scale and its zero point stand for."""
    return dequantized(at, at.input(first), at.input(first + 1), at.optional(first + 2), axis=axis)


def _quantized(at: Site, y: ir.Value, scale: int, like: ir.Value) -> list[ir.Value]:
    """``y`` quantised by inputs ``scale`` and the zero point behind it, or to zero point 0 of the type of ``like``."""
    zero = at.optional(scale + 1)
    if zero is None:
        assert like.dtype is not None
        zero = in_file(at, np.zeros((), like.dtype.numpy()))
    return [at.op.QuantizeLinear(y, scalar(at, at.input(scale)), scalar(at, zero))]


def _attributes(at: Site, *left_out: str) -> dict[str, Any]:
    """The attributes of the node but those ``left_out``."""
    if at.attribute("channels_last", 0):
        raise at.unsupported("channels_last=1 is what ONNX Runtime's layout optimisation writes: take the model before")
    names = at.node.attributes.keys() - {"channels_last", *left_out}
    return {name: at.node.attributes[name].value for name in sorted(names)}


def _bias(at: Site, bias: ir.Value, scales: Sequence[ir.Value], alpha: float = 1.0) -> ir.Value:
    """A bias of int32, whose steps are those of the product: the product of both scales."""
    known = [ir.convenience.get_const_tensor(scale) for scale in scales]
    scale: ir.Value
    if all(tensor is not None for tensor in known):
        product = functools.reduce(operator.mul, (tensor.numpy() for tensor in known if tensor is not None))
        scale = in_file(at, np.asarray(product * np.float32(alpha)))
    else:
        scale = at.op.Mul(at.op.Mul(*scales), alpha)
    return dequantized(at, bias, scale, None)


@expansion("QLinearConv", versions=(10,), quantizes=True)
@expansion("QLinearConv", domain=CONTRIB, quantizes=True)
def qlinear_conv(at: Site) -> Sequence[ir.Value]:
    inputs = [_real(at, 0), _real(at, 3)]
    bias = at.optional(8)
    if bias is not None:
        inputs.append(_bias(at, bias, [at.input(1), at.input(4)]))
    return _quantized(at, at.op.Conv(*inputs, **_attributes(at)), 6, at.input(0))


@expansion("QLinearMatMul", versions=(10, 21), quantizes=True)
def qlinear_matmul(at: Site) -> Sequence[ir.Value]:
    a, b = _real(at, 0, axis=-2), _real(at, 3, axis=-1)
    return _quantized(at, at.op.MatMul(a, b), 6, at.input(0))


@expansion("QGemm", domain=CONTRIB, quantizes=True)
def qgemm(at: Site) -> Sequence[ir.Value]:
    """Without a scale for the result, this is the real one."""
    inputs = [_real(at, 0), _real(at, 3, axis=0 if at.attribute("transB", 0) else 1)]
    bias, alpha = at.optional(6), at.attribute("alpha", 1.0)
    if bias is not None:
        inputs.append(_bias(at, bias, [at.input(1), at.input(4)], alpha))
    y = at.op.Gemm(*inputs, **_attributes(at))
    return [y] if at.optional(7) is None else _quantized(at, y, 7, at.input(0))


@expansion("QLinearAdd", domain=CONTRIB, quantizes=True)
def qlinear_add(at: Site) -> Sequence[ir.Value]:
    return _quantized(at, at.op.Add(_real(at, 0), _real(at, 3)), 6, at.input(0))


@expansion("QLinearMul", domain=CONTRIB, quantizes=True)
def qlinear_mul(at: Site) -> Sequence[ir.Value]:
    return _quantized(at, at.op.Mul(_real(at, 0), _real(at, 3)), 6, at.input(0))


@expansion("QLinearAveragePool", domain=CONTRIB, quantizes=True)
def qlinear_average_pool(at: Site) -> Sequence[ir.Value]:
    return _quantized(at, at.op.AveragePool(_real(at, 0), **_attributes(at)), 3, at.input(0))


@expansion("QLinearGlobalAveragePool", domain=CONTRIB, quantizes=True)
def qlinear_global_average_pool(at: Site) -> Sequence[ir.Value]:
    return _quantized(at, at.op.GlobalAveragePool(_real(at, 0), **_attributes(at)), 3, at.input(0))


@expansion("QLinearLeakyRelu", domain=CONTRIB, quantizes=True)
def qlinear_leaky_relu(at: Site) -> Sequence[ir.Value]:
    return _quantized(at, at.op.LeakyRelu(_real(at, 0), **_attributes(at)), 3, at.input(0))


@expansion("QLinearSigmoid", domain=CONTRIB, quantizes=True)
def qlinear_sigmoid(at: Site) -> Sequence[ir.Value]:
    return _quantized(at, at.op.Sigmoid(_real(at, 0)), 3, at.input(0))


@expansion("QLinearSoftmax", domain=CONTRIB, quantizes=True)
def qlinear_softmax(at: Site) -> Sequence[ir.Value]:
    """Below opset 13 over all axes from ``axis`` on."""
    x, axis = _real(at, 0), at.attribute("axis", -1)
    if at.attribute("opset", 13) >= 13 or axis % at.rank(at.input(0)) == at.rank(at.input(0)) - 1:
        y = at.op.Softmax(x, axis=axis)
    else:
        y = at.op.Reshape(at.op.Softmax(at.op.Flatten(x, axis=axis), axis=1), at.shape(at.input(0)))
    return _quantized(at, y, 3, at.input(0))


@expansion("QLinearConcat", domain=CONTRIB, quantizes=True)
def qlinear_concat(at: Site) -> Sequence[ir.Value]:
    parts = [_real(at, first) for first in range(2, len(at.x), 3)]
    return _quantized(at, at.op.Concat(*parts, **_attributes(at)), 0, at.input(2))


@expansion("QLinearWhere", domain=CONTRIB, quantizes=True)
def qlinear_where(at: Site) -> Sequence[ir.Value]:
    return _quantized(at, at.op.Where(at.input(0), _real(at, 1), _real(at, 4)), 7, at.input(1))
