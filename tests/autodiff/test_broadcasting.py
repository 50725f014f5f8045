"""Gradients of broadcast operands, over random shapes: each axis of an operand may be there, 1, or left out."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import BroadcastableShapes, mutually_broadcastable_shapes

from .gradient_check import Setting, case, equals_central_difference, equals_torch, positive

OPERATORS = {
    "Add(a, b)": torch.add,
    "Sub(a, b)": torch.sub,
    "Mul(a, b)": torch.mul,
    "Div(a, b)": torch.div,
    "Pow(a, b)": torch.pow,
    "Max(a, b)": torch.maximum,
    "Min(a, b)": torch.minimum,
    "Mod<fmod=1>(a, b)": torch.fmod,
    "Sum(a, b)": torch.add,
    "Where(c, a, b)": torch.where,
}

shapes = mutually_broadcastable_shapes(num_shapes=3, max_dims=4, max_side=4)


@settings(max_examples=60, derandomize=True, database=None, deadline=None)
@given(
    text=st.sampled_from(list(OPERATORS)),
    broadcast=shapes,
    dynamic=st.booleans(),
    static=st.sets(st.sampled_from("ab")),
)
def test_gradient_of_broadcast_operands(
    text: str, broadcast: BroadcastableShapes, dynamic: bool, static: set[str]
) -> None:
    a, b, c = broadcast.input_shapes
    condition = {"c": np.arange(np.prod(c, dtype=int)).reshape(c) % 3 == 0} if "Where" in text else {}
    row = case(text, **condition, a=positive(*a), b=positive(*b), static=sorted(static), torch=OPERATORS[text])
    equals_central_difference(row, Setting(dynamic=dynamic))
    equals_torch(row, Setting(dynamic=dynamic))
