from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812  its usual name

from .gradient_check import (
    Setting,
    build,
    case,
    constant,
    differentiate,
    each,
    edge,
    equals_central_difference,
    equals_torch,
    has_edge_values,
    run_onnxruntime,
)

X = (2, 3, 5, 7)
FAR = 2**62


def cut(starts, ends, axes, steps=None, torch=None):
    names = {"starts": constant(starts), "ends": constant(ends), "axes": constant(axes)}
    if steps is not None:
        names["steps"] = constant(steps)
    return case(f"Slice(x, {', '.join(names)})", x=X, torch=torch, **names)


def padded(mode, pads, torch=None, opsets=(19, 25)):
    float64 = "onnxruntime" if min(pads) < 0 else "reference"  # which does not cut
    return case(f'Pad<mode="{mode}">(x, pads)', x=X, pads=constant(pads), torch=torch, opsets=opsets, float64=float64)


SHAPES = [
    case("Reshape(x, to)", x=X, to=constant([0, -1, 7]), torch=lambda x: x.reshape(2, -1, 7), opsets=(18, 25)),
    case("Reshape<allowzero=1>(x, to)", x=X, to=constant([35, 6]), torch=lambda x: x.reshape(35, 6), opsets=(18, 25)),
    case(
        "Reshape(x, to)", x=X, to=np.array([6, 35]), static=["to"], torch=lambda x, _: x.reshape(6, 35), opsets=(18, 25)
    ),
    case("Reshape(x, to)", x=(1,), to=constant(np.array([], np.int64)), torch=lambda x: x.reshape(()), opsets=(18, 25)),
    case("Reshape(x, to)", x=(), to=constant([1, 1]), torch=lambda x: x.reshape(1, 1), opsets=(18, 25)),
    case("Flatten(x)", x=X, torch=lambda x: x.flatten(1), opsets=(18, 25)),
    case("Flatten<axis=-1>(x)", x=X, torch=lambda x: x.flatten(0, 2), opsets=(18, 25)),
    case("Squeeze(x, axes)", x=(1, 3, 1, 2), axes=constant([0, -2]), torch=torch.squeeze, opsets=(18, 25)),
    case("Squeeze(x)", x=(1, 3, 1, 2), torch=torch.squeeze, opsets=(18, 25), static=["x"]),
    case("Unsqueeze(x, axes)", x=(3, 5), axes=constant([-1, 0]), torch=lambda x: x[None, ..., None], opsets=(18, 25)),
    case("Transpose(x)", x=X, torch=lambda x: x.permute(3, 2, 1, 0), opsets=(18, 25)),
    case("Transpose<perm=[2,0,3,1]>(x)", x=X, torch=lambda x: x.permute(2, 0, 3, 1), opsets=(18, 25)),
    case("Expand(x, to)", x=(3, 1, 7), to=constant([2, 3, 5, 1]), torch=lambda x: x.expand(2, 3, 5, 7)),
    case("Expand(x, to)", x=(3, 7), to=constant([3, 7]), torch=lambda x: x * 1),
]
JOINS = [
    case("Concat<axis=1>(a, b)", a=(2, 3, 5), b=(2, 4, 5), torch=lambda *x: torch.cat(x, 1)),
    case("Concat<axis=-1>(a, b, c)", a=(3, 5), b=(3, 1), c=(3, 4), torch=lambda *x: torch.cat(x, -1)),
    case("Concat<axis=0>(a)", a=(3, 5), torch=lambda a: a * 1),
    case("Concat<axis=1>(a, b, a)", a=(2, 3), b=(2, 4), torch=lambda a, b: torch.cat([a, b, a], 1)),
    case(
        "Concat<axis=1>(a, b, c)", a=(2, 3), b=(2, 4), c=(2, 2), wrt=["b"],
        torch=lambda *x: torch.cat(x, 1),
    ),
    case(
        "p, q = Split<axis=1>(x, sizes) ; e = Mul(p, p) ; y = Concat<axis=1>(q, e)",
        x=(3, 5), sizes=constant([2, 3]), torch=lambda x: torch.cat([x[:, 2:], x[:, :2] ** 2], 1),
    ),
    case("p, y, q = Split<axis=-1>(x, sizes)", x=(3, 7), sizes=constant([2, 4, 1]), torch=lambda x: x[:, 2:6] * 1),
    case(
        "p, q, r = Split<axis=0>(x, sizes) ; y = Concat<axis=0>(r, p)",
        x=(6, 3), sizes=constant([1, 2, 3]), torch=lambda x: torch.cat([x[3:], x[:1]]),
    ),
    case("p, y = Split<axis=1, num_outputs=2>(x)", x=(3, 5), torch=lambda x: x[:, 3:] * 1),
    case(
        "p, q, r = Split<axis=1, num_outputs=3>(x) ; y = Concat<axis=1>(r, p)",
        x=(2, 7), torch=lambda x: torch.cat([x[:, 6:], x[:, :3]], 1),
    ),
]  # fmt: skip
CUTS = [
    cut([1, 2], [4, -1], [2, -1], torch=lambda x: x[:, :, 1:4, 2:-1] * 1),
    cut([-3], [FAR], [2], torch=lambda x: x[:, :, -3:] * 1),
    cut([-30, 3], [100, 50], [2, 3], torch=lambda x: x[..., 3:] * 1),
    cut([0], [FAR], [1], torch=lambda x: x * 1),
    cut([50], [60], [2], torch=lambda x: x[:, :, 50:]),
    cut([0, 1], [5, 7], [2, 3], [2, 3], torch=lambda x: x[:, :, ::2, 1::3] * 1),
    cut([1], [FAR], [1], [2], torch=lambda x: x[:, 1::2] * 1),
    cut([-1, 5], [-FAR, 1], [2, 3], [-1, -2], torch=lambda x: x.flip(2)[..., [5, 3]]),
    cut([1, 0], [FAR, FAR], [0, 2], [1, 2], torch=lambda x: x[1:, :, ::2] * 1),
    case("Slice(x, s, e)", x=X, s=constant([0, 1, 2]), e=constant([2, 3, 4]), torch=lambda x: x[:2, 1:3, 2:4] * 1),
    case("Slice(x, s, e, a)", x=X, s=np.array([1]), e=np.array([-1]), a=constant([3]),
         torch=lambda x, *_: x[..., 1:-1] * 1),
]  # fmt: skip
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
PICKS = [
    case("Gather<axis=1>(x, i)", x=X, i=constant(np.array(0)), torch=lambda x: x[:, 0] * 1),
    case("Gather<axis=-2>(x, i)", x=X, i=constant(np.array(-2)), torch=lambda x: x[:, :, -2] * 1),
    case("Gather<axis=3>(x, i)", x=X, i=constant([2, 3, 4]), torch=lambda x: x[..., 2:5] * 1),
    case("Gather<axis=3>(x, i)", x=X, i=constant([-1, 0]), torch=lambda x: x[..., [-1, 0]]),
    case("Gather<axis=-1>(x, i)", x=X, i=constant([3, -1, 3, 0]), torch=lambda x: x[..., [3, -1, 3, 0]]),
    case("Gather(x, i)", x=X, i=constant([[1, 0, 1]]), torch=lambda x: x[torch.tensor([[1, 0, 1]])]),
    case("Gather<axis=1>(x, i)", x=X, i=np.array([[0, 2], [-1, 1]]), torch=lambda x, i: x[:, i]),
]
CASES = SHAPES + JOINS + CUTS + PADS + PICKS


