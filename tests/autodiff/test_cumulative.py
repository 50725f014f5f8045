from __future__ import annotations

import numpy as np
import pytest
import torch

from .gradient_check import (
    NEWEST,
    apart,
    case,
    constant,
    each,
    edge,
    equals_central_difference,
    equals_torch,
    has_edge_values,
    uniform,
)


def _cumulative(of, axis: int, *, exclusive: bool = False, reverse: bool = False):
    """The cumulative ``of`` as ONNX has it: ``exclusive`` shifts by one, ``reverse`` runs from the end."""
    start = 0.0 if of is torch.cumsum else 1.0

    def run(x, *_):
        x = x.flip(axis) if reverse else x
        y = of(x, axis)
        if exclusive:
            y = torch.cat([torch.full_like(x.narrow(axis, 0, 1), start), y.narrow(axis, 0, x.shape[axis] - 1)], axis)
        return y.flip(axis) if reverse else y

    return run


CASES = [
    case(
        f"{name}<exclusive={int(exclusive)}, reverse={int(reverse)}>(x, axis)",
        x=apart(2, 3, 5),
        axis=constant(axis),
        opsets=(opset, NEWEST),
        torch=_cumulative(of, axis, exclusive=exclusive, reverse=reverse),
    )
    for name, of, opset in [("CumSum", torch.cumsum, 18), ("CumProd", torch.cumprod, 26)]
    for axis, exclusive, reverse in [(-1, 0, 0), (1, 0, 1), (0, 1, 0), (-2, 1, 1), (2, 1, 0)]
] + [
    case("CumSum(x, axis)", x=(3, 5), axis=np.array(1), torch=_cumulative(torch.cumsum, 1)),
    case("CumProd(x, axis)", x=(3, 5), axis=np.array(0), opsets=(26, NEWEST), torch=_cumulative(torch.cumprod, 0)),
    case(
        "Range(start, limit, delta)",
        start=uniform(0.0, 0.5),
        limit=np.array(4.3),
        delta=uniform(0.9, 1.1),
        torch=lambda start, limit, delta: start + torch.arange(5 if start + 4 * delta < limit else 4) * delta,
    ),
    case(
        "Range(start, limit, delta)",
        start=uniform(4.0, 4.5),
        limit=np.array(-1.0),
        delta=uniform(-1.1, -0.9),
        torch=lambda start, limit, delta: start + torch.arange(6 if start + 5 * delta > limit else 5) * delta,
    ),
]

EDGES = [
    edge(
        f"CumProd<exclusive={int(exclusive)}, reverse={int(reverse)}>(x, axis)",
        "passes through the first zero and no further",
        x=x,
        axis=constant(-1),
        dy=[1.0, 10.0, 100.0, 1000.0],
        dx=dx,
        opset=26,
        torch=_cumulative(torch.cumprod, -1, exclusive=exclusive, reverse=reverse),
    )
    for x, exclusive, reverse, dx in [
        ([2.0, 0.0, 3.0, 5.0], 0, 0, [1, 2 * (10 + 300 + 15000), 0, 0]),
        ([2.0, 0.0, 3.0, 0.0], 0, 0, [1, 2 * (10 + 300), 0, 0]),
        ([0.0, 0.0, 3.0, 5.0], 0, 0, [1, 0, 0, 0]),
        ([2.0, 0.0, 3.0, 5.0], 1, 0, [10, 2 * (100 + 3000), 0, 0]),
        ([2.0, 0.0, 3.0, 5.0], 0, 1, [0, 15 * (10 + 2), 500, 1000 + 300]),
        ([0.0, 2.0, 0.0, 5.0], 1, 1, [0, 0, 5 * (10 + 2), 100]),
    ]
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
