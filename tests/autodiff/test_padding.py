from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812  its usual name

from .gradient_check import (
    case,
    constant,
    each,
    edge,
    equals_central_difference,
    equals_torch,
    has_edge_values,
)

X = (2, 3, 5, 7)


def padded(mode, pads, torch=None, opsets=(19, 25)):
    float64 = "onnxruntime" if min(pads) < 0 else "reference"  # which does not cut
    return case(f'Pad<mode="{mode}">(x, pads)', x=X, pads=constant(pads), torch=torch, opsets=opsets, float64=float64)


PADS = [
    padded("constant", [0, 0, 1, 2, 0, 0, 3, 1], lambda x: F.pad(x, [2, 1, 1, 3])),
    padded("constant", [0, 0, -1, 2, 0, 0, 3, -2], lambda x: F.pad(x, [2, -2, -1, 3])),
    padded("reflect", [0, 0, 1, 2, 0, 0, 3, 1], lambda x: F.pad(x, [2, 1, 1, 3], mode="reflect")),
    padded("edge", [0, 0, 1, 2, 0, 0, 3, 1], lambda x: F.pad(x, [2, 1, 1, 3], mode="replicate")),
    padded("wrap", [0, 0, 1, 2, 0, 0, 3, 1], lambda x: F.pad(x, [2, 1, 1, 3], mode="circular")),
    case(
        "Pad(x, pads, c, axes)", x=X, pads=constant([1, 2, 3, -1]), c=constant(np.float32(2)), axes=constant([-1, 2]),
        torch=lambda x: F.pad(x, [1, 3, 2, -1], value=2.0), opsets=(18, 25), float64="onnxruntime",
    ),
    case(
        'Pad<mode="reflect">(x, pads, , axes)', x=X, pads=constant([1, 2, 3, 1]), axes=constant([-1, 2]),
        torch=lambda x: F.pad(x, [1, 3, 2, 1], mode="reflect"), opsets=(18, 25),
    ),
    case(
        "Pad(x, pads)", x=(3, 5), pads=np.array([1, 0, 0, 2]), torch=lambda x, _: F.pad(x, [0, 2, 1, 0]),
        opsets=(18, 25), float64="onnxruntime",  # the reference evaluator does not cut
    ),
]  # fmt: skip
VALUES = [
    case("Pad(x, pads, c)", x=(3, 5), pads=constant([1, 0, 2, 3]), c=(), opsets=(18, 25),
         torch=lambda x, c: F.pad(x, [0, 3, 1, 2]) + c * (1 - F.pad(torch.ones(3, 5), [0, 3, 1, 2]))),
    case("d = Squeeze(c); y = Pad(x, pads, d, axes)", x=(2, 3, 5), pads=np.array([-1, 2]), c=(1,),
         axes=constant([1]), static=["pads"],
         opsets=(18, 25), float64="onnxruntime",  # the reference evaluator does not cut
         torch=lambda x, _, c: F.pad(x, [0, 0, -1, 2]) + c * (1 - F.pad(torch.ones(2, 3, 5), [0, 0, -1, 2]))),
]  # fmt: skip
FED = [
    *(
        case(f'Pad<mode="{mode}">(x, pads, , axes)', x=X, pads=np.array([1, 2, 3, 1]), axes=constant([-1, 2]),
             static=["pads"], torch=lambda x, _, name=name: F.pad(x, [1, 3, 2, 1], mode=name), opsets=(19, 25))
        for mode, name in (("reflect", "reflect"), ("edge", "replicate"), ("wrap", "circular"))
    ),
    case("Pad(x, pads, , axes)", x=X, pads=np.array([1, 2, 3, 1]), axes=np.array([-1, 2]), static=["pads", "axes"],
         torch=lambda x, *_: F.pad(x, [1, 3, 2, 1]), opsets=(18, 25), float64="onnxruntime"),
    # more than once around
    case('Pad<mode="wrap">(x, pads)', x=(3, 2), pads=constant([4, 0, 2, 5]), opsets=(19, 25)),
    case('Pad<mode="edge">(x, pads)', x=(3, 2), pads=constant([4, 0, 2, 5]), opsets=(18, 25)),
]  # fmt: skip
CROPS = [
    case("CenterCropPad(x, to)", x=(3, 6, 7), to=constant([5, 3, 7])),
    case("CenterCropPad<axes=[-1, 1]>(x, to)", x=(2, 6, 7), to=constant([4, 9])),
    case("CenterCropPad<axes=[1, 2]>(x, to)", x=(2, 6, 7), to=np.array([5, 10]), static=["to"]),
]
CASES = PADS + VALUES + FED + CROPS


@each(CASES)
def test_gradient_equals_central_difference(row, setting):
    equals_central_difference(row, setting)


@each(CASES)
def test_gradient_equals_torch(row, setting):
    equals_torch(row, setting)


EDGES = [
    edge(
        'Pad<mode="reflect">(x, p)', "adds the reflection to its source", x=[1.0, 2, 3], p=constant([1, 2]),
        dy=[1.0, 10, 100, 1000, 10000, 100000], dx=[100010, 10101, 1000], torch=None,
    ),
    edge(
        'Pad<mode="edge">(x, p)', "adds the padding to the edge", x=[1.0, 2, 3], p=constant([1, 2]),
        dy=[1.0, 10, 100, 1000, 10000, 100000], dx=[11, 100, 111000], torch=None,
    ),
    edge(
        "CenterCropPad(x, to)", "leaves the odd one behind, cut", x=[1.0, 2, 3, 4], to=constant([1]),
        dy=[1.0], dx=[0, 1, 0, 0],
    ),
    edge(
        "CenterCropPad(x, to)", "leaves the odd one behind, added", x=[1.0], to=constant([4]),
        dy=[1.0, 10, 100, 1000], dx=[10],
    ),
]  # fmt: skip


@pytest.mark.parametrize("row", EDGES, ids=str)
def test_special_values(row):
    has_edge_values(row)
