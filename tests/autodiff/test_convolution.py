from __future__ import annotations

import functools
import re

import onnx_ir as ir
import pytest
import torch.nn.functional as F  # noqa: N812  its usual name

from onnxcam.errors import AutodiffError

from .gradient_check import (
    Setting,
    build,
    case,
    constant,
    differentiate,
    each,
    edge,
    equals_central_difference,
    equals_torch,
    has_edge_values,
)


def conv(attributes, x, w, *, like_torch=True, **more):
    """A Conv of x and w under attributes in ONNX's text form; PyTorch pads asymmetrically in a step of its own."""
    rank = len(x) - 2

    def listed(name, default):
        found = re.search(rf"{name}=\[([\d, ]+)\]", attributes)
        return [int(n) for n in found[1].split(",")] if found else default

    def of_torch(x, w, b=None):
        pads = listed("pads", [0] * (2 * rank))
        sides = [n for axis in reversed(range(rank)) for n in (pads[axis], pads[axis + rank])]
        convolve = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[rank]
        group = int(found[1]) if (found := re.search(r"group=(\d+)", attributes)) else 1
        strides, dilations = listed("strides", [1] * rank), listed("dilations", [1] * rank)
        return convolve(F.pad(x, sides), w, b, strides, 0, dilations, group)

    inputs = ", ".join(["x", "w", *more])
    return case(
        f"Conv<{attributes}>({inputs})" if attributes else f"Conv({inputs})",
        x=x,
        w=w,
        torch=of_torch if like_torch else None,
        static=["w", *more],
        opsets=(18, 22),
        **more,
    )


CASES = [
    conv("", (2, 4, 5, 7), (6, 4, 1, 1)),
    conv("", (2, 4, 1, 1), (6, 4, 1, 1)),
    conv("pads=[1,1,1,1]", (2, 4, 5, 7), (6, 4, 3, 3), b=(6,)),
    conv("pads=[1,0,2,1]", (2, 4, 5, 7), (6, 4, 3, 2)),
    conv("pads=[3,2,1,0]", (2, 4, 5, 7), (6, 4, 2, 1)),  # more padding than kernel
    conv("dilations=[2,3], pads=[1,2,0,1]", (2, 4, 7, 9), (6, 4, 3, 2)),
    conv("group=2, pads=[1,0,0,1]", (2, 4, 5, 7), (6, 2, 3, 2)),
    conv("group=4, pads=[1,1,1,1]", (2, 4, 5, 7), (4, 1, 3, 3)),
    conv("group=4", (2, 4, 5, 7), (8, 1, 3, 2)),
    conv("group=2", (2, 6, 5, 7), (2, 3, 3, 2)),
    conv("strides=[2,2]", (2, 4, 7, 8), (6, 4, 1, 1)),
    conv("strides=[3,2], pads=[2,0,1,3], dilations=[2,2]", (2, 4, 7, 8), (6, 4, 1, 1)),
    conv("strides=[2,3], group=2", (2, 4, 7, 8), (6, 2, 1, 1)),
    conv("strides=[3], group=4", (2, 4, 11), (8, 1, 1)),
    conv("strides=[2,2], pads=[1,1,1,1]", (2, 4, 7, 8), (6, 4, 3, 3)),
    conv("strides=[2,3], pads=[0,1,2,0]", (2, 4, 7, 9), (6, 4, 3, 2)),
    conv("strides=[1,2], pads=[4,0,1,3]", (2, 4, 7, 9), (6, 4, 2, 1)),
    conv("strides=[2,2], dilations=[2,3], pads=[1,2,3,1]", (2, 4, 8, 9), (6, 4, 3, 2)),
    conv("strides=[2,2], group=4, pads=[1,1,1,1]", (2, 4, 7, 8), (4, 1, 3, 3)),
    conv("strides=[3,2], dilations=[1,2], group=4, pads=[0,3,1,0]", (2, 4, 9, 8), (4, 1, 3, 2)),
    conv("strides=[4,3], group=4", (2, 4, 9, 8), (4, 1, 1, 2)),
    conv("strides=[2], group=4, pads=[0,1]", (2, 4, 10), (4, 1, 3)),
    conv("strides=[2,2], group=4, pads=[1,1,1,1]", (2, 4, 7, 8), (8, 1, 3, 3)),
    conv("strides=[3,2], group=2", (2, 4, 8, 9), (6, 2, 2, 3)),
    conv("pads=[1,0]", (2, 4, 9), (6, 4, 3)),
    conv("strides=[2], pads=[0,1], group=2", (2, 4, 10), (6, 2, 3)),
    conv("pads=[1,0,1,1,1,0]", (2, 4, 4, 5, 6), (6, 4, 3, 3, 2)),
    conv("strides=[1,2,2], pads=[1,0,1,1,1,0]", (2, 4, 4, 5, 6), (6, 4, 3, 3, 2)),
]
DYNAMIC = [  # the weight is computed by the graph
    case(
        "w = Mul(v, s); y = Conv<pads=[1,1,1,1], strides=[2,1]>(x, w)",
        x=(2, 4, 5, 7),
        v=(6, 4, 3, 3),
        s=(6, 1, 1, 1),
        static=["v", "s"],
        torch=lambda x, v, s: F.conv2d(x, v * s, None, (2, 1), 1),
    ),
    case(
        "t = Reshape(z, shape); w = Sigmoid(t); y = Conv<group=2, kernel_shape=[3,2]>(x, w)",
        x=(2, 4, 5, 7),
        z=(4, 12),
        shape=constant([4, 2, 3, 2]),
        torch=lambda x, z: F.conv2d(x, z.reshape(4, 2, 3, 2).sigmoid(), groups=2),
    ),
]
ALIKE = [  # without a counterpart in PyTorch, or not with every axis symbolic
    *(
        case(f'Conv<auto_pad="{pad}", strides={strides}>(x, w)', x=(1, 2, 6, 7), w=w, wrt=["x"], static=["w"])
        for pad in ("SAME_UPPER", "SAME_LOWER", "VALID")
        for strides in ("[1,1]", "[2,2]", "[3,2]")
        for w in ((3, 2, 3, 2), (3, 2, 1, 4))
    ),
]


