from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import (
    celu,
    elu,
    gelu,
    hardshrink,
    hardsigmoid,
    hardswish,
    hardtanh,
    leaky_relu,
    mish,
    prelu,
    relu6,
    selu,
    silu,
    softplus,
    softshrink,
    softsign,
    threshold,
)

from .gradient_check import (
    NEWEST,
    apart,
    case,
    constant,
    distinct,
    each,
    edge,
    equals_central_difference,
    equals_torch,
    has_edge_values,
    uniform,
)

SIX = constant(6.0)
INF = math.inf

CASES = [
    case("Relu(x)", x=apart(3, 5), torch=torch.relu),
    case("LeakyRelu(x)", x=apart(3, 5), torch=leaky_relu),
    case("LeakyRelu<alpha=0.0>(x)", x=apart(3, 5), torch=torch.relu),
    case("LeakyRelu<alpha=1.7>(x)", x=apart(3, 5), torch=lambda x: leaky_relu(x, 1.7)),
    case("LeakyRelu<alpha=-0.4>(x)", x=apart(3, 5), torch=lambda x: leaky_relu(x, -0.4)),
    case("Elu(x)", x=apart(3, 5), torch=elu),
    case("Elu<alpha=0.0>(x)", x=apart(3, 5), torch=torch.relu),
    case("Elu<alpha=0.3>(x)", x=apart(3, 5), torch=lambda x: elu(x, 0.3)),
    case("Elu<alpha=2.5>(x)", x=apart(3, 1, 5), torch=lambda x: elu(x, 2.5)),
    case("Elu<alpha=-0.7>(x)", x=apart(3, 5), torch=lambda x: elu(x, -0.7)),
    case("Selu(x)", x=apart(3, 5), torch=selu),
    case("Selu<alpha=0.75, gamma=1.25>(x)", x=apart(3, 5), torch=lambda x: 1.25 * elu(x, 0.75)),
    case("Selu<alpha=0.75, gamma=-1.25>(x)", x=apart(3, 5), torch=lambda x: -1.25 * elu(x, 0.75)),
    case("Celu(x)", x=apart(3, 5), opsets=(NEWEST, NEWEST), torch=celu),
    case("Celu<alpha=0.3>(x)", x=apart(3, 5), opsets=(NEWEST, NEWEST), torch=lambda x: celu(x, 0.3)),
    case("Celu<alpha=-2.5>(x)", x=uniform(-2, 2, 3, 5), opsets=(NEWEST, NEWEST), torch=lambda x: celu(x, -2.5)),
    case("PRelu(x, slope)", x=apart(2, 3, 5), slope=(2, 3, 5), torch=lambda x, w: x.where(x > 0, w * x)),
    case("PRelu(x, slope)", x=apart(2, 3, 5, 7), slope=(3, 1, 1), torch=lambda x, w: prelu(x, w.flatten())),
    case("PRelu(x, slope)", x=apart(2, 3, 5), slope=(1,), torch=prelu),
    case("PRelu(x, slope)", x=apart(3, 5), slope=(), torch=lambda x, w: x.where(x > 0, w * x)),
    case("PRelu(x, slope)", x=apart(3, 5), slope=constant([0.25]), torch=lambda x: leaky_relu(x, 0.25)),
    case("ThresholdedRelu(x)", x=apart(3, 5, kinks=(1,)), torch=lambda x: threshold(x, 1, 0)),
    case("ThresholdedRelu<alpha=-0.5>(x)", x=apart(3, 5, kinks=(-0.5,)), torch=lambda x: threshold(x, -0.5, 0)),
    case("Shrink(x)", x=apart(3, 5, kinks=(-0.5, 0.5)), torch=hardshrink),
    case("Shrink<lambd=0.75, bias=0.75>(x)", x=apart(3, 5, kinks=(-0.75, 0.75)), torch=lambda x: softshrink(x, 0.75)),
    case("h = Hardmax(x); y = Mul(h, x)", x=distinct(3, 5), torch=lambda x: x * (x == x.amax(-1, keepdim=True))),
    case("Sigmoid(x)", x=(3, 5), torch=torch.sigmoid),
    case("Softplus(x)", x=(3, 5), torch=softplus),
    case("Softsign(x)", x=apart(3, 5), torch=softsign),
    case("Mish(x)", x=(3, 5), torch=mish),
    # ONNX Runtime 1.32 has Swish up to opset 26; there is one version of it
    case("Swish(x)", x=(3, 5), opsets=(24, 24), torch=silu),
    case("Swish<alpha=-1.5>(x)", x=(3, 5), opsets=(24, 24), torch=lambda x: x * torch.sigmoid(-1.5 * x)),
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

# Celu-12 takes no float64
SINGLE = [
    case("Celu(x)", x=apart(3, 5), torch=celu),
    case("Celu<alpha=0.3>(x)", x=apart(3, 5), torch=lambda x: celu(x, 0.3)),
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
    edge("Elu<alpha=0.5>(x)", "is alpha at 0", x=[-1e4, 0.0, 2.0, INF], dx=[0, 0.5, 1, 1], torch=lambda x: elu(x, 0.5)),
    edge("Elu<alpha=-0.5>(x)", "is alpha at 0", x=[-1e4, 0.0, 1e4], dx=[0, -0.5, 1], torch=lambda x: elu(x, -0.5)),
    edge("Selu<gamma=2.0, alpha=0.75>(x)", "is gamma alpha at 0", x=[-1e4, 0.0, 1e4], dx=[0, 1.5, 2]),
    edge("Celu<alpha=0.5>(x)", "is 1 at 0", x=[-1e4, 0.0, 1e4], dx=[0, 1, 1], torch=lambda x: celu(x, 0.5)),
    edge(
        "PRelu(x, slope)",
        "is the slope at 0",
        x=[-2.0, 0.0, 2.0],
        slope=[0.25],
        dx=[0.25, 0.25, 1],
        dslope=[-2],
        torch=prelu,
    ),
    edge(
        "ThresholdedRelu(x)",
        "is 0 at the threshold",
        x=[0.0, 1.0, 1.5, INF],
        dx=[0, 0, 1, 1],
        torch=lambda x: threshold(x, 1, 0),
    ),
    edge("Shrink(x)", "is 0 at the bounds", x=[-1.0, -0.5, 0.0, 0.5, 1.0], dx=[1, 0, 0, 0, 1], torch=hardshrink),
    edge("Softplus(x)", "saturates", x=[-1e4, 0.0, 1e4], dx=[0, 0.5, 1], torch=softplus),
    edge("Softsign(x)", "saturates", x=[-1e30, 0.0, 1e30], dx=[0, 1, 0], torch=softsign),
    edge("Mish(x)", "saturates", x=[-1e4, 0.0, 1e4], dx=[0, 0.6, 1], torch=mish),
    edge("Swish<alpha=2.0>(x)", "saturates", x=[-3e38, -1e4, 0.0, 1e4, 3e38], dx=[0, 0, 0.5, 1, 1], opset=24),
    edge("Sigmoid(x)", "saturates", x=[-1e4, 0.0, 1e4], dx=[0, 0.25, 0], torch=torch.sigmoid),
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


@each(SINGLE)
def test_gradient_of_an_operator_without_float64_equals_torch(row, setting):
    equals_torch(row, setting)


@pytest.mark.parametrize("row", EDGES, ids=str)
def test_special_values(row):
    has_edge_values(row)
