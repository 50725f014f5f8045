from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812  its usual name

from .gradient_check import (
    NEWEST,
    Setting,
    build,
    case,
    constant,
    differentiate,
    each,
    equals_central_difference,
    equals_torch,
)

X = (2, 3, 5, 7)


SHAPES = [
    case("Reshape(x, to)", x=X, to=constant([0, -1, 7]), torch=lambda x: x.reshape(2, -1, 7), opsets=(18, 25)),
    case("Reshape<allowzero=1>(x, to)", x=X, to=constant([35, 6]), torch=lambda x: x.reshape(35, 6), opsets=(18, 25)),
    case(
        "Reshape(x, to)", x=X, to=np.array([6, 35]), static=["to"], torch=lambda x, _: x.reshape(6, 35), opsets=(18, 25)
    ),
    case("Reshape(x, to)", x=(1,), to=constant(np.array([], np.int64)), torch=lambda x: x.reshape(()), opsets=(18, 25)),
    case("Reshape(x, to)", x=(), to=constant([1, 1]), torch=lambda x: x.reshape(1, 1), opsets=(18, 25)),
    case("Flatten(x)", x=X, torch=lambda x: x.flatten(1), opsets=(18, 25)),
    case("Flatten<axis=-1>(x)", x=X, torch=lambda x: x.flatten(0, 2), opsets=(18, 25)),
    case("Squeeze(x, axes)", x=(1, 3, 1, 2), axes=constant([0, -2]), torch=torch.squeeze, opsets=(18, 25)),
    case("Squeeze(x)", x=(1, 3, 1, 2), torch=torch.squeeze, opsets=(18, 25), static=["x"]),
    case("Unsqueeze(x, axes)", x=(3, 5), axes=constant([-1, 0]), torch=lambda x: x[None, ..., None], opsets=(18, 25)),
    case("Transpose(x)", x=X, torch=lambda x: x.permute(3, 2, 1, 0), opsets=(18, 25)),
    case("Transpose<perm=[2,0,3,1]>(x)", x=X, torch=lambda x: x.permute(2, 0, 3, 1), opsets=(18, 25)),
    case("Expand(x, to)", x=(3, 1, 7), to=constant([2, 3, 5, 1]), torch=lambda x: x.expand(2, 3, 5, 7)),
    case("Expand(x, to)", x=(3, 7), to=constant([3, 7]), torch=lambda x: x * 1),
]
JOINS = [
    case("Concat<axis=1>(a, b)", a=(2, 3, 5), b=(2, 4, 5), torch=lambda *x: torch.cat(x, 1)),
    case("Concat<axis=-1>(a, b, c)", a=(3, 5), b=(3, 1), c=(3, 4), torch=lambda *x: torch.cat(x, -1)),
    case("Concat<axis=0>(a)", a=(3, 5), torch=lambda a: a * 1),
    case("Concat<axis=1>(a, b, a)", a=(2, 3), b=(2, 4), torch=lambda a, b: torch.cat([a, b, a], 1)),
    case(
        "Concat<axis=1>(a, b, c)", a=(2, 3), b=(2, 4), c=(2, 2), wrt=["b"],
        torch=lambda *x: torch.cat(x, 1),
    ),
    case(
        "p, q = Split<axis=1>(x, sizes) ; e = Mul(p, p) ; y = Concat<axis=1>(q, e)",
        x=(3, 5), sizes=constant([2, 3]), torch=lambda x: torch.cat([x[:, 2:], x[:, :2] ** 2], 1),
    ),
    case("p, y, q = Split<axis=-1>(x, sizes)", x=(3, 7), sizes=constant([2, 4, 1]), torch=lambda x: x[:, 2:6] * 1),
    case(
        "p, q, r = Split<axis=0>(x, sizes) ; y = Concat<axis=0>(r, p)",
        x=(6, 3), sizes=constant([1, 2, 3]), torch=lambda x: torch.cat([x[3:], x[:1]]),
    ),
    case("p, y = Split<axis=1, num_outputs=2>(x)", x=(3, 5), torch=lambda x: x[:, 3:] * 1),
    case(
        "p, q, r = Split<axis=1, num_outputs=3>(x) ; y = Concat<axis=1>(r, p)",
        x=(2, 7), torch=lambda x: torch.cat([x[:, 6:], x[:, :3]], 1),
    ),
]  # fmt: skip
REPEATS = [
    case("Tile(x, n)", x=(2, 3, 5), n=constant([2, 1, 3]), torch=lambda x: x.tile(2, 1, 3)),
    case("Tile(x, n)", x=(5, 3), n=constant([1, 1]), torch=lambda x: x * 1),
    case("Tile(x, n)", x=(2, 3, 5, 4), n=constant([1, 2, 2, 3]), torch=lambda x: x.tile(1, 2, 2, 3)),
    case("Tile(x, n)", x=(2, 3, 5), n=np.array([1, 4, 2]), static=["n"], torch=lambda x, n: x.tile(1, 4, 2)),
]
ORDERS = [
    case("DepthToSpace<blocksize=2>(x)", x=(2, 12, 3, 5), opsets=(18, NEWEST),
         torch=lambda x: x.reshape(2, 2, 2, 3, 3, 5).permute(0, 3, 4, 1, 5, 2).reshape(2, 3, 6, 10)),
    case('DepthToSpace<blocksize=3, mode="CRD">(x)', x=(2, 18, 3, 5), torch=lambda x: F.pixel_shuffle(x, 3)),
    case("SpaceToDepth<blocksize=2>(x)", x=(2, 3, 6, 10),
         torch=lambda x: x.reshape(2, 3, 3, 2, 5, 2).permute(0, 3, 5, 1, 2, 4).reshape(2, 12, 3, 5)),
    case('SpaceToDepth<blocksize=2, mode="CRD">(x)', x=(2, 3, 6, 10), opsets=(28, 28),
         torch=lambda x: F.pixel_unshuffle(x, 2)),
    case("ReverseSequence<batch_axis=0, time_axis=1>(x, n)", x=(3, 5, 2), n=constant([3, 1, 5]),
         torch=lambda x: torch.stack([x[0, [2, 1, 0, 3, 4]], x[1], x[2].flip(0)])),
    case("ReverseSequence(x, n)", x=(5, 2), n=np.array([2, 5]),
         torch=lambda x, n: torch.stack([x[[1, 0, 2, 3, 4], 0], x[:, 1].flip(0)], 1)),
]  # fmt: skip
CASES = SHAPES + JOINS + REPEATS + ORDERS


@each(CASES)
def test_gradient_equals_central_difference(row, setting):
    equals_central_difference(row, setting)


@each(CASES)
def test_gradient_equals_torch(row, setting):
    equals_torch(row, setting)


@pytest.mark.parametrize(
    ("row", "setting", "operators"),
    [
        (SHAPES[0], Setting(), ["Reshape"]),
        (SHAPES[0], Setting(dynamic=True), ["Shape", "Reshape"]),
        (JOINS[0], Setting(), ["Split"]),
        (JOINS[4], Setting(), ["Slice"]),
        (JOINS[6], Setting(), ["Pad"]),
        (REPEATS[0], Setting(), ["Reshape", "ReduceSum"]),
        (REPEATS[1], Setting(), ["Identity"]),
    ],
    ids=str,
)
def test_operators_of_the_gradient(row, setting, operators):
    model = build(row, setting)
    forward = len(model.graph)
    proto = differentiate(model, row.wrt)
    assert [node.op_type for node in proto.graph.node][forward:] == operators
