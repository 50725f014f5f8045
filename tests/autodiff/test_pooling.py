from __future__ import annotations

import functools
import itertools

import pytest
import torch
import torch.nn.functional as F  # noqa: N812  its usual name

from .gradient_check import (
    build,
    case,
    differentiate,
    distinct,
    each,
    edge,
    equals_central_difference,
    equals_torch,
    has_edge_values,
)

X = (2, 3, 7, 9)
POOLS = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
AVERAGES = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


def max_pool(kernel, strides, pads, dilations=None, ceil=False, x=X, **more):
    """A MaxPool; PyTorch gets asymmetric padding as a step of its own."""
    rank = len(kernel)
    dilations = dilations or [1] * rank
    sides = [n for axis in reversed(range(rank)) for n in (pads[axis], pads[axis + rank])]

    def of_torch(x):
        if pads[:rank] == pads[rank:]:
            return POOLS[rank](x, kernel, strides, pads[:rank], dilations, ceil)
        return POOLS[rank](F.pad(x, sides, value=-torch.inf), kernel, strides, 0, dilations, ceil)

    text = f"kernel_shape={kernel}, strides={strides}, pads={pads}, dilations={dilations}, ceil_mode={int(ceil)}"
    # onnx's reference evaluator gives Indices per channel, not over all of x
    return case(f"MaxPool<{text}>(x)", x=distinct(*x), torch=of_torch, opsets=(18, 22), float64="onnxruntime", **more)


def average_pool(kernel, strides, pads, ceil=False, padded=False, x=X, dilations=None, torch_too=True):
    rank = len(kernel)
    text = (
        f"kernel_shape={kernel}, strides={strides}, pads={pads}, ceil_mode={int(ceil)}, count_include_pad={int(padded)}"
    )
    symmetric = pads[:rank] == pads[rank:]
    of_torch = None
    if symmetric and dilations is None and torch_too:
        of_torch = lambda x: AVERAGES[rank](x, kernel, strides, pads[:rank], ceil, padded)  # noqa: E731
    if dilations is not None:
        text += f", dilations={dilations}"
    opsets = (18, 22) if dilations is None else (19, 22)
    return case(f"AveragePool<{text}>(x)", x=x, torch=of_torch, opsets=opsets)


MAX = [
    max_pool([3, 3], [2, 2], [1, 1, 1, 1]),
    max_pool([2, 3], [2, 3], [0, 0, 0, 0]),
    max_pool([3, 2], [1, 1], [1, 0, 0, 1]),
    max_pool([3, 2], [1, 2], [1, 0, 1, 0], [2, 3]),
    max_pool([3, 3], [2, 2], [0, 0, 0, 0], ceil=True, x=(2, 3, 8, 10)),
    max_pool([2, 3], [2, 2], [1, 1, 1, 1], [2, 1], ceil=True),
    max_pool([3], [2], [1, 0], x=(2, 3, 9)),
    max_pool([3, 2, 2], [2, 1, 2], [1, 0, 0, 1, 0, 0], x=(2, 3, 5, 6, 7)),
]
MAX_ALIKE = [
    *(
        case(f'MaxPool<kernel_shape=[3,2], strides=[2,2], auto_pad="{pad}">(x)', x=distinct(*X), float64="onnxruntime")
        for pad in ("SAME_UPPER", "SAME_LOWER", "VALID")
    ),
    case(
        "y, i = MaxPool<kernel_shape=[3,2], strides=[2,2], storage_order=1>(x)",
        x=distinct(*X), float64="onnxruntime", torch=lambda x: F.max_pool2d(x, (3, 2), (2, 2)),
    ),
]  # fmt: skip
GLOBAL = [
    case("GlobalAveragePool(x)", x=X, torch=lambda x: x.mean((2, 3), keepdim=True), opsets=(18, 22)),
    case("GlobalAveragePool(x)", x=(2, 3, 5), torch=lambda x: x.mean(2, keepdim=True), opsets=(18, 22)),
    case("GlobalMaxPool(x)", x=distinct(*X), torch=lambda x: x.amax((2, 3), keepdim=True), opsets=(18, 22)),
]
AVERAGE = [
    *(
        average_pool(kernel, strides, pads, ceil, padded, x=(2, 3, 8, 9))
        for kernel, strides, pads, ceil, padded in itertools.product(
            ([3, 4],), ([1, 1], [2, 3]), ([0, 0, 0, 0], [1, 1, 1, 1]), (False, True), (False, True)
        )
    ),
    average_pool([3, 2], [2, 2], [1, 0, 0, 1]),
    average_pool([3, 2], [2, 1], [1, 0, 0, 1], padded=True),
    average_pool([2, 3], [2, 3], [0, 0, 0, 0]),
    average_pool([7, 9], [1, 1], [0, 0, 0, 0]),
    average_pool([7, 9], [7, 9], [0, 0, 0, 0]),
    average_pool([3], [2], [1, 1], x=(2, 3, 9)),
    average_pool([3, 2, 2], [2, 1, 2], [1, 0, 0, 1, 0, 0], x=(2, 3, 5, 6, 7)),
    average_pool([3, 2, 2], [3, 2, 2], [0] * 6, x=(2, 3, 5, 6, 7)),
]
DILATED = [
    average_pool([3, 2], [1, 1], [0, 0, 0, 0], dilations=[2, 3]),
    average_pool([3, 2], [2, 1], [1, 1, 1, 1], dilations=[2, 3]),
    average_pool([2, 2], [1, 2], [1, 0, 0, 1], padded=True, dilations=[2, 1]),
]
AVERAGE_ALIKE = [
    case(
        f'AveragePool<kernel_shape=[3,2], strides={strides}, auto_pad="{pad}", count_include_pad={padded}>(x)',
        x=X, opsets=(18, 22),
    )
    for pad in ("SAME_UPPER", "SAME_LOWER", "VALID") for strides in ("[1,1]", "[2,2]") for padded in (0, 1)
]  # fmt: skip


