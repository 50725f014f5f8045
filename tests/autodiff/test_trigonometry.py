from __future__ import annotations

import math

import pytest
import torch

from .gradient_check import (
    case,
    each,
    edge,
    equals_central_difference,
    equals_torch,
    has_edge_values,
    uniform,
)

INF = math.inf

CASES = [
    case("Sin(x)", x=(3, 5), torch=torch.sin),
    case("Cos(x)", x=(3, 5), torch=torch.cos),
    case("Tan(x)", x=uniform(-1.2, 1.2, 3, 5), torch=torch.tan),
    case("Asin(x)", x=uniform(-0.9, 0.9, 3, 5), torch=torch.asin),
    case("Acos(x)", x=uniform(-0.9, 0.9, 3, 5), torch=torch.acos),
    case("Atan(x)", x=(3, 5), torch=torch.atan),
    case("Sinh(x)", x=(3, 5), torch=torch.sinh),
    case("Cosh(x)", x=(3, 5), torch=torch.cosh),
    case("Tanh(x)", x=(3, 5), torch=torch.tanh),
    case("Asinh(x)", x=(3, 5), torch=torch.asinh),
    case("Acosh(x)", x=uniform(1.2, 4, 3, 5), torch=torch.acosh),
    case("Atanh(x)", x=uniform(-0.9, 0.9, 3, 5), torch=torch.atanh),
]

EDGES = [
    edge("Asin(x)", "is infinite at the ends", x=[-1.0, 0.0, 1.0], dx=[INF, 1, INF], torch=torch.asin),
    edge("Acos(x)", "is -infinity at the ends", x=[-1.0, 0.0, 1.0], dx=[-INF, -1, -INF], torch=torch.acos),
    edge("Atan(x)", "saturates", x=[-1e30, 0.0, 1e30], dx=[0, 1, 0], torch=torch.atan),
    edge("Tanh(x)", "saturates", x=[-1e4, 0.0, 1e4], dx=[0, 1, 0], torch=torch.tanh),
    edge("Sinh(x)", "overflows to infinity", x=[-1e4, 0.0, 1e4], dx=[INF, 1, INF], torch=torch.sinh),
    edge("Cosh(x)", "overflows to infinity", x=[-1e4, 0.0, 1e4], dx=[-INF, 0, INF], torch=torch.cosh),
    edge("Acosh(x)", "is infinite at 1", x=[1.0, 1.25], dx=[INF, 4 / 3], torch=torch.acosh),
    edge("Atanh(x)", "is infinite at the ends", x=[-1.0, 0.0, 1.0], dx=[INF, 1, INF], torch=torch.atanh),
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
