from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import gelu, hardsigmoid, hardswish, hardtanh, leaky_relu, relu6, silu

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
    positive,
)

CONDITION = np.array([[True], [False], [True]])
SIX = constant(6.0)
POWERS = [0.0, 1.0, 2.0, -1.0, 0.5]
INF, NAN = math.inf, math.nan

CASES = [
    # Arithmetic
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
    # Activations
    case("Relu(x)", x=apart(3, 5), torch=torch.relu),
    case("LeakyRelu(x)", x=apart(3, 5), torch=leaky_relu),
    case("LeakyRelu<alpha=0.0>(x)", x=apart(3, 5), torch=torch.relu),
    case("LeakyRelu<alpha=1.7>(x)", x=apart(3, 5), torch=lambda x: leaky_relu(x, 1.7)),
    case("LeakyRelu<alpha=-0.4>(x)", x=apart(3, 5), torch=lambda x: leaky_relu(x, -0.4)),
    case("Sigmoid(x)", x=(3, 5), torch=torch.sigmoid),
    case("Tanh(x)", x=(3, 5), torch=torch.tanh),
    case("Clip(x, low, high)", x=apart(3, 5, kinks=(0, 6), scale=6), low=constant(0.0), high=SIX, torch=relu6),
    case("Clip(x, low)", x=apart(3, 5, kinks=(0.5,)), low=constant(0.5), torch=lambda x: x.clamp(min=0.5)),
    case("Clip(x, , high)", x=apart(3, 5, kinks=(0.5,)), high=constant(0.5), torch=lambda x: x.clamp(max=0.5)),
    case("Clip(x, low, high)", x=apart(3, 5), low=constant(-math.inf), high=constant(math.inf), torch=lambda x: x * 1),
    case("Clip(x)", x=(3, 5), torch=lambda x: x * 1),
    case(
        "Clip(x, low, high)",
        x=apart(3, 5, kinks=(-0.5, 0.75)),
        low=np.array(-0.5),
        high=np.array(0.75),
        torch=torch.clamp,
    ),
    case(
        "HardSigmoid<alpha=0.16666667, beta=0.5>(x)",
        x=apart(3, 5, kinks=(-3, 3), scale=3),
        torch=hardsigmoid,
    ),
    case("HardSigmoid(x)", x=apart(3, 5, kinks=(-2.5, 2.5), scale=3), torch=lambda x: (0.2 * x + 0.5).clamp(0, 1)),
    case("HardSwish(x)", x=apart(3, 5, kinks=(-3, 3), scale=3), torch=hardswish),
    case("Gelu(x)", x=(3, 5), torch=gelu, opsets=(20, NEWEST)),
    case(
        'Gelu<approximate="tanh">(x)',
        x=(3, 5),
        torch=lambda x: gelu(x, approximate="tanh"),
        opsets=(20, NEWEST),
    ),
    case(
        "s = Div(x, root); e = Erf(s); f = Add(e, one); p = Mul(x, f); y = Mul(p, half)",
        x=(3, 5),
        root=constant(math.sqrt(2)),
        one=constant(1.0),
        half=constant(0.5),
        torch=gelu,
    ),
    case("s = Sigmoid(x); y = Mul(x, s)", x=(3, 5), torch=silu),
    # Selection and casts
    case("Where(c, a, b)", c=CONDITION, a=(3, 5), b=(5,), torch=torch.where),
    case("Where(c, a, b)", c=CONDITION, a=(), b=(2, 1, 5), torch=torch.where),
    case("Where(c, a, b)", c=CONDITION, a=(3, 5), b=constant(-1e4), torch=lambda c, a: a.where(c, torch.tensor(-1e4))),
    case("Identity(x)", x=(3, 5), torch=lambda x: x * 1),
    # the difference of a float32 detour would be noise: in float64 the detour is through float64
    case("t = Cast<to=11>(x); y = CastLike(t, x)", x=(3, 5), torch=lambda x: x.double().float()),
    case("t = Shape(x); f = CastLike(t, x); s = ReduceSum(f); y = Mul(x, s)", x=(3, 5), torch=lambda x: x * 8),
    case("Dropout(x)", x=(3, 5), torch=lambda x: x * 1),
    case("Dropout(x, r, t)", x=(3, 5), r=constant(0.5), t=constant(False), torch=lambda x: x * 1),
    case("y, mask = Dropout(x, r)", x=(3, 5), r=constant(0.5), torch=lambda x: x * 1),
]


