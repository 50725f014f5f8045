from __future__ import annotations

import functools

import numpy as np
import torch
from torch import fake_quantize_per_tensor_affine
from torch.nn import functional

from . import gradient_check
from .gradient_check import constant, each, equals_torch, uniform

case = functools.partial(gradient_check.case, opsets=(18, 25))  # ONNX Runtime 1.32 has no quantisation of version 28

SCALES = {"s": constant(0.0625), "z": constant(np.uint8(128)), "t": constant(0.25), "u": constant(np.uint8(100))}
SIGNED = {"s": constant(0.0625), "z": constant(np.int8(3)), "t": constant(0.25), "u": constant(np.int8(-5))}
WEIGHT = np.random.default_rng(0).integers(-40, 40, (4, 3, 3, 2)).astype(np.int8)
MATRIX = np.random.default_rng(1).integers(-60, 60, (5, 4)).astype(np.int8)
STEPS = [0.03125, 0.0625, 0.125, 0.015625]


def _q(x: torch.Tensor) -> torch.Tensor:
    return fake_quantize_per_tensor_affine(x, 0.0625, 128, 0, 255)


def _r(y: torch.Tensor) -> torch.Tensor:
    """y rounded as the results are: the outermost steps count as clipped, for the kernel does not tell."""
    rounded = fake_quantize_per_tensor_affine(y.detach(), 0.25, 100, 0, 255)
    inside = (rounded > -100 * 0.25) & (rounded < 155 * 0.25)
    return y * inside + (rounded - y * inside).detach()


def _int(x: np.ndarray) -> torch.Tensor:
    return torch.tensor(x.astype(np.float32))


def _text(op: str, *, two: bool = False) -> str:
    """x, and perhaps b, quantised, then ``op`` of q, and perhaps r, dequantised."""
    second = "r = QuantizeLinear(b, s, z); " if two else ""
    return f"q = QuantizeLinear(x, s, z); {second}i = {op}; y = DequantizeLinear(i, t, u)"


VALUES = uniform(-5.0, 5.0, 2, 3, 5, 6)

