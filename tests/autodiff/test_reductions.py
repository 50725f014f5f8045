from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from .gradient_check import (
    Case,
    Random,
    apart,
    case,
    constant,
    distinct,
    each,
    edge,
    equals_central_difference,
    equals_torch,
    has_edge_values,
    normal,
    positive,
)


@dataclass(frozen=True)
class Reduction:
    """What an operator does in PyTorch to all axes or some, and to each element by itself; what it is drawn from."""

    over: Callable[..., torch.Tensor]
    alone: Callable[[torch.Tensor], torch.Tensor]
    draw: Callable[..., Random] = normal


def _product(x, axes=(0, 1, 2), keepdim=False):
    for axis in sorted(np.atleast_1d(axes), reverse=True):
        x = x.prod(axis, keepdim=keepdim)
    return x


def _log_sum_exp(x, axes=(0, 1, 2), keepdim=False):
    return x.logsumexp(axes, keepdim)


REDUCTIONS = {
    "ReduceSum": Reduction(torch.sum, lambda x: x * 1),
    "ReduceMean": Reduction(torch.mean, lambda x: x * 1),
    "ReduceSumSquare": Reduction(lambda x, *axes, **keep: (x * x).sum(*axes, **keep), lambda x: x * x),
    "ReduceL1": Reduction(lambda x, *axes, **keep: x.abs().sum(*axes, **keep), torch.abs, apart),
    "ReduceL2": Reduction(lambda x, *axes, **keep: torch.linalg.vector_norm(x, 2, *axes, **keep), torch.abs, apart),
    "ReduceLogSum": Reduction(lambda x, *axes, **keep: x.sum(*axes, **keep).log(), torch.log, positive),
    "ReduceLogSumExp": Reduction(_log_sum_exp, lambda x: x * 1),
    "ReduceMax": Reduction(torch.amax, lambda x: x * 1, distinct),
    "ReduceMin": Reduction(torch.amin, lambda x: x * 1, distinct),
    "ReduceProd": Reduction(_product, lambda x: x * 1, apart),
}


def _rows(name: str, of: Reduction) -> list[Case]:
    x = of.draw(2, 3, 5)
    none = np.array([], np.int64)
    return [
        case(f"{name}(x)", x=x, torch=lambda x: of.over(x, (0, 1, 2), keepdim=True)),
        case(f"{name}<keepdims=0>(x)", x=x, torch=lambda x: of.over(x)),
        case(f"{name}(x, axes)", x=x, axes=constant([1]), torch=lambda x: of.over(x, 1, keepdim=True)),
        case(
            f"{name}<keepdims=0>(x, axes)",
            x=of.draw(2, 3, 5, 7),
            axes=constant([-1, 1]),
            torch=lambda x: of.over(x, (1, 3)),
        ),
        case(f"{name}<noop_with_empty_axes=1>(x)", x=x, torch=of.alone),
        case(
            f"{name}<noop_with_empty_axes=1, keepdims=0>(x, axes)",
            x=x,
            axes=constant([-3]),
            torch=lambda x: of.over(x, 0),
        ),
        case(f"{name}(x, axes)", x=x, axes=constant(none), torch=lambda x: of.over(x, (0, 1, 2), keepdim=True)),
        case(f"{name}(x, axes)", x=x, axes=none, torch=lambda x, _: of.over(x, (0, 1, 2), keepdim=True)),
        case(f"{name}<noop_with_empty_axes=1>(x, axes)", x=x, axes=none, torch=lambda x, _: of.alone(x)),
        case(f"{name}<keepdims=0>(x, axes)", x=x, axes=np.array([0, -1]), torch=lambda x, _: of.over(x, (0, 2))),
        case(f"{name}(x, axes)", x=x, axes=np.array([-2]), torch=lambda x, _: of.over(x, 1, keepdim=True)),
        case(f"{name}(x, axes)", x=of.draw(2, 1, 5), axes=constant([1]), torch=lambda x: of.over(x, 1, keepdim=True)),
    ]


INF = math.inf

