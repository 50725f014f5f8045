from __future__ import annotations

import functools

import numpy as np
import pytest
import torch

from .gradient_check import (
    Setting,
    build,
    case,
    constant,
    differentiate,
    distinct,
    each,
    edge,
    equals_central_difference,
    equals_torch,
    has_edge_values,
    run_onnxruntime,
)

X = (2, 3, 5, 7)
FAR = 2**62
LINES = np.array([[0, -1, 3, 3], [2, 2, 0, 1], [-4, 1, 1, 1]])


def cut(starts, ends, axes, steps=None, torch=None):
    names = {"starts": constant(starts), "ends": constant(ends), "axes": constant(axes)}
    if steps is not None:
        names["steps"] = constant(steps)
    return case(f"Slice(x, {', '.join(names)})", x=X, torch=torch, **names)


def taken(x, i, axis):
    return torch.gather(x, axis, torch.as_tensor(i) % x.shape[axis])


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
    cut([0, 0], [0, 0], [2, 3], [2, 1], torch=lambda x: x[:, :, :0:2, :0]),
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
ELEMENTS = [
    case("GatherElements(x, i)", x=(5, 4), i=constant(LINES), torch=lambda x: taken(x, LINES, 0)),
    # the reference evaluator knows no negative axis
    case("GatherElements<axis=-1>(x, i)", x=(3, 7), i=constant(LINES), torch=lambda x: taken(x, LINES, 1),
         float64="onnxruntime"),
    case("GatherElements<axis=1>(x, i)", x=(3, 7), i=LINES, torch=lambda x, i: taken(x, i, 1)),
    case("GatherElements<axis=1>(x, i)", x=(2, 6, 1), i=np.array([[[5], [0]], [[1], [1]]]),
         torch=lambda x, i: x.gather(1, i)),
]  # fmt: skip
TUPLES = [
    case("GatherND(x, i)", x=X, i=constant([[1, 2], [0, 0], [1, 2]]), torch=lambda x: x[[1, 0, 1], [2, 0, 2]]),
    case("GatherND(x, i)", x=(3, 5), i=constant([[-1, 2], [0, -5]]), torch=lambda x: x[[-1, 0], [2, -5]]),
    case("GatherND(x, i)", x=(3, 5), i=np.array([[[2], [0]]]), static=["i"], torch=lambda x, i: x[i[..., 0]]),
    case(
        "GatherND<batch_dims=1>(x, i)",
        x=(2, 5, 3),
        i=constant([[[4], [1], [4]], [[0], [2], [-1]]]),
        torch=lambda x: torch.stack([x[0, [4, 1, 4]], x[1, [0, 2, -1]]]),
    ),
    case(
        "GatherND<batch_dims=2>(x, i)",
        x=(2, 2, 3, 5),
        i=np.array([[[1, 2], [0, 0]], [[2, 4], [1, 1]]]),
        static=["i"],
        torch=lambda x, i: x[[[0, 0], [1, 1]], [[0, 1], [0, 1]], i[..., 0], i[..., 1]],
    ),
]
BOUNDS = [
    case("Slice(x, s, e)", x=X, s=np.array([0, -2]), e=np.array([1, 100]), static=["s", "e"],
         torch=lambda x, *_: x[:1, -2:] * 1),
    case("Slice(x, s, e, a, t)", x=X, s=np.array([-3, 99]), e=np.array([-1, 100]), a=constant([-1, 2]),
         t=constant([1, 1]), static=["s", "e"], torch=lambda x, *_: x[:, :, 5:0, 4:6] * 1),
    case("Slice(x, s, e, a, t)", x=X, s=np.array([-1, 0]), e=np.array([-99, 5]), a=constant([3, 2]),
         t=constant([-2, 3]), torch=lambda x, *_: x[:, :, ::3, [6, 4, 2, 0]]),
    case("Slice(x, s, e, a, t)", x=X, s=np.array([4]), e=np.array([0]), a=np.array([2]), t=np.array([-1]),
         torch=lambda x, *_: x[:, :, [4, 3, 2, 1]]),
    case("s = Cast<to=6>(p); e = Cast<to=6>(q); y = Slice(x, s, e, a)", x=X, p=np.array([-100]), q=np.array([-1]),
         a=constant(np.array([3], np.int32)), torch=lambda x, *_: x[..., :-1] * 1),
]  # fmt: skip
CHOICES = [
    case("Compress<axis=-1>(x, c)", x=(3, 5), c=constant([True, False, True]), torch=lambda x: x[:, [0, 2]]),
    case("Compress<axis=0>(x, c)", x=(3, 5), c=np.array([False, True, True]), torch=lambda x, c: x[c]),
    case("Compress(x, c)", x=(3, 5), c=np.array([True, False] * 5), torch=lambda x, c: x.flatten()[:10][c]),
    case("y, i = TopK(x, k)", x=distinct(3, 7), k=constant([3]), torch=lambda x: x.topk(3).values),
    case("y, i = TopK<axis=1, largest=0>(x, k)", x=distinct(2, 5, 3), k=constant([2]),
         torch=lambda x: x.topk(2, 1, largest=False).values),
    case("y, i = TopK<axis=0>(x, k)", x=distinct(5, 3), k=np.array([4]), static=["k"],
         torch=lambda x, k: x.topk(4, 0).values),
    case("OneHot(i, n, v)", i=np.array([[0, -1, 2], [7, 4, 1]]), n=constant(np.array(5)), v=(2,),
         torch=lambda i, v: torch.where((i[..., None] % 5 == torch.arange(5)) & (i < 5)[..., None], v[1], v[0])),
    case("OneHot<axis=0>(i, n, v)", i=np.array([0, 3, 2]), n=constant(np.array(4)), v=(2,),
         torch=lambda i, v: torch.where(i == torch.arange(4)[:, None], v[1], v[0])),
    case("Trilu(x)", x=(3, 5), torch=torch.triu),
    case("Trilu<upper=0>(x, k)", x=(2, 5, 3), k=constant(np.array(-1)), torch=lambda x: x.tril(-1)),
    case("Trilu(x, k)", x=(2, 5, 3), k=np.array(1), torch=lambda x, _: x.triu(1)),
]  # fmt: skip
CASES = CUTS + PICKS + ELEMENTS + TUPLES + BOUNDS + CHOICES


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
        "Slice(x, s, e, a, t)", "puts zeros between", x=[1.0, 2, 3, 4, 5], s=constant([4]), e=constant([0]),
        a=constant([0]), t=constant([-2]), dy=[1.0, 10], dx=[0, 0, 10, 0, 1],
    ),
    edge(
        "GatherElements(x, i)", "adds up where an index repeats", x=[1.0, 2, 3], i=constant([2, 0, -1]),
        dy=[1.0, 10, 100], dx=[10, 0, 101],
    ),
    edge(
        "y, i = TopK(x, k)", "of equal values takes the first", x=[1.0, 3, 2, 3, 3], k=constant([2]),
        dy=[1.0, 10], dx=[0, 1, 0, 10, 0],
    ),
    edge(
        "Slice(x, s, e, a, t)", "takes the first where it starts before it, backwards", x=[1.0, 2, 3], s=constant([-9]),
        e=constant([-8]), a=constant([0]), t=constant([-1]), dy=[7.0], dx=[7, 0, 0],
    ),
    edge(
        "Slice(x, s, e)", "takes nothing where start is behind the end", x=[1.0, 2, 3], s=constant([2]),
        e=constant([1]), dx=[0, 0, 0],
    ),
]  # fmt: skip


@pytest.mark.parametrize("row", EDGES, ids=str)
def test_special_values(row):
    has_edge_values(row)


@pytest.mark.parametrize(
    ("row", "setting", "operators"),
    [
        (CUTS[0], Setting(), ["Pad"]),
        (CUTS[3], Setting(), ["Identity"]),
        (CUTS[5], Setting(), ["Unsqueeze", "Pad", "Reshape", "Slice", "Pad"]),
        (PICKS[0], Setting(), ["Unsqueeze", "Pad"]),
        (PICKS[2], Setting(), ["Pad"]),
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
