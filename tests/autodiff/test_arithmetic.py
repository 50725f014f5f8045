from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from .gradient_check import (
    apart,
    case,
    constant,
    distinct,
    each,
    edge,
    equals_central_difference,
    equals_torch,
    has_edge_values,
    positive,
    uniform,
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
    # onnx's reference evaluator adds in place, so the first operand has the full shape
    case("Mean(a, b, c)", a=(2, 3, 5), b=(5,), c=(3, 1), torch=lambda a, b, c: (a + b + c) / 3),
    case("Mean(a)", a=(3, 5), torch=lambda a: a * 1),
    case("Max(a, b)", a=distinct(3, 5), b=(5,), torch=torch.maximum),
    case("Max(a, b)", a=distinct(2, 1, 5), b=(3, 1), torch=torch.maximum),
    case("Max(a, b)", a=apart(3, 5), b=constant(0.0), torch=torch.relu),
    case("Max(a)", a=(3, 5), torch=lambda a: a * 1),
    case("Max(a, b, c)", a=(3, 5), b=(2, 1, 5), c=(), torch=lambda a, b, c: a.maximum(b).maximum(c)),
    case("Min(a, b)", a=(3, 5), b=(3, 5), torch=torch.minimum),
    case("Min(a, b, c)", a=(3, 5), b=(2, 3, 1), c=(1,), torch=lambda a, b, c: a.minimum(b).minimum(c)),
    case("Mod<fmod=1>(a, b)", a=apart(3, 5, scale=5), b=uniform(0.7, 0.8, 2, 1, 5), torch=torch.fmod),
    case("Mod<fmod=1>(a, b)", a=uniform(-7, -6.5, 3, 1), b=uniform(-1.05, -1.02, 5), torch=torch.fmod),
    case("Mod<fmod=1>(a, b)", a=uniform(2.1, 2.9, 3, 5), b=constant(1.0), torch=lambda a: torch.fmod(a, 1)),
    case("Mod(a, b)", a=uniform(-7, -6.5, 3, 1), b=uniform(1.02, 1.05, 5), opsets=(28, 28), torch=torch.remainder),
    case("Neg(x)", x=(3, 5), torch=torch.neg),
    case("Abs(x)", x=apart(3, 5), torch=torch.abs),
    *(
        case(f"s = {name}(x); y = Mul(s, x)", x=uniform(low, high, 3, 5), torch=lambda x, of=of: x * of(x))
        for name, of in {"Sign": torch.sign, "Floor": torch.floor, "Ceil": torch.ceil, "Round": torch.round}.items()
        for low, high in [(1.6, 1.9), (-2.4, -2.1)]
    ),
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
    *(
        edge(f"{name}(a, b)", "is shared at ties", a=[1.0, 2.0, INF], b=[1.0, 2.0, INF], da=[0.5] * 3, db=[0.5] * 3)
        for name in ("Max", "Min")
    ),
    edge("Max(a, b)", "halves at a tie", a=[0.0, 1.0], b=[0.0, 0.0], da=[0.5, 1], db=[0.5, 0], torch=torch.maximum),
    edge("Min(a, b, c)", "shares evenly among three", a=[3.0], b=[3.0], c=[3.0], dy=6.0, da=[2], db=[2], dc=[2]),
    edge("Max(a, a)", "gives both shares to one operand", a=[1.0, 2.0], dy=3.0, da=[3, 3]),
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