@each(GLOBAL)
def test_gradient_equals_central_difference(row, setting):
    equals_central_difference(row, setting)


@each([row for row in AVERAGE + DILATED + AVERAGE_ALIKE if "ceil_mode=1" not in row.text])  # wrong in the reference
def test_average_equals_central_difference(row, setting):
    equals_central_difference(row, setting)


@each(MAX + MAX_ALIKE)
def test_max_equals_central_difference(row, setting):
    equals_central_difference(row, setting)


@each([row for row in MAX + MAX_ALIKE + GLOBAL + AVERAGE if row.torch])
def test_gradient_equals_torch(row, setting):
    equals_torch(row, setting)


EDGES = [
    edge(
        "MaxPool<kernel_shape=[2], strides=[1]>(x)", "adds up where windows overlap",
        x=[[[1.0, 5, 2, 7]]], dy=[[[1.0, 10, 100]]], dx=[[[0, 11, 0, 100]]],
        torch=functools.partial(F.max_pool1d, kernel_size=2, stride=1),
    ),
    edge(
        "MaxPool<kernel_shape=[2,2], strides=[2,2]>(x)", "goes to the first of equal maxima",
        x=[[[[3.0, 3, 1, 4], [3, 3, 4, 4]]]], dy=[[[[1.0, 10]]]], dx=[[[[1, 0, 0, 10], [0, 0, 0, 0]]]],
        torch=functools.partial(F.max_pool2d, kernel_size=2),
    ),
    edge(
        "MaxPool<kernel_shape=[2]>(x)", "is counted over batch and channels",
        x=[[[1.0, 2], [4, 3]], [[5, 6], [7, 7]]],
        dy=[[[1.0], [2]], [[3], [4]]], dx=[[[0, 1], [2, 0]], [[0, 3], [4, 0]]],
        torch=functools.partial(F.max_pool1d, kernel_size=2, stride=1),
    ),
    edge(
        "GlobalMaxPool(x)", "is shared by equal maxima",
        x=[[[1.0, 3, 3, 2]]], dy=[[[4.0]]], dx=[[[0, 2, 2, 0]]], torch=lambda x: x.amax(2, keepdim=True),
    ),
    edge(
        "AveragePool<kernel_shape=[2], strides=[2]>(x)", "is 0 where no window reads",
        x=[[[1.0, 2, 3, 4, 5]]], dy=[[[2.0, 20]]], dx=[[[1, 1, 10, 10, 0]]],
        torch=functools.partial(F.avg_pool1d, kernel_size=2),
    ),
    edge(
        "AveragePool<kernel_shape=[2], strides=[1], pads=[1,1]>(x)", "divides by what lies inside",
        x=[[[1.0, 2, 3]]], dy=[[[1.0, 10, 100, 1000]]], dx=[[[6, 55, 1050]]],
        torch=functools.partial(F.avg_pool1d, kernel_size=2, stride=1, padding=1, count_include_pad=False),
    ),
    edge(
        "AveragePool<kernel_shape=[2], strides=[2], ceil_mode=1>(x)", "divides a cut window by its part inside",
        x=[[[1.0, 2, 3]]], dy=[[[2.0, 20]]], dx=[[[1, 1, 20]]],
        torch=functools.partial(F.avg_pool1d, kernel_size=2, ceil_mode=True),
    ),
]  # fmt: skip


@pytest.mark.parametrize("row", EDGES, ids=str)
def test_special_values(row):
    has_edge_values(row)


@pytest.mark.parametrize(
    ("row", "operators"),
    [
        (GLOBAL[0], ["Expand", "Mul"]),
        (average_pool([3, 2], [1, 1], [0, 0, 0, 0]), ["AveragePool"]),
        (average_pool([3, 3], [1, 1], [1, 1, 1, 1], padded=True), ["AveragePool"]),
        (average_pool([2, 3], [2, 3], [0, 0, 0, 0], x=(2, 3, 8, 9)), ["Mul", "Reshape", "Expand", "Reshape"]),
    ],
    ids=str,
)
def test_operators_of_the_gradient(row, operators):
    proto = differentiate(build(row, dtype="float32"), ["x"])
    assert [node.op_type for node in proto.graph.node if node.op_type != "CastLike"][1:] == operators


def test_forward_max_pool_stays_without_indices():
    proto = differentiate(build(MAX[0]), ["x"])
    assert list(proto.graph.node[0].output) == ["y"]