@each(CASES + DYNAMIC)
def test_gradient_equals_central_difference(row, setting):
    equals_central_difference(row, setting)


@each(CASES + DYNAMIC)
def test_gradient_equals_torch(row, setting):
    equals_torch(row, setting)


@each(ALIKE)
def test_gradient_under_auto_pad_equals_explicit_padding(row, setting):
    equals_torch(with_torch(row), setting)


def with_torch(row):
    """The row with its SAME or VALID padding worked out for PyTorch."""
    from dataclasses import replace

    lower, same = "LOWER" in row.text, "SAME" in row.text
    strides = [int(n) for n in re.search(r"strides=\[(\d),(\d)\]", row.text).groups()]

    def of_torch(x, w):
        sides = []
        for size, kernel, stride in zip(x.shape[:1:-1], w.shape[:1:-1], strides[::-1], strict=True):
            total = max((-(-size // stride) - 1) * stride + kernel - size, 0) if same else 0
            sides += [total - total // 2, total // 2] if lower else [total // 2, total - total // 2]
        return F.conv2d(F.pad(x, sides), w, None, strides)

    return replace(row, torch=of_torch)


EDGES = [
    edge(
        "Conv<strides=[2]>(x, w)", "gives 0 where no window reads",
        x=[[[1.0, 2, 3, 4, 5, 6]]], w=[[[10.0, 20, 30]]], dy=[[[1.0, 100]]],
        dx=[[[10, 20, 1030, 2000, 3000, 0]]], dw=[[[301, 402, 503]]], torch=functools.partial(F.conv1d, stride=2),
    ),
    edge(
        "Conv<pads=[1,0]>(x, w)", "is the mirrored weight",
        x=[[[1.0, 2, 3]]], w=[[[10.0, 20, 30]]], dy=[[[1.0, 100]]], dx=[[[1020, 2030, 3000]]],
    ),
    edge(
        'Conv<auto_pad="SAME_UPPER", strides=[2]>(x, w)', "pads the end first",
        x=[[[1.0, 2, 3, 4]]], w=[[[10.0, 20, 30]]], dy=[[[1.0, 100]]], dx=[[[10, 20, 1030, 2000]]],
    ),
]  # fmt: skip


@pytest.mark.parametrize("row", EDGES, ids=str)
def test_special_values(row):
    has_edge_values(row)


@pytest.mark.parametrize(
    ("row", "operators"),
    [
        (conv("pads=[1,1,1,1]", (2, 4, 5, 7), (6, 4, 3, 3)), ["Transpose", "Slice", "Conv"]),
        (conv("", (2, 4, 5, 7), (6, 4, 1, 1)), ["Transpose", "Conv"]),
        (conv("", (2, 4, 1, 1), (6, 4, 1, 1)), ["Flatten", "Flatten", "MatMul", "Unsqueeze"]),
        (conv("group=4, pads=[1,1,1,1]", (2, 4, 5, 7), (4, 1, 3, 3)), ["Slice", "Conv"]),
        (
            conv("strides=[2,2], group=4, pads=[1,1,1,1]", (2, 4, 7, 8), (4, 1, 3, 3)),
            ["Resize", "Constant", "Cast", "Tile", "Mul", "Slice", "Conv"],
        ),
        (
            conv("strides=[2,2], group=4, pads=[1,1,1,1]", (2, 4, 7, 8), (8, 1, 3, 3)),
            ["ConvTranspose"],
        ),
        (
            conv("strides=[2,2]", (2, 4, 8, 8), (6, 4, 1, 1)),
            ["Transpose", "Conv", "Resize", "Constant", "Cast", "Tile", "Mul"],
        ),
        (conv("strides=[2,2], pads=[1,1,1,1]", (2, 4, 8, 8), (6, 4, 3, 3)), ["ConvTranspose"]),
        (conv("strides=[2,2], pads=[0,0,1,1]", (2, 4, 8, 8), (6, 4, 3, 3)), ["ConvTranspose", "Slice"]),
    ],
    ids=str,
)
def test_operators_of_the_gradient(row, operators):
    proto = differentiate(build(row), ["x"])
    assert [node.op_type for node in proto.graph.node][1:] == operators
    for node in proto.graph.node:
        pads = [list(a.ints) for a in node.attribute if a.name == "pads" and node.op_type == "ConvTranspose"]
        assert all(p[:2] == p[2:] for p in pads), "ONNX Runtime has no CUDA kernel for asymmetric padding"


def test_grouped_weight_of_unknown_channels_is_refused():
    model = build(
        case("Conv<group=2, kernel_shape=[3,2]>(x, w)", x=(2, 4, 5, 7), w=(6, 2, 3, 2)), Setting(dynamic=True)
    )
    with pytest.raises(AutodiffError, match="channels of the grouped weight 'w' are not static"):
        differentiate(model, ["x"])


def test_kernel_of_unknown_shape_is_refused():
    model = build(case("Conv(x, w)", x=(2, 4, 5, 7), w=(6, 4, 3, 2)))
    model.graph.inputs[1].shape = ir.Shape(["m", "c", "h", "w"])
    with pytest.raises(AutodiffError, match="kernel's shape is not static"):
        differentiate(model, ["x"])
