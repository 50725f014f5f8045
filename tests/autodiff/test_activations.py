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
)

SIX = constant(6.0)
INF = math.inf

CASES = [
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
