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

CASES = [
    *(
        row
        for name, of in {"ReduceSum": torch.sum, "ReduceMean": torch.mean}.items()
        for row in [
            case(f"{name}(x)", x=(2, 3, 5), torch=lambda x, of=of: of(x, (0, 1, 2), keepdim=True)),
            case(f"{name}<keepdims=0>(x)", x=(2, 3, 5), torch=lambda x, of=of: of(x)),
            case(f"{name}(x, axes)", x=(2, 3, 5), axes=constant([1]), torch=lambda x, of=of: of(x, 1, keepdim=True)),
            case(
                f"{name}<keepdims=0>(x, axes)",
                x=(2, 3, 5, 7),
                axes=constant([-1, 1]),
                torch=lambda x, of=of: of(x, (1, 3)),
            ),
            case(f"{name}<noop_with_empty_axes=1>(x)", x=(2, 3), torch=lambda x: x * 1),
            case(
                f"{name}<noop_with_empty_axes=1, keepdims=0>(x, axes)",
                x=(2, 3, 5),
                axes=constant([-3]),
                torch=lambda x, of=of: of(x, 0),
            ),
            case(
                f"{name}(x, axes)",
                x=(2, 3, 5),
                axes=constant(np.array([], np.int64)),
                torch=lambda x, of=of: of(x, (0, 1, 2), keepdim=True),
            ),
            case(
                f"{name}<keepdims=0>(x, axes)",
                x=(2, 3, 5),
                axes=np.array([0, -1]),
                torch=lambda x, _, of=of: of(x, (0, 2)),
            ),
            case(
                f"{name}(x, axes)",
                x=(2, 3, 5),
                axes=np.array([-2]),
                torch=lambda x, _, of=of: of(x, 1, keepdim=True),
            ),
            case(f"{name}(x, axes)", x=(2, 1, 5), axes=constant([1]), torch=lambda x: x * 1),
        ]
    ),
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