CASES = [
    case(
        _text("QLinearConv<pads=[1, 0, 1, 1], strides=[2, 1]>(q, s, z, w, ws, wz, t, u, b)"),
        x=VALUES,
        **SCALES,
        w=constant(WEIGHT),
        ws=constant(0.0625),
        wz=constant(np.int8(5)),
        b=constant(np.array([1000, -3000, 0, 500], np.int32)),
        torch=lambda x: _r(
            functional.conv2d(
                functional.pad(_q(x), (0, 1, 1, 1)),
                (_int(WEIGHT) - 5) * 0.0625,
                torch.tensor([1000.0, -3000, 0, 500]) * 0.0625**2,
                stride=(2, 1),
            )
        ),
    ),
    case(
        _text("QLinearConv(q, s, z, w, ws, wz, t, u, b)"),
        x=VALUES,
        **SCALES,
        w=constant(WEIGHT),
        ws=constant(STEPS),
        wz=constant(np.zeros(4, np.int8)),
        b=constant(np.array([1000, -3000, 0, 500], np.int32)),
        torch=lambda x: _r(
            functional.conv2d(
                _q(x),
                _int(WEIGHT) * torch.tensor(STEPS).reshape(-1, 1, 1, 1),
                torch.tensor([1000.0, -3000, 0, 500]) * 0.0625 * torch.tensor(STEPS),
            )
        ),
    ),
    *(
        case(
            _text("QLinearMatMul(q, s, z, w, ws, wz, t, u)"),
            x=uniform(-5.0, 5.0, 2, 3, 5),
            **SCALES,
            w=constant(MATRIX),
            ws=constant(scale),
            wz=constant(zero),
            torch=lambda x, scale=scale, zero=zero: _r(
                _q(x) @ ((_int(MATRIX) - _int(zero)) * torch.tensor(scale, dtype=torch.float32))
            ),
        )
        for scale, zero in [(0.0625, np.int8(3)), (STEPS, np.zeros(4, np.int8)), ([0.0625], np.array([3], np.int8))]
    ),
    case(
        _text("com.microsoft.QGemm<transB=1>(q, s, z, w, ws, wz, b, t, u)"),
        x=uniform(-5.0, 5.0, 3, 4),
        **SCALES,
        w=constant(MATRIX),
        ws=constant(0.0625),
        wz=constant(np.int8(3)),
        b=constant(np.array([1000, -3000, 0, 500, 7], np.int32)),
        torch=lambda x: _r(
            _q(x) @ (_int(MATRIX).T - 3) * 0.0625 + torch.tensor([1000.0, -3000, 0, 500, 7]) * 0.0625**2
        ),
    ),
    case(
        "q = QuantizeLinear(x, s, z); y = com.microsoft.QGemm<alpha=0.5>(q, s, z, w, ws, wz)",
        x=uniform(-5.0, 5.0, 3, 5),
        s=SCALES["s"],
        z=SCALES["z"],
        w=constant(MATRIX),
        ws=constant(STEPS),
        wz=constant(np.zeros(4, np.int8)),
        torch=lambda x: 0.5 * (_q(x) @ (_int(MATRIX) * torch.tensor(STEPS))),
    ),
    *(
        case(_text(f"com.microsoft.{op}(q, s, z, r, s, z, t, u)", two=True), x=x, b=b, **SCALES, torch=do)
        for op, do in [
            ("QLinearAdd", lambda x, b: _r(_q(x) + _q(b))),
            ("QLinearMul", lambda x, b: _r(_q(x) * _q(b))),
        ]
        for x, b in [(VALUES, VALUES), (VALUES, uniform(-5.0, 5.0, 5, 1))]
    ),
    case(  # without the last zero point
        "q = QuantizeLinear(x, s, z); i = com.microsoft.QLinearAdd(q, s, z, q, s, z, t); y = DequantizeLinear(i, t)",
        x=uniform(-5.0, 5.0, 3, 5),
        **{name: SIGNED[name] for name in "szt"},
        torch=lambda x: fake_quantize_per_tensor_affine(
            2 * fake_quantize_per_tensor_affine(x, 0.0625, 3, -128, 127), 0.25, 0, -128, 127
        ),
    ),
    case(
        _text(
            "com.microsoft.QLinearAveragePool<kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 0, 0]>(q, s, z, t, u)"
        ),
        x=VALUES,
        **SCALES,
        torch=lambda x: _r(
            functional.avg_pool2d(functional.pad(_q(x), (0, 0, 1, 0)), (3, 2), 2)
            * torch.tensor([1.5, 1]).reshape(-1, 1)  # the first row of windows has two rows of x
        ),
    ),
    case(
        _text("com.microsoft.QLinearGlobalAveragePool(q, s, z, t, u)"),
        x=VALUES,
        **SCALES,
        torch=lambda x: _r(_q(x).mean((2, 3), keepdim=True)),
    ),
    case(
        _text("com.microsoft.QLinearLeakyRelu<alpha=0.25>(q, s, z, t, u)"),
        x=VALUES,
        **SIGNED,
        torch=lambda x: fake_quantize_per_tensor_affine(
            functional.leaky_relu(fake_quantize_per_tensor_affine(x, 0.0625, 3, -128, 127), 0.25), 0.25, -5, -128, 127
        ),
    ),
    case(
        _text("com.microsoft.QLinearSigmoid(q, s, z, t, u)"),
        x=VALUES,
        **{**SCALES, "t": constant(0.00390625), "u": constant(np.uint8(0))},
        torch=lambda x: _squashed(_q(x), torch.sigmoid),
        tolerance=4e-3,  # the slope is that at the rounded output
    ),
    *(
        case(
            _text(f"com.microsoft.QLinearSoftmax<axis={axis}, opset={opset}>(q, s, z, t, u)"),
            x=uniform(-2.0, 2.0, 2, 3, 5),
            **{**SCALES, "t": constant(0.00390625), "u": constant(np.uint8(0))},
            static=["x"],
            torch=lambda x, do=do: _squashed(_q(x), do),
            tolerance=4e-2,  # the slope is that at the rounded output
        )
        for axis, opset, do in [
            (-1, 13, lambda x: x.softmax(-1)),
            (1, 13, lambda x: x.softmax(1)),
            (1, 11, lambda x: x.flatten(1).softmax(1).reshape(2, 3, 5)),
        ]
    ),
    case(
        _text("com.microsoft.QLinearConcat<axis=1>(t, u, q, s, z, r, s, z)", two=True),
        x=uniform(-5.0, 5.0, 2, 3),
        b=uniform(-5.0, 5.0, 2, 4),
        **SCALES,
        torch=lambda x, b: _r(torch.cat([_q(x), _q(b)], 1)),
    ),
    case(
        _text("com.microsoft.QLinearWhere(c, q, s, z, r, s, z, t, u)", two=True),
        x=uniform(-5.0, 5.0, 2, 3),
        b=uniform(-5.0, 5.0, 2, 3),
        c=np.array([[True, False, True]]),
        **SCALES,
        torch=lambda x, b, c: _r(torch.where(c, _q(x), _q(b))),
    ),
]


def _squashed(x: torch.Tensor, squash) -> torch.Tensor:
    return fake_quantize_per_tensor_affine(squash(x), 0.00390625, 0, 0, 255)


@each(CASES)
def test_gradient_equals_torch(row, setting):
    equals_torch(row, setting)
