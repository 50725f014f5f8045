from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from .gradient_check import (
    apart,
    case,
    constant,
    each,
    edge,
    equals_central_difference,
    equals_torch,
    has_edge_values,
    positive,
)

POWERS = [0.0, 1.0, 2.0, -1.0, 0.5]
INF, NAN = math.inf, math.nan

CASES = [
    case("Add(a, b)", a=(3, 5), b=(3, 5), torch=torch.add),
    case("Add(a, b)", a=(3, 5), b=(5,), torch=torch.add),
    case("Add(a, a)", a=(3, 5), torch=lambda a: a + a),
    case("Add(a, b)", a=(2, 1, 5), b=(3, 1), torch=torch.add),
    case("Add(a, b)", a=(), b=(3, 5), torch=torch.add),
    case("Sub(a, b)", a=(1, 5), b=(3, 5), torch=torch.sub),
    case("Sub(a, b)", a=(3, 5), b=(2, 3, 1), torch=torch.sub),
    case("Mul(a, b)", a=(2, 1, 5), b=(3, 1), torch=torch.mul),
    case("Mul(a, b)", a=(3, 5), b=constant(-1.5), torch=lambda a: -1.5 * a),
    case("Mul(a, a)", a=(3, 5), torch=lambda a: a * a),
    case("Div(a, b)", a=(3, 1), b=apart(2, 1, 5), torch=torch.div),
    case("Div(a, b)", a=positive(3, 5), b=constant(4.0), torch=lambda a: a / 4),
    case("Sum(a, b, c)", a=(3, 5), b=(5,), c=(2, 1, 1), torch=lambda a, b, c: a + b + c),
    case("Sum(a)", a=(3, 5), torch=lambda a: a),
    case("Neg(x)", x=(3, 5), torch=torch.neg),
    case("Abs(x)", x=apart(3, 5), torch=torch.abs),
    case("Reciprocal(x)", x=positive(3, 5), torch=torch.reciprocal),
    case("Exp(x)", x=(3, 5), torch=torch.exp),
    case("Log(x)", x=positive(3, 5), torch=torch.log),
    case("Sqrt(x)", x=positive(3, 5), torch=torch.sqrt),
    case("Erf(x)", x=(3, 5), torch=torch.erf),
    *(
        case("Pow(x, p)", x=positive(3, 5), p=constant(p), torch=lambda x, p=p: x**p)
        for p in (0.0, 0.5, 1.0, 2.0, 3.0, -1.0, 2.5)
    ),
    case("Pow(x, p)", x=apart(3, 5), p=constant(3), torch=lambda x: x**3),
    case("Pow(x, p)", x=positive(3, 5), p=constant(POWERS), torch=lambda x: x ** torch.tensor(POWERS)),
    case("Pow(x, p)", x=positive(2, 1, 5), p=(3, 1), torch=torch.pow),
    case("Pow(x, p)", x=apart(3, 4), p=np.array([0, 1, 2, 3]), torch=torch.pow),
]


EDGES = [
    edge("Abs(x)", "is 0 at 0", x=[-1.0, 0.0, 2.0], dx=[-1, 0, 1], torch=torch.abs),
    edge("Erf(x)", "saturates", x=[-1e30, 0.0, 1e30], dx=[0, 2 / math.sqrt(math.pi), 0], torch=torch.erf),
    edge("Exp(x)", "underflows to 0 and overflows to infinity", x=[-1e4, 0.0, 1e4], dx=[0, 1, INF], torch=torch.exp),
    edge("Log(x)", "is infinite at 0", x=[0.0, 4.0], dx=[INF, 0.25], torch=torch.log),
    edge("Sqrt(x)", "is infinite at 0", x=[0.0, 4.0], dx=[INF, 0.25], torch=torch.sqrt),
    edge("Reciprocal(x)", "is -infinity at 0", x=[0.0, 2.0], dx=[-INF, -0.25], torch=torch.reciprocal),
    edge("Div(a, b)", "0/0 is nan", a=[1.0, 0.0], b=[0.0, 0.0], da=[INF, INF], db=[-INF, NAN], torch=torch.div),
    *(
        edge("Pow(x, p)", f"with p = {p} at 0", x=[0.0, 2.0], p=constant(p), dx=dx, torch=lambda x, p=p: x**p)
        for p, dx in {0.0: [0, 0], 0.5: [INF, 0.5 / math.sqrt(2)], 1.0: [1, 1], 2.0: [0, 4], 3.0: [0, 12]}.items()
    ),
    edge("Pow(x, p)", "negative base", x=[-2.0, -3.0], p=constant([2.0, 3.0]), dx=[-4, 27]),
    edge(
        "Pow(x, p)",
        "at 0 the exponent has no gradient unless it is negative",
        x=[0.0, 0.0, 0.0, 1.0, math.e],
        p=[0.0, 2.0, -1.0, 5.0, 2.0],
        dx=[0, 0, -INF, 5, 2 * math.e],
        dp=[0, 0, -INF, 0, math.e**2],
        torch=torch.pow,
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
