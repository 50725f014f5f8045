from __future__ import annotations

import functools

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from torch import fake_quantize_per_channel_affine, fake_quantize_per_tensor_affine
from torch.nn import functional

from onnxcam.autodiff import gradients
from onnxcam.errors import UnsupportedOperatorError

from . import gradient_check
from .gradient_check import constant, each, edge, equals_torch, has_edge_values, run_onnxruntime, uniform

NEWEST = 25  # ONNX Runtime 1.32 has no kernel of version 28
case = functools.partial(gradient_check.case, opsets=(18, NEWEST))

PAIR = "q = QuantizeLinear(x, s, z); y = DequantizeLinear(q, s, z)"


def _pair(op: str = "", attributes: str = "") -> str:
    """A quantised value that ``op`` moves before it is dequantised."""
    moved = f"m = {op}; " if op else ""
    return (
        f"q = QuantizeLinear{attributes}(x, s, z); {moved}y = DequantizeLinear{attributes}({'m' if op else 'q'}, s, z)"
    )


def _fake(scale: float, zero: int, low: int, high: int):
    return lambda x: fake_quantize_per_tensor_affine(x, scale, zero, low, high)


def _fake_channels(scale, zero, axis: int, low: int = -128, high: int = 127):
    scale, zero = torch.tensor(scale), torch.tensor(zero, dtype=torch.int32)
    return lambda x: fake_quantize_per_channel_affine(x, scale, zero, axis, low, high)


INT8 = {"s": constant(0.015), "z": constant(np.int8(-7))}
UINT8 = {"s": constant(0.01), "z": constant(np.uint8(110))}
fake_int8 = _fake(0.015, -7, -128, 127)
SCALES, ZEROS = [0.01, 0.02, 0.005], [3, -100, 0]
CHANNELS = {"s": constant(SCALES), "z": constant(np.array(ZEROS, np.int8))}

WEIGHT = np.arange(-70, 70, 7, dtype=np.int8).reshape(5, 4)
SCALE = torch.tensor([0.125, 0.25, 0.5, 1, 2])
KERNEL = np.random.default_rng(0).integers(0, 256, (2, 3, 3, 3)).astype(np.uint8)


def _int(x: np.ndarray) -> torch.Tensor:
    return torch.tensor(x.astype(np.float32))


def _rounded(x: torch.Tensor) -> torch.Tensor:
    """x as DynamicQuantizeLinear rounds it, with the derivative 1."""
    low, high = x.detach().min().clamp(max=0), x.detach().max().clamp(min=0)
    scale = (high - low) / 255
    zero = torch.round(-low / scale)
    return x + ((torch.clamp(torch.round(x / scale) + zero, 0, 255) - zero) * scale - x).detach()