EDGES = [
    edge("Relu(x)", "is 0 at 0", x=[-1.0, 0.0, 2.0], dx=[0, 0, 1], torch=torch.relu),
    edge(
        "LeakyRelu<alpha=0.25>(x)",
        "is alpha at 0",
        x=[-1.0, 0.0, 2.0],
        dx=[0.25, 0.25, 1],
        torch=lambda x: leaky_relu(x, 0.25),
    ),
    edge("Abs(x)", "is 0 at 0", x=[-1.0, 0.0, 2.0], dx=[-1, 0, 1], torch=torch.abs),
    edge(
        "Clip(x, low, high)",
        "is 0 at the bounds, as relu6",
        x=[-1.0, 0.0, 3.0, 6.0, 7.0],
        low=constant(0.0),
        high=SIX,
        dx=[0, 0, 1, 0, 0],
        torch=relu6,
    ),
    edge(
        "Clip(x, low, high)",
        "is 0 at the bounds, as hardtanh",
        x=[-2.0, -1.0, 0.0, 1.0, 2.0],
        low=constant(-1.0),
        high=constant(1.0),
        dx=[0, 0, 1, 0, 0],
        torch=hardtanh,
    ),
    edge("Clip(x, low)", "is 0 at its only bound", x=[-1.0, 0.0, 2.0], low=constant(0.0), dx=[0, 0, 1]),
    edge(
        "Clip(x, low, high)",
        "is 0 where the bounds are crossed",
        x=[0.0, 1.5, 3.0],
        low=constant(2.0),
        high=constant(1.0),
        dx=[0, 0, 0],
    ),
    edge(
        "HardSigmoid<alpha=0.125, beta=0.5>(x)",
        "is 0 at the bounds",
        x=[-5.0, -4.0, 0.0, 4.0, 5.0],
        dx=[0, 0, 0.125, 0, 0],
    ),
    edge(
        "HardSwish(x)",
        "is 0 at -3 and 1 at 3",
        x=[-INF, -4.0, -3.0, 0.0, 1.5, 3.0, 4.0],
        dx=[0, 0, 0, 0.5, 1.0, 1, 1],
        torch=hardswish,
    ),
    edge("Sigmoid(x)", "saturates", x=[-1e4, 0.0, 1e4], dx=[0, 0.25, 0], torch=torch.sigmoid),
    edge("Tanh(x)", "saturates", x=[-1e4, 0.0, 1e4], dx=[0, 1, 0], torch=torch.tanh),
    edge("Erf(x)", "saturates", x=[-1e30, 0.0, 1e30], dx=[0, 2 / math.sqrt(math.pi), 0], torch=torch.erf),
    edge("Gelu(x)", "saturates", x=[-1e25, -50.0, 0.0, 50.0, 1e25], dx=[0, 0, 0.5, 1, 1], opset=20, torch=gelu),
    edge(
        'Gelu<approximate="tanh">(x)',
        "saturates",
        x=[-1e4, -50.0, 0.0, 50.0, 1e4],
        dx=[0, 0, 0.5, 1, 1],
        opset=20,
        torch=lambda x: gelu(x, approximate="tanh"),
    ),
    edge("s = Sigmoid(x); y = Mul(x, s)", "saturates", x=[-1e4, 0.0, 1e4], dx=[0, 0.5, 1], torch=silu),
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
