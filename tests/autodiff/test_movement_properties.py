"""Any chain of operators that only move elements, against the positions that it itself writes out."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir
from hypothesis import given, settings
from hypothesis import strategies as st

from .gradient_check import Setting, build, case, constant, differentiate, run_onnxruntime


def count(start, end, step, size):
    """How many elements a Slice takes: ONNX clamps the start to 0 where Python takes nothing."""
    start, end = (bound + size if bound < 0 else bound for bound in (start, end))
    if step > 0:
        return len(range(max(start, 0), min(end, size), step))
    return len(range(min(max(start, 0), size - 1), max(end, -1), step))


@st.composite
def slices(draw, shape):
    axes = draw(st.lists(st.integers(0, len(shape) - 1), min_size=1, unique=True))
    bounds = st.integers(-9, 9)
    cuts = [(draw(bounds), draw(bounds), draw(st.sampled_from([1, 1, 2, 3, -1, -2]))) for _ in axes]
    shape = list(shape)
    for axis, (start, end, step) in zip(axes, cuts, strict=True):
        shape[axis] = count(start, end, step, shape[axis])
    values = {"starts": [c[0] for c in cuts], "ends": [c[1] for c in cuts], "axes": axes, "steps": [c[2] for c in cuts]}
    return "Slice({x}, {starts}, {ends}, {axes}, {steps})", values, shape


@st.composite
def pads(draw, shape):
    mode = draw(st.sampled_from(["constant", "reflect", "edge", "wrap"]))
    limits = [(-(size - 1) // 2, 3) if mode == "constant" else (0, size - 1) for size in shape]
    sides = [[draw(st.integers(*limit)) for limit in limits] for _ in range(2)]
    shape = [size + before + after for size, before, after in zip(shape, *sides, strict=True)]
    return f'Pad<mode="{mode}">({{x}}, {{pads}})', {"pads": sides[0] + sides[1]}, shape


@st.composite
def transposes(draw, shape):
    order = draw(st.permutations(range(len(shape))))
    return f"Transpose<perm={list(order)}>({{x}})", {}, [shape[axis] for axis in order]


@st.composite
def reshapes(draw, shape):
    at = draw(st.integers(0, len(shape)))
    shape = [math.prod(shape[:at]), math.prod(shape[at:])]
    return "Reshape({x}, {to})", {"to": shape}, shape


@st.composite
def tiles(draw, shape):
    counts = [draw(st.integers(1, 3)) for _ in shape]
    return "Tile({x}, {counts})", {"counts": counts}, [n * size for n, size in zip(counts, shape, strict=True)]


@st.composite
def gathers(draw, shape):
    axis = draw(st.integers(0, len(shape) - 1))
    picked = draw(st.lists(st.integers(-shape[axis], shape[axis] - 1), min_size=1, max_size=4))
    return f"Gather<axis={axis}>({{x}}, {{i}})", {"i": picked}, [*shape[:axis], len(picked), *shape[axis + 1 :]]


@st.composite
def chains(draw):
    """The nodes, the shape of x, and whether it is symbolic."""
    first = shape = draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    nodes, constants, x = [], {}, "x"
    for step in range(draw(st.integers(1, 3))):
        if 0 in shape or math.prod(shape) > 2000:
            break
        move = draw(st.sampled_from([slices, pads, transposes, reshapes, tiles, gathers]))
        text, values, shape = draw(move(shape))
        names = {name: f"{name}{step}" for name in values}
        constants.update({names[name]: constant(np.array(value, np.int64)) for name, value in values.items()})
        nodes.append(f"h{step} = {text.format(x=x, **names)}")
        x = f"h{step}"
    return case("; ".join([*nodes, f"y = Identity({x})"]), x=tuple(first), opsets=(19, 19), **constants), draw(
        st.booleans()
    )


@settings(max_examples=120, derandomize=True, deadline=None, database=None)
@given(chains())
def test_each_element_gets_what_became_of_it(chain):
    row, dynamic = chain
    (size,) = [x.shape for name, x in row.inputs.items() if name == "x"]
    x = np.arange(1, math.prod(size) + 1, dtype=np.float32).reshape(size)
    setting = Setting(dynamic=dynamic)
    positions = run_onnxruntime(ir.to_proto(build(row, setting, "float32")))({"x": x})["y"]  # 0 in a margin
    dy = np.random.default_rng(0).integers(-9, 10, positions.shape).astype(np.float32)
    found = run_onnxruntime(differentiate(build(row, setting, "float32"), ["x"]))({"x": x, "dy": dy})["dx"]
    expected = np.bincount(positions.astype(int).ravel(), dy.ravel(), minlength=x.size + 1)[1:]
    np.testing.assert_array_equal(found, expected.reshape(size).astype(np.float32))