CASES = [
    case(PAIR, x=(3, 5, 7), **INT8, torch=fake_int8),
    case(PAIR, x=(3, 5, 7), **UINT8, torch=_fake(0.01, 110, 0, 255)),
    case(
        "q = QuantizeLinear(x, s); y = DequantizeLinear(q, s)", x=(5,), s=constant(0.01), torch=_fake(0.01, 0, 0, 255)
    ),
    case(PAIR, x=(), s=constant(0.5), z=constant(np.int8(0)), torch=_fake(0.5, 0, -128, 127)),
    case(PAIR, x=(3, 5), s=constant([0.015]), z=constant(np.array([-7], np.int8)), torch=fake_int8, opsets=(18, 18)),
    *(
        case(_pair(attributes=f"<axis={axis}>"), x=x, **CHANNELS, torch=_fake_channels(SCALES, ZEROS, axis % len(x)))
        for axis, x in [(0, (3, 5)), (1, (2, 3, 5, 4)), (-1, (2, 5, 3)), (-3, (2, 3, 5, 4))]
    ),
    case(_pair(), x=(2, 3, 5), **CHANNELS, torch=_fake_channels(SCALES, ZEROS, 1)),  # axis 1 when left out
    *(
        case(
            PAIR,
            x=(3, 500),
            s=constant(1e-5),
            z=constant(dtype(zero)),
            torch=_fake(1e-5, zero, *ends),
            opsets=(21, NEWEST),
        )
        for dtype, zero, ends in [(np.int16, 5, (-(2**15), 2**15 - 1)), (np.uint16, 30000, (0, 2**16 - 1))]
    ),
    case(
        "q = com.microsoft.QuantizeLinear(x, s, z); y = com.microsoft.DequantizeLinear(q, s, z)",
        x=(3, 500),
        s=constant(1e-5),
        z=constant(np.int16(5)),
        torch=_fake(1e-5, 5, -(2**15), 2**15 - 1),
    ),
    case(  # blocks of 2 along an axis of 5
        "q = QuantizeLinear<axis=1, block_size=2>(x, s, z); y = DequantizeLinear<axis=1, block_size=2>(q, s, z)",
        x=(2, 5, 3),
        s=constant(np.linspace(0.004, 0.02, 18).reshape(2, 3, 3)),
        z=constant(np.arange(-90, 90, 10, dtype=np.int8).reshape(2, 3, 3)),
        torch=lambda x: fake_quantize_per_channel_affine(
            x.reshape(-1),
            torch.linspace(0.004, 0.02, 18).reshape(2, 3, 3).repeat_interleave(2, 1)[:, :5].reshape(-1),
            torch.arange(-90, 90, 10).int().reshape(2, 3, 3).repeat_interleave(2, 1)[:, :5].reshape(-1),
            0,
            -128,
            127,
        ).reshape(2, 5, 3),
        opsets=(21, NEWEST),
    ),
    # What lies between
    case(_pair("Reshape(q, t)"), x=(2, 3, 4), t=constant([4, -1]), **INT8, torch=lambda x: fake_int8(x).reshape(4, -1)),
    case(_pair("Flatten(q)"), x=(2, 3, 4), **INT8, torch=lambda x: fake_int8(x).flatten(1)),
    case(_pair("Squeeze(q, t)"), x=(2, 1, 4), t=constant([1]), **INT8, torch=lambda x: fake_int8(x).squeeze(1)),
    case(_pair("Unsqueeze(q, t)"), x=(2, 4), t=constant([1]), **INT8, torch=lambda x: fake_int8(x).unsqueeze(1)),
    case(_pair("Transpose<perm=[2, 0, 1]>(q)"), x=(2, 3, 4), **INT8, torch=lambda x: fake_int8(x).permute(2, 0, 1)),
    case(
        _pair("MaxPool<kernel_shape=[2, 2], strides=[2, 1]>(q)"),
        x=uniform(-1.9, 2.0, 1, 2, 5, 4),  # few ties: of these torch takes the first, as ONNX Runtime does
        **INT8,
        torch=lambda x: functional.max_pool2d(fake_int8(x), 2, (2, 1)),
    ),
    case(
        _pair("Slice(q, b, e, a, t)"),
        x=(2, 9),
        b=constant([7]),
        e=constant([1]),
        a=constant([1]),
        t=constant([-2]),
        **INT8,
        torch=lambda x: fake_int8(x)[:, [7, 5, 3]],
    ),
    case(
        _pair("Gather<axis=1>(q, i)"),
        x=(2, 5),
        i=constant([3, 0, 3]),
        **INT8,
        torch=lambda x: fake_int8(x)[:, [3, 0, 3]],
    ),
    case(
        _pair("Pad(q, p, z)"),
        x=(2, 5),
        p=constant([0, 1, 0, 2]),
        **INT8,
        torch=lambda x: functional.pad(fake_int8(x), (1, 2)),
    ),
    case(
        "q = QuantizeLinear(x, s, z); r = QuantizeLinear(w, s, z); m = Concat<axis=1>(q, r); "
        "y = DequantizeLinear(m, s, z)",
        x=(2, 5),
        w=(2, 3),
        **INT8,
        torch=lambda x, w: torch.cat([fake_int8(x), fake_int8(w)], 1),
    ),
    case(
        "q = QuantizeLinear(x, s, z); a, b, c = Split<axis=1>(q, t); y = DequantizeLinear(b, s, z)",
        x=(2, 6),
        t=constant([1, 3, 2]),
        **INT8,
        torch=lambda x: fake_int8(x)[:, 1:4],
    ),
    case(
        "q = QuantizeLinear(x, s, z); a = DequantizeLinear(q, s, z); b = DequantizeLinear(q, s, z); y = Mul(a, b)",
        x=(2, 6),
        **INT8,
        torch=lambda x: fake_int8(x) ** 2,
    ),
    case(  # scales that differ: what dequantising makes larger, so does the gradient
        "q = QuantizeLinear(x, s, z); y = DequantizeLinear(q, t, z)",
        x=(2, 6),
        t=constant(0.03),
        **INT8,
        torch=lambda x: 2 * fake_int8(x),
    ),
    case(
        "y = DequantizeLinear<axis=1>(q, x, z)",
        x=(3,),
        q=constant(np.arange(-60, 60, dtype=np.int8).reshape(2, 3, 20)),
        z=constant(np.array([1, -2, 3], np.int8)),
        torch=lambda x: (torch.arange(-60, 60).reshape(2, 3, 20) - torch.tensor([[1], [-2], [3]])) * x[:, None],
    ),
    # Quantised as the values come, and integer products
    case("q, s, z = DynamicQuantizeLinear(x); y = DequantizeLinear(q, s, z)", x=(3, 5), torch=lambda x: _rounded(x)),
    *(
        case(
            "q, s, z = DynamicQuantizeLinear(x); i = MatMulInteger(q, w, z, v); "
            "f = Cast<to=1>(i); t = Mul(s, u); y = Mul(f, t)",
            x=(2, 3, 4),
            w=constant(WEIGHT.T),
            v=constant(zero),
            u=constant([0.125, 0.25, 0.5, 1, 2]),
            torch=lambda x, zero=zero: _rounded(x) @ ((_int(WEIGHT.T) - _int(zero)) * SCALE),
            tolerance=1e-5,
        )
        for zero in (np.int8(3), np.array([1, 2, 3, 4, 5], np.int8))
    ),
    case(
        "q, s, z = DynamicQuantizeLinear(x); i = ConvInteger<pads=[1, 1, 1, 1], strides=[2, 1]>(q, w, z, v); "
        "f = Cast<to=1>(i); y = Mul(f, s)",
        x=(2, 3, 5, 4),
        w=constant(KERNEL),
        v=constant(np.uint8(100)),
        torch=lambda x: functional.conv2d(_rounded(x), _int(KERNEL) - 100, stride=(2, 1), padding=1),
    ),
    *(
        case(
            "y = com.microsoft.DynamicQuantizeMatMul(x, w, u, v, b)",
            x=(2, 3, 4),
            b=(5,),
            w=constant(WEIGHT.T),
            u=constant(scale),
            v=constant(zero),
            torch=lambda x, b, scale=scale, zero=zero: (
                _rounded(x) @ ((_int(WEIGHT.T) - _int(zero)) * torch.tensor(np.float32(scale))) + b
            ),
        )
        for scale, zero in [(0.25, np.int8(3)), ([0.125, 0.25, 0.5, 1, 2], np.array([1, 2, 3, 4, 5], np.int8))]
    ),
    case(
        "q, s, z = DynamicQuantizeLinear(x); y = com.microsoft.MatMulIntegerToFloat(q, w, s, u, z, v, b)",
        x=(2, 3, 4),
        b=(5,),
        w=constant(WEIGHT.T),
        u=constant([0.125, 0.25, 0.5, 1, 2]),
        v=constant(np.array([1, 2, 3, 4, 5], np.int8)),
        torch=lambda x, b: _rounded(x) @ ((_int(WEIGHT.T) - torch.arange(1, 6)) * SCALE) + b,
    ),
]