CASES = [
    *(row for name, of in REDUCTIONS.items() for row in _rows(name, of)),
    case(  # axes are an attribute before version 18
        "ReduceMean<axes=[-1, 1], keepdims=0>(x)",
        x=(2, 3, 5),
        opsets=(17, 17),
        torch=lambda x: x.mean((1, 2)),
    ),
    *(
        row
        for name, of in {"Softmax": torch.softmax, "LogSoftmax": torch.log_softmax}.items()
        for row in [
            case(f"{name}(x)", x=(2, 3, 5), torch=lambda x, of=of: of(x, -1)),
            case(f"{name}<axis=1>(x)", x=(2, 3, 5), torch=lambda x, of=of: of(x, 1)),
            case(f"{name}<axis=0>(x)", x=(3, 5), torch=lambda x, of=of: of(x, 0)),
        ]
    ),
]

EDGES = [
    edge("Softmax(x)", "saturates", x=[0.0, 1e4, -math.inf], dy=[1.0, 2.0, 3.0], dx=[0, 0, 0]),
    edge("Softmax(x)", "is even at ties", x=[1e4, 1e4], dy=[1.0, 3.0], dx=[-0.5, 0.5]),
    edge(
        "LogSoftmax(x)",
        "keeps its gradient where Softmax saturates",
        x=[0.0, 1e4, -1e4],
        dy=[1.0, 0.0, 0.0],
        dx=[1, -1, 0],
        torch=lambda x: x.log_softmax(-1),
    ),
    edge("ReduceMean<keepdims=0>(x)", "shares evenly", x=[[1.0, 2.0], [3.0, 4.0]], dx=[[0.25, 0.25], [0.25, 0.25]]),
    edge("ReduceL1<keepdims=0>(x)", "is 0 at 0", x=[-2.0, 0.0, 3.0], dx=[-1, 0, 1]),
    edge("ReduceL2<keepdims=0>(x)", "is 0 where the norm is 0", x=[0.0, 0.0], dx=[0, 0], torch=lambda x: x.norm()),
    edge("ReduceL2<keepdims=0>(x)", "is a unit vector", x=[3.0, 0.0, -4.0], dy=5.0, dx=[3, 0, -4]),
    edge("ReduceLogSum<keepdims=0>(x)", "is infinite at 0", x=[0.0, 0.0], dx=[INF, INF], torch=lambda x: x.sum().log()),
    edge(
        "ReduceLogSumExp(x, axes)",
        "is exact at large values, where exp(x - y) would not be",
        x=[[1e4, 1e4, -1e4], [-3e38, -3e38, -INF]],
        axes=constant([1]),
        dx=[[0.5, 0.5, 0], [0.5, 0.5, 0]],
    ),
    edge(
        "ReduceLogSumExp<keepdims=0>(x, axes)",
        "is 0 where all are -infinity, PyTorch has nan there",
        x=[[0.0, -INF], [-INF, -INF]],
        axes=constant([1]),
        dx=[[1, 0], [0, 0]],
    ),
    edge(
        "ReduceMax(x, axes)",
        "shares evenly at ties",
        x=[[1.0, 3.0, 3.0, 3.0], [-INF, -INF, -INF, -INF]],
        axes=constant([1]),
        dy=12.0,
        dx=[[0, 4, 4, 4], [3, 3, 3, 3]],
        torch=lambda x: x.amax(1, keepdim=True),
    ),
    edge(
        "ReduceMin<keepdims=0>(x)", "shares evenly", x=[0.0, -0.0, 2.0], dy=2.0, dx=[1, 1, 0], torch=lambda x: x.amin()
    ),
    edge(
        "ReduceProd(x, axes)",
        "is the product of the others, also with zeros",
        x=[[2.0, 3.0, 5.0], [2.0, 0.0, -5.0], [0.0, 0.0, 5.0], [0.0, 0.0, 0.0]],
        axes=constant([-1]),
        dx=[[15, 10, 6], [0, -10, 0], [0, 0, 0], [0, 0, 0]],
        torch=lambda x: x.prod(1, keepdim=True),
    ),
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
