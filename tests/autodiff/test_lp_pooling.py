"""Pools by a norm, and the reverse of a pool by the maximum."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812  its usual name

from onnxcam.errors import AutodiffError

from .gradient_check import (
    apart,
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

X = (2, 3, 7, 9)
CONVS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


def lp_pool(kernel, strides=None, pads=None, dilations=None, p=2, ceil=False, x=X, auto_pad="", **more):
    """An LpPool; in PyTorch, whose own knows neither padding nor |x| for an odd p, a Conv with a kernel of ones."""
    rank = len(kernel)
    text = [f"kernel_shape={kernel}", f"p={p}", f"ceil_mode={int(ceil)}"]
    text += [f"strides={strides}"] if strides else []
    text += [f"pads={pads}"] if pads else []
    text += [f"dilations={dilations}"] if dilations else []
    text += [f'auto_pad="{auto_pad}"'] if auto_pad else []
    strides, pads, dilations = strides or [1] * rank, pads or [0] * (2 * rank), dilations or [1] * rank

    def of_torch(x):
        sides = []
        for i in reversed(range(rank)):
            size, extent, begin, end = x.shape[2 + i], (kernel[i] - 1) * dilations[i] + 1, pads[i], pads[i + rank]
            if auto_pad.startswith("SAME"):
                total = max((-(-size // strides[i]) - 1) * strides[i] + extent - size, 0)
                begin = total - total // 2 if auto_pad == "SAME_LOWER" else total // 2
                end = total - begin
            if ceil and not auto_pad:
                count = -(-(begin + size + end - extent) // strides[i])
                count -= count * strides[i] >= begin + size  # none may start behind x
                end = max(end, count * strides[i] + extent - size - begin)
            sides += [begin, end]
        planes = F.pad((x.abs() ** p).flatten(0, 1).unsqueeze(1), sides)
        sums = CONVS[rank](planes, torch.ones(1, 1, *kernel), None, strides, 0, dilations)
        return sums.reshape(*x.shape[:2], *sums.shape[2:]) ** (1 / p)

    text = ", ".join(text)
    return case(f"LpPool<{text}>(x)", x=apart(*x), torch=of_torch, opsets=(18, 22), **more)


LP = [
    lp_pool([2, 3], [2, 3]),
    lp_pool([2, 3], [2, 3], p=3, x=(2, 3, 8, 9)),
    lp_pool([3, 3], [2, 2], p=1),
    lp_pool([3, 2], p=4),
    lp_pool([3, 3], [2, 2], [1, 1, 1, 1]),
    lp_pool([3], [2], p=5, x=(2, 3, 9)),
    lp_pool([3, 2, 2], [2, 1, 2], x=(2, 3, 5, 6, 7)),
    lp_pool([3, 2], [2, 1], [1, 0, 2, 1], p=3),
    lp_pool([3, 2], None, [1, 0, 2, 1], [2, 3]),
    lp_pool([3, 2], [2, 2], None, [2, 3], p=3),
    lp_pool([3, 2], [2, 2], ceil=True, x=(2, 3, 8, 9)),
    lp_pool([3, 2], [2, 3], [1, 1, 0, 0], ceil=True, p=3, x=(2, 3, 8, 9)),
    *(
        lp_pool([3, 4], strides, auto_pad=pad)
        for pad in ("SAME_UPPER", "SAME_LOWER", "VALID")
        for strides in ([1, 1], [2, 3])
    ),
]
GLOBAL = [
    case(
        f"GlobalLpPool<p={p}>(x)",
        x=apart(*shape),
        opsets=(18, 18),  # ONNX Runtime has no later one
        torch=lambda x, p=p: (x.abs() ** p).flatten(2).sum(2).reshape(*x.shape[:2], *[1] * (x.ndim - 2)) ** (1 / p),
    )
    for p, shape in [(1, X), (2, X), (3, (2, 3, 5)), (4, (1, 2, 3, 4, 5))]
]
NEWEST_GLOBAL = [case("GlobalLpPool(x)", x=apart(*X), opsets=(22, 22))]
INDICES = np.array([[[[5, 3], [13, 12]], [[16, 21], [24, 31]]]])
UNPOOL = [
    case(
        "MaxUnpool<kernel_shape=[2,2], strides=[2,2]>(x, i)",
        x=(1, 2, 2, 2), i=INDICES, opsets=(18, 22),
        torch=lambda x, i: F.max_unpool2d(x, i - (i // 16) * 16, 2),
    ),
    case(
        "y0, i = MaxPool<kernel_shape=[2,2], strides=[2,2]>(x); z = Relu(y0);"
        "y = MaxUnpool<kernel_shape=[2,2], strides=[2,2]>(z, i)",
        x=apart(2, 3, 4, 6), opsets=(18, 22), float64="onnxruntime",
        torch=lambda x: _there_and_back(x),
    ),
]  # fmt: skip


def _there_and_back(x):
    y, i = F.max_pool2d(x, 2, return_indices=True)
    return F.max_unpool2d(y.relu(), i, 2)


@each(LP + GLOBAL + NEWEST_GLOBAL + UNPOOL[:1])
def test_gradient_equals_central_difference(row, setting):
    equals_central_difference(row, setting)


@each(LP + GLOBAL + UNPOOL)
def test_gradient_equals_torch(row, setting):
    equals_torch(row, setting)


EDGES = [
    edge(
        "LpPool<kernel_shape=[2], strides=[2]>(x)", "is 0 where the window is",
        x=[[[0.0, 0, 3, -4]]], dy=[[[7.0, 5]]], dx=[[[0, 0, 3, -4]]],
    ),
    edge(
        "LpPool<kernel_shape=[2], strides=[1], p=1>(x)", "adds up the signs where windows overlap",
        x=[[[0.0, 2, -3]]], dy=[[[1.0, 10]]], dx=[[[0, 11, -10]]],
    ),
    edge("GlobalLpPool<p=3>(x)", "is 0 where all is 0", x=[[[0.0, 0]]], dy=[[[7.0]]], dx=[[[0, 0]]]),
    edge(
        "GlobalLpPool(x)", "is x over its norm",
        x=[[[3.0, -4]]], dy=[[[5.0]]], dx=[[[3, -4]]], torch=functools.partial(F.lp_pool1d, norm_type=2, kernel_size=2),
    ),
]  # fmt: skip


@pytest.mark.parametrize("row", EDGES, ids=str)
def test_special_values(row):
    has_edge_values(row)


@pytest.mark.parametrize("operator", ["LpPool", "AveragePool"])
@pytest.mark.parametrize("attributes", ["strides=[3,1], kernel_shape=[1,2]", "dilations=[1,2], kernel_shape=[2,2]"])
def test_padding_that_runtimes_disagree_on_is_refused(operator, attributes):
    row = case(f'{operator}<auto_pad="SAME_UPPER", {attributes}>(x)', x=X, opsets=(22, 22))
    with pytest.raises(AutodiffError, match=r"runtimes disagree on auto_pad SAME .* write the pads out"):
        differentiate(build(row), ["x"])


def test_unpooling_into_a_given_shape_is_refused():
    """ONNX's own case has the indices point into the shape it would have without, ONNX Runtime into the one given."""
    feeds = {"x": (1, 1, 2, 2), "i": np.array([[[[5, 7], [13, 15]]]]), "shape": constant([1, 1, 5, 5])}
    row = case("MaxUnpool<kernel_shape=[2,2], strides=[2,2]>(x, i, shape)", wrt=["x"], **feeds)
    with pytest.raises(AutodiffError, match="runtimes disagree on where the indices point under output_shape"):
        differentiate(build(row), ["x"])