@each(CASES)
def test_gradient_equals_torch(row, setting):
    equals_torch(row, setting)


EDGES = [
    edge(
        PAIR,
        "is 1 up to half a step beyond the range, as torch has it",
        x=[-129.0, -128.6, -128.4, 0.2, 127.4, 127.6],
        s=constant(1.0),
        z=constant(np.int8(0)),
        dy=[1.0, 2, 3, 4, 5, 6],
        dx=[0, 0, 3, 4, 5, 0],
        torch=_fake(1.0, 0, -128, 127),
    ),
    edge(
        PAIR,
        "ends where the zero point shifts it",
        x=[-1.0, -0.5, -0.25, 60.0, 63.75, 64.0],
        s=constant(0.25),
        z=constant(np.uint8(1)),
        dx=[0, 0, 1, 1, 0, 0],
        torch=_fake(0.25, 1, 0, 255),
    ),
    edge(
        "a = QuantizeLinear(x, s, z); b = DequantizeLinear(a, s, z); r = Neg(b); "
        "q = QuantizeLinear(r, s, z); y = DequantizeLinear(q, s, z)",
        "counts the outermost steps as clipped where x does not exist",
        x=[-3.0, -127.0, -128.0, 126.0, 127.0],
        s=constant(1.0),
        z=constant(np.int8(0)),
        dx=[-1, 0, 0, -1, -1],
    ),
    edge(
        "a = QuantizeLinear(x, s, z); b = DequantizeLinear(a, s, z); r = Neg(b); t = Relu(r); "
        "q = QuantizeLinear(t, s, z); y = DequantizeLinear(q, s, z)",
        "and a Relu that goes into the kernel is told by what it rounds to",
        x=[-3.0, -1.0, -0.4, 0.0, 1.0],
        s=constant(1.0),
        z=constant(np.int8(0)),
        dx=[-1, -1, 0, 0, 0],
    ),
    edge(
        "q = QuantizeLinear(x, s, z); y = DequantizeLinear(q, s, z)",
        "takes no notice of what it does not know",
        x=[np.nan, np.inf, -np.inf, 1.0],
        s=constant(1.0),
        z=constant(np.int8(0)),
        dx=[0, 0, 0, 1],
    ),
]


