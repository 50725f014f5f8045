from __future__ import annotations

import numpy as np
import pytest
import torch

from .gradient_check import (
    NEWEST,
    case,
    constant,
    distinct,
    each,
    edge,
    equals_central_difference,
    equals_torch,
    has_edge_values,
    positive,
)

LINES = np.array([[0, 3, -1, 2], [2, 0, 1, 4], [1, 4, 3, 0]])  # of five, none twice in a line or column
TWICE = np.array([[0, 0, 2, 2], [1, 4, 1, 1]])
PLACES = np.array([[[0, 2], [1, 1]], [[2, 0], [0, -1]]])  # of 3×4
SAME_PLACES = np.array([[1, 2], [0, 0], [1, 2]])


def put(x, i, u, axis):
    return x.scatter(axis, torch.as_tensor(i) % x.shape[axis], u)


def reduced(x, i, u, axis, how):
    return x.scatter_reduce(axis, torch.as_tensor(i) % x.shape[axis], u, how)


def put_at(x, i, u):
    return x.index_put(tuple(torch.as_tensor(i).movedim(-1, 0)), u)


ELEMENTS = [
    case("ScatterElements(x, i, u)", x=(5, 4), i=constant(LINES), u=(3, 4), torch=lambda x, u: put(x, LINES, u, 0)),
    case("ScatterElements<axis=-1>(x, i, u)", x=(3, 5), i=LINES, u=(3, 4), torch=lambda x, i, u: put(x, i, u, 1)),
    case("ScatterElements<axis=1>(x, i, u)", x=(3, 5), i=constant(LINES % 5), u=(3, 4),
         torch=lambda x, u: put(x, LINES, u, 1)),
    case('ScatterElements<axis=1, reduction="add">(x, i, u)', x=(2, 5), i=TWICE, u=(2, 4),
         torch=lambda x, i, u: reduced(x, i, u, 1, "sum")),
    case('ScatterElements<axis=1, reduction="mul">(x, i, u)', x=(2, 5), i=TWICE, u=(2, 4),
         torch=lambda x, i, u: reduced(x, i, u, 1, "prod")),
    case('ScatterElements<axis=-1, reduction="max">(x, i, u)', x=distinct(2, 5), i=TWICE, u=distinct(2, 4),
         torch=lambda x, i, u: reduced(x, i, u, 1, "amax")),
    case('ScatterElements<axis=1, reduction="min">(x, i, u)', x=distinct(2, 5), i=constant(TWICE), u=distinct(2, 4),
         torch=lambda x, u: reduced(x, TWICE, u, 1, "amin")),
]  # fmt: skip
TUPLES = [
    case("ScatterND(x, i, u)", x=(3, 4), i=constant(PLACES), u=(2, 2), torch=lambda x, u: put_at(x, PLACES, u)),
    case("ScatterND(x, i, u)", x=(5, 3, 2), i=constant([[3], [0]]), u=(2, 3, 2),
         torch=lambda x, u: put_at(x, [[3], [0]], u)),
    case("ScatterND(x, i, u)", x=(3, 4, 2), i=PLACES, u=(2, 2, 2), static=["i"], torch=put_at),
    case("ScatterND(x, i, u)", x=(3, 4), i=np.array([[1]]), u=(1, 4), static=["i"], torch=put_at),
    case('ScatterND<reduction="add">(x, i, u)', x=(3, 4, 2), i=SAME_PLACES, u=(3, 2), static=["i"],
         torch=lambda x, i, u: x.index_put(tuple(i.T), u, accumulate=True)),
    case('ScatterND<reduction="mul">(x, i, u)', x=(3, 4), i=constant(SAME_PLACES), u=positive(3),
         torch=lambda x, u: reduced(x.flatten(), [6, 0, 6], u, 0, "prod").reshape(3, 4)),
    case('ScatterND<reduction="max">(x, i, u)', x=distinct(3, 4), i=SAME_PLACES, u=distinct(3), static=["i"],
         torch=lambda x, i, u: reduced(x.flatten(), [6, 0, 6], u, 0, "amax").reshape(3, 4)),
    case('ScatterND<reduction="min">(x, i, u)', x=distinct(3, 4), i=SAME_PLACES, u=distinct(3), static=["i"],
         torch=lambda x, i, u: reduced(x.flatten(), [6, 0, 6], u, 0, "amin").reshape(3, 4)),
]  # fmt: skip
CACHES = [
    case("TensorScatter(x, u, i)", x=(2, 3, 5, 4), u=(2, 3, 2, 4), i=np.array([3, 0]), opsets=(24, NEWEST),
         torch=lambda x, u, i: torch.stack([
             torch.cat([x[0, :, :3], u[0]], 1), torch.cat([u[1], x[1, :, 2:]], 1),
         ])),
    case('TensorScatter<mode="circular", axis=1>(x, u, i)', x=(2, 5, 3), u=(2, 3, 3), i=np.array([3, 1]),
         opsets=(24, NEWEST),
         torch=lambda x, u, i: torch.stack([
             torch.cat([u[0, 2:], x[0, 1:3], u[0, :2]]), torch.cat([x[1, :1], u[1], x[1, 4:]]),
         ])),
    case("TensorScatter(x, u)", x=(2, 5, 4), u=(2, 2, 4), opsets=(24, NEWEST),
         torch=lambda x, u: torch.cat([u, x[:, 2:]], 1)),
]  # fmt: skip
CASES = ELEMENTS + TUPLES + CACHES


@each(CASES)
def test_gradient_equals_central_difference(row, setting):
    equals_central_difference(row, setting)


@each(CASES)
def test_gradient_equals_torch(row, setting):
    equals_torch(row, setting)


EDGES = [
    edge(
        "ScatterElements(x, i, u)", "to the one update that stays where an index repeats, with or without a constant",
        x=[1.0, 2, 3], i=index([2, 0, 2]), u=[4.0, 5, 6], dy=[1.0, 10, 100], dx=[0, 10, 0], du=[0, 1, 100],
    )
    for index in (constant, np.array)
] + [
    edge(
        "ScatterND(x, i, u)", "to the one update that stays where an index repeats",
        x=[1.0, 2, 3], i=np.array([[2], [0], [-1]]), u=[4.0, 5, 6], dy=[1.0, 10, 100], dx=[0, 10, 0], du=[0, 1, 100],
    ),
    edge(
        'ScatterElements<reduction="mul">(x, i, u)', "with one zero, with two, and a zero in the data",
        x=[2.0, 3, 0, 5], i=constant([0, 0, 1, 1, 2, 2]), u=[0.0, 7, 0, 0, 2, 3],
        dx=[0, 0, 6, 1], du=[14, 0, 0, 0, 0, 0],
        torch=lambda x, u: reduced(x, [0, 0, 1, 1, 2, 2], u, 0, "prod"),
    ),
    edge(
        'ScatterElements<reduction="max">(x, i, u)', "is shared evenly among equals",
        x=[2.0, 3, 4], i=np.array([0, 0, 1]), u=[2.0, 2, 1], dy=[6.0, 1, 1], dx=[2, 1, 1], du=[2, 2, 0],
        torch=lambda x, i, u: reduced(x, i, u, 0, "amax"),
    ),
]  # fmt: skip


@pytest.mark.parametrize("row", EDGES, ids=str)
def test_special_values(row):
    has_edge_values(row)