@each(CASES)
def test_gradient_equals_central_difference(row, setting):
    equals_central_difference(row, setting)


@each(CASES)
def test_gradient_equals_torch(row, setting):
    equals_torch(row, setting)


EDGES = [
    edge(
        "Gather(x, i)", "adds up where an index repeats", x=[1.0, 2, 3], i=constant([2, 0, 2]),
        dy=[1.0, 10, 100], dx=[10, 0, 101], torch=None,
    ),
    edge(
        'Pad<mode="reflect">(x, p)', "adds the reflection to its source", x=[1.0, 2, 3], p=constant([1, 2]),
        dy=[1.0, 10, 100, 1000, 10000, 100000], dx=[100010, 10101, 1000], torch=None,
    ),
    edge(
        'Pad<mode="edge">(x, p)', "adds the padding to the edge", x=[1.0, 2, 3], p=constant([1, 2]),
        dy=[1.0, 10, 100, 1000, 10000, 100000], dx=[11, 100, 111000], torch=None,
    ),
    edge(
        "Slice(x, s, e, a, t)", "puts zeros between", x=[1.0, 2, 3, 4, 5], s=constant([4]), e=constant([0]),
        a=constant([0]), t=constant([-2]), dy=[1.0, 10], dx=[0, 0, 10, 0, 1],
    ),
]  # fmt: skip


@pytest.mark.parametrize("row", EDGES, ids=str)
def test_special_values(row):
    has_edge_values(row)


@pytest.mark.parametrize(
    ("row", "setting", "operators"),
    [
        (SHAPES[0], Setting(), ["Reshape"]),
        (SHAPES[0], Setting(dynamic=True), ["Shape", "Reshape"]),
        (CUTS[0], Setting(), ["Pad"]),
        (CUTS[3], Setting(), ["Identity"]),
        (CUTS[5], Setting(), ["Unsqueeze", "Pad", "Reshape", "Slice", "Pad"]),
        (PICKS[0], Setting(), ["Unsqueeze", "Pad"]),
        (PICKS[2], Setting(), ["Pad"]),
        (JOINS[0], Setting(), ["Split"]),
        (JOINS[4], Setting(), ["Slice"]),
        (JOINS[6], Setting(), ["Pad"]),
    ],
    ids=str,
)
def test_operators_of_the_gradient(row, setting, operators):
    model = build(row, setting)
    forward = len(model.graph)
    proto = differentiate(model, row.wrt)
    assert [node.op_type for node in proto.graph.node][forward:] == operators


def test_half_precision_adds_up_in_float32():
    row = case("Gather(x, i)", x=(3,), i=constant([2, 0, 2]))
    proto = differentiate(build(row, dtype="float16"), ["x"])
    run = run_onnxruntime(proto)
    found = run({"x": np.zeros(3, np.float16), "dy": np.array([1, 10, 100], np.float16)})["dx"]
    np.testing.assert_array_equal(found, np.array([10, 0, 101], np.float16))
    assert functools.reduce(lambda seen, node: seen or node.op_type == "Cast", proto.graph.node, False)