@pytest.mark.parametrize("row", EDGES, ids=str)
def test_special_values(row):
    has_edge_values(row)


def _model(text: str, opset: int = 19, **constants: np.ndarray) -> tuple[ir.Model, dict[str, ir.Value]]:
    proto = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["" : {opset}]> net (float[2, 3] x) => (float[2, 4] y) {{ {text} }}'
    )
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(value, name) for name, value in constants.items())
    model = ir.from_proto(onnx.shape_inference.infer_shapes(proto))
    return model, {value.name: value for value in [*model.graph.inputs, *model.graph.outputs]}


def test_eight_bit_floats_are_refused_in_words():
    model, values = _model(
        "z = Constant<value_floats = [0.0]>() f = Cast<to = 17>(z) k = Squeeze(f) "
        "q = QuantizeLinear(x, s, k) a = DequantizeLinear(q, s, k) y = MatMul(a, w)",
        s=np.float32(1.0),
        w=np.ones((3, 4), np.float32),
    )
    with pytest.raises(UnsupportedOperatorError, match="QuantizeLinear-19 'q': values quantised to FLOAT8E4M3FN"):
        gradients(model, of=values["y"], wrt=[values["x"]])


@pytest.mark.parametrize("zero", [{}, {"z": np.array([1, -2, 3, 0], np.int8)}])
def test_weights_stay_integers_in_the_file_and_are_folded_for_the_gradient(zero):
    steps = np.arange(-6, 6, dtype=np.int8).reshape(3, 4)
    scales = np.float32([0.5, 1, 2, 4])
    model, values = _model(
        f"w = DequantizeLinear<axis = 1>(i, s{', z' if zero else ''}) y = MatMul(x, w)", i=steps, s=scales, **zero
    )
    forward = len(model.graph)
    (dx,) = gradients(model, of=values["y"], wrt=[values["x"]])
    dx.name = "dx"
    model.graph.outputs.append(dx)
    behind = list(model.graph)[forward:]
    assert "DequantizeLinear" not in {node.op_type for node in behind}
    floats = [x for x in model.graph.initializers.values() if x.dtype == ir.DataType.FLOAT and x is not None]
    assert max(x.const_value.size for x in floats) == 4
    found = run_onnxruntime(ir.to_proto(model))({"x": np.zeros((2, 3), np.float32)})["dx"]
    expected = ((steps - zero.get("z", np.int8(0)).astype(np.int32)) * scales).sum(1)
    np.testing.assert_allclose(found, np.stack([expected, expected]))
