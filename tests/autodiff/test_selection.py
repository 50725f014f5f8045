from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from .gradient_check import (
    case,
    constant,
    each,
    edge,
    equals_central_difference,
    equals_torch,
    has_edge_values,
)

CONDITION = np.array([[True], [False], [True]])
INF, NAN = math.inf, math.nan

CASES = [
    case("Where(c, a, b)", c=CONDITION, a=(3, 5), b=(5,), torch=torch.where),
    case("Where(c, a, b)", c=CONDITION, a=(), b=(2, 1, 5), torch=torch.where),
    case("Where(c, a, b)", c=CONDITION, a=(3, 5), b=constant(-1e4), torch=lambda c, a: a.where(c, torch.tensor(-1e4))),
    case("Identity(x)", x=(3, 5), torch=lambda x: x * 1),
    *(  # the versions between, one at each of these opsets
        case("i = Identity(x); t = Cast<to=11>(i); y = CastLike(t, x)", x=(3, 5), opsets=opsets, torch=lambda x: x * 1)
        for opsets in [(19, 21), (23, 24), (25, 25)]
    ),
    # the difference of a float32 detour would be noise: in float64 the detour is through float64
    case("t = Cast<to=11>(x); y = CastLike(t, x)", x=(3, 5), torch=lambda x: x.double().float()),
    case("t = Shape(x); f = CastLike(t, x); s = ReduceSum(f); y = Mul(x, s)", x=(3, 5), torch=lambda x: x * 8),
    case("Dropout(x)", x=(3, 5), torch=lambda x: x * 1),
    case("Dropout(x, r, t)", x=(3, 5), r=constant(0.5), t=constant(False), torch=lambda x: x * 1),
    case("y, mask = Dropout(x, r)", x=(3, 5), r=constant(0.5), torch=lambda x: x * 1),
]


EDGES = [
    edge("Where(c, a, b)", "0 where not chosen", c=[True, False], a=[1.0, INF], b=[NAN, 2.0], da=[1, 0], db=[0, 1]),
]


@each(CASES)
def test_gradient_equals_central_difference(row, setting):
    equals_central_difference(row, setting)


@each(CASES)
def test_gradient_equals_torch(row, setting):
    equals_torch(row, setting)


@pytest.mark.parametrize("row", EDGES, ids=str)
def test_special_values(row):
    has_edge_values(row)
