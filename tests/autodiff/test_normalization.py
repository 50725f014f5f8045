from __future__ import annotations

import numpy as np
import pytest
from torch.nn import functional

from onnxcam.autodiff import gradients
from onnxcam.errors import AutodiffError

from .gradient_check import (
    build,
    case,
    constant,
    each,
    edge,
    equals_central_difference,
    equals_torch,
    has_edge_values,
    positive,
)

MEAN, VAR = np.array([0.5, -1.0, 2.0]), np.array([0.25, 1.0, 4.0])


def _batch_norm(x, scale, bias, mean, var):
    return functional.batch_norm(x, mean, var, scale, bias)


def _layer_norm(axes: int, epsilon: float = 1e-5):
    def layer_norm(x, scale, bias=None):
        z = functional.layer_norm(x, x.shape[-axes:], eps=epsilon) * scale
        return z if bias is None else z + bias

    return layer_norm


CASES = [
    *(
        case(
            "BatchNormalization(x, scale, bias, mean, var)",
            x=shape,
            scale=(3,),
            bias=(3,),
            mean=MEAN,
            var=VAR,
            torch=_batch_norm,
        )
        for shape in [(2, 3, 5, 7), (2, 3, 5), (2, 3)]
    ),
    case(
        "BatchNormalization<epsilon=0.125>(x, scale, bias, mean, var)",
        x=(2, 3, 5, 7),
        scale=(3,),
        bias=(3,),
        mean=MEAN,
        var=positive(3),
        wrt=["x"],
        torch=lambda x, scale, bias, mean, var: functional.batch_norm(x, mean, var, scale, bias, eps=0.125),
    ),
    case("LayerNormalization(x, scale, bias)", x=(2, 3, 7), scale=(7,), bias=(7,), torch=_layer_norm(1)),
    case("LayerNormalization(x, scale)", x=(3, 7), scale=(7,), torch=_layer_norm(1)),
    case(
        "LayerNormalization<axis=1, epsilon=0.125>(x, scale, bias)",
        x=(2, 3, 7),
        scale=(3, 7),
        bias=(3, 7),
        torch=_layer_norm(2, 0.125),
    ),
    case("LayerNormalization<axis=-2>(x, scale)", x=(2, 3, 7), scale=(3, 7), torch=_layer_norm(2)),
    case("y, mean, rstd = LayerNormalization(x, scale)", x=(3, 7), scale=(7,), torch=_layer_norm(1)),
    case(  # as exporters before opset 17 write it
        "m = ReduceMean(x, axes); c = Sub(x, m); q = Pow(c, two); v = ReduceMean(q, axes); e = Add(v, eps);"
        "s = Sqrt(e); z = Div(c, s); t = Mul(z, scale); y = Add(t, bias)",
        x=(2, 3, 7),
        axes=constant([-1]),
        two=constant(2.0),
        eps=constant(1e-5),
        scale=(7,),
        bias=(7,),
        torch=lambda x, scale, bias: functional.layer_norm(x, (7,), scale, bias),
    ),
]

EDGES = [
    edge(
        "LayerNormalization(x, scale)",
        "is finite on a constant row",
        x=[[2.0, 2.0, 2.0, 2.0]],
        scale=[1.0, 1.0, 1.0, 1.0],
        dy=[1.0, 0.0, 0.0, -1.0],
        dx=[[1e5**0.5, 0, 0, -(1e5**0.5)]],
        torch=lambda x, scale: functional.layer_norm(x, (4,), scale),
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


def test_batch_normalization_in_training_is_refused():
    model = build(
        case(
            "y, m, v = BatchNormalization<training_mode=1>(x, scale, bias, mean, var)",
            x=(2, 3, 5),
            scale=(3,),
            bias=(3,),
            mean=MEAN,
            var=VAR,
        )
    )
    with pytest.raises(AutodiffError, match=r"BatchNormalization-15 'y'.*training_mode=1.*evaluation mode"):
        gradients(model, of=model.graph.outputs[0], wrt=[model.graph.inputs[0]])


def test_the_mean_of_a_layer_normalization_is_refused():
    model = build(case("z, y, rstd = LayerNormalization(x, scale)", x=(3, 7), scale=(7,)), dtype="float32")
    with pytest.raises(AutodiffError, match="Mean and InvStdDev are not differentiated"):
        gradients(model, of=model.graph.outputs[0], wrt=[model.graph.inputs[0]])
