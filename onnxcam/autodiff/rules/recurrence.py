"""What LSTM, GRU and RNN share: their layout, the products over all steps, and the adjoints of their inputs.

Inside, values are [steps, directions, batch, size] in the order in which each direction takes its steps, and
"rows" are [directions, steps · batch, size]. Half precision is computed in float32.
"""

from __future__ import annotations

__all__ = ["Activation", "Back", "Recurrence"]

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import onnx_ir as ir
from onnxscript import OpBuilder

from onnxcam.autodiff.registry import Adjoint, Site
from onnxcam.autodiff.rules.movement import number


@dataclass(frozen=True, slots=True)
class Back:
    """What a way back found: the adjoints of W x + b and of R H' + b' as rows, of R, and of the first states."""

    dx: ir.Value
    dh: ir.Value
    dr: Callable[[], ir.Value]
    dstates: Sequence[ir.Value]


@dataclass(frozen=True, slots=True)
class Activation:
    """An activation, and its slope as a function of its output."""

    run: Callable[[OpBuilder, ir.Value], ir.Value]
    slope: Callable[[OpBuilder, ir.Value], ir.Value]


_ACTIVATIONS: Final = {
    "sigmoid": Activation(lambda op, x: op.Sigmoid(x), lambda op, y: op.Mul(y, op.Sub(1.0, y))),
    "tanh": Activation(lambda op, x: op.Tanh(x), lambda op, y: op.Sub(1.0, op.Mul(y, y))),
    "relu": Activation(lambda op, x: op.Relu(x), lambda op, y: op.CastLike(op.Greater(y, 0.0), y)),
    "hardsigmoid": Activation(
        lambda op, x: op.HardSigmoid(x),
        lambda op, y: op.Mul(op.CastLike(op.And(op.Greater(y, 0.0), op.Less(y, 1.0)), y), 0.2),
    ),
}


class Recurrence:
    """What the three operators share: operands in the inner layout, the products over all steps, the adjoints."""

    def __init__(self, at: Site, *, gates: int, activations: Sequence[str]) -> None:
        self.at, self.op, self.gates = at, at.op, gates
        direction = at.attribute("direction", "forward")
        self.directions = 2 if direction == "bidirectional" else 1
        self.backwards = [direction == "reverse"] if self.directions == 1 else [False, True]
        self.batch_first = at.attribute("layout", 0)
        self.half = at.input(0).dtype in (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
        self.activations = self._activations(activations)
        if at.attribute("clip", None) is not None:
            raise at.unsupported("clip is not differentiated")
        if at.optional(4) is not None and not self._full(at.constant(at.optional(4))):
            raise at.unsupported("sequence_lens is not differentiated unless it is constant and names the full length")

    def _activations(self, default: Sequence[str]) -> list[Activation]:
        """The activations, which must be the same in both directions and have their default alpha and beta."""
        names = [name.lower() for name in self.at.attribute("activations", None) or default]
        names = names[: len(default)] if names[: len(default)] == names[len(default) :] else names
        unknown = len(names) > len(default) or not set(names) <= set(_ACTIVATIONS)
        if unknown or self.at.attribute("activation_alpha", None) or self.at.attribute("activation_beta", None):
            raise self.at.unsupported(f"these activations are not differentiated: {', '.join(names)}")
        return [_ACTIVATIONS[name] for name in names]

    def _full(self, lengths: Sequence[int] | None) -> bool:
        """Whether all sequences are known to have the full length."""
        shape = self.at.input(0).shape
        return lengths is not None and shape is not None and all(n == shape[self.batch_first] for n in lengths)

    @functools.cached_property
    def hidden(self) -> int:
        """The size of the hidden state."""
        return self.at.attribute("hidden_size", None) or self._size(2)

    @functools.cached_property
    def features(self) -> int:
        """The size of the input of a step."""
        return self._size(1)

    def _size(self, index: int) -> int:
        """The last dimension of W or R."""
        shape = self.at.input(index).shape
        size = None if shape is None else shape[-1]
        if not isinstance(size, int):
            raise self.at.unsupported(f"the last dimension of '{self.at.input(index).name}' is not known")
        return size

    # The layout inside

    def wide(self, value: ir.Value) -> ir.Value:
        """``value`` in the type that is computed in."""
        return self.op.Cast(value, to=ir.DataType.FLOAT) if self.half else value

    def narrow(self, value: ir.Value) -> ir.Value:
        """``value`` in the type of the operator."""
        return self.op.Cast(value, to=self.at.input(0).dtype) if self.half else value

    def flipped(self, value: ir.Value) -> ir.Value:
        """``value`` from the last step to the first."""
        return self.op.Slice(value, [-1], [-(2**31) + 1], [0], [-1])  # type: ignore[no-any-return]

    def ordered(self, value: ir.Value) -> ir.Value:
        """[steps, directions, …] in the order of time brought into the order of steps, or the other way round."""
        if self.directions == 1:
            return self.flipped(value) if self.backwards[0] else value
        ahead, back = self.op.Split(value, [1, 1], axis=1, _outputs=2)
        return self.op.Concat(ahead, self.flipped(back), axis=1)  # type: ignore[no-any-return]

    def rows(self, value: ir.Value, size: int) -> ir.Value:
        """[steps, directions, batch, size] → [directions, steps · batch, size]."""
        value = self.op.Transpose(value, perm=[1, 0, 2, 3])
        return self.op.Reshape(value, [self.directions, -1, size])  # type: ignore[no-any-return]

    def steps(self, rows: ir.Value, size: int) -> ir.Value:
        """[directions, steps · batch, size] → [steps, directions, batch, size]."""
        lengths = [dim if isinstance(dim, int) else -1 for dim in (self.x.shape or [None, None])[:2]]
        shape: list[int] | ir.Value = [self.directions, *lengths, size]
        if lengths == [-1, -1]:
            shape = self.op.Concat([self.directions], self.op.Shape(self.x, end=2), [size], axis=0)
        return self.op.Transpose(self.op.Reshape(rows, shape), perm=[1, 0, 2, 3])  # type: ignore[no-any-return]

    def split(self, value: ir.Value, gates: int) -> Sequence[ir.Value]:
        """The gates of ``value``, which has them one behind the other."""
        found: Sequence[ir.Value] = self.op.Split(value, [self.hidden] * gates, axis=-1, _outputs=gates)
        return found

    # Operands

    @functools.cached_property
    def x(self) -> ir.Value:
        """[steps, batch, features], in the order of time."""
        x = self.wide(self.at.input(0))
        return self.op.Transpose(x, perm=[1, 0, 2]) if self.batch_first else x

    @functools.cached_property
    def x_rows(self) -> ir.Value:
        x = self.op.Unsqueeze(self.x, [1])
        return self.rows(self.ordered(x if self.directions == 1 else self.op.Concat(x, x, axis=1)), self.features)

    @functools.cached_property
    def w(self) -> ir.Value:
        return self.wide(self.at.input(1))

    @functools.cached_property
    def r(self) -> ir.Value:
        return self.wide(self.at.input(2))

    @functools.cached_property
    def bias(self) -> Sequence[ir.Value | None]:
        """The biases of W and of R, each [directions, gates · size]."""
        given, size = self.at.optional(3), self.gates * self.hidden
        if given is None:
            return None, None
        found: Sequence[ir.Value] = self.op.Split(self.wide(given), [size, size], axis=1, _outputs=2)
        return found

    @functools.cached_property
    def h(self) -> ir.Value:
        """The hidden state after each step."""
        y = self.at.y[0]
        if not y.name:  # the node leaves Y out
            node = self.at.node
            y = getattr(self.op, node.op_type)(*node.inputs, **node.attributes)
        return self.inside(y)

    @functools.cached_property
    def before(self) -> ir.Value:
        """The hidden state before each step."""
        first = self.op.Unsqueeze(self.state(self.at.optional(5)), [0])
        return self.op.Concat(first, self.op.Slice(self.h, [0], [-1], [0]), axis=0)  # type: ignore[no-any-return]

    def inside(self, y: ir.Value) -> ir.Value:
        """A value laid out as the operator's Y in the layout inside."""
        y = self.wide(y)
        return self.ordered(self.op.Transpose(y, perm=[1, 2, 0, 3]) if self.batch_first else y)

    def adjoint(self, dy: ir.Value | None) -> ir.Value:
        """The adjoint of Y in the layout inside, zeros where there is none."""
        return self.zeros(self.op.Shape(self.h)) if dy is None else self.inside(dy)

    def state(self, value: ir.Value | None) -> ir.Value:
        """A state of the operator, or the adjoint of one, as [directions, batch, size]; zeros where there is none."""
        if value is None:
            return self.zeros(self.op.Shape(self.h, start=1))
        value = self.wide(value)
        return self.op.Transpose(value, perm=[1, 0, 2]) if self.batch_first else value

    def zeros(self, shape: ir.Value) -> ir.Value:
        return self.op.Expand(number(self.at, 0.0, self.x), shape)  # type: ignore[no-any-return]

    # Products over all steps

    def from_x(self) -> ir.Value:
        """W x + b."""
        return self._times(self.x_rows, self.w, self.bias[0], self.gates)

    def from_h(self, h: ir.Value, r: ir.Value, bias: ir.Value | None, gates: int) -> ir.Value:
        """R h + b for some gates of R."""
        return self._times(self.rows(h, self.hidden), r, bias, gates)

    def _times(self, rows: ir.Value, weight: ir.Value, bias: ir.Value | None, gates: int) -> ir.Value:
        z = self.op.MatMul(rows, self.op.Transpose(weight, perm=[0, 2, 1]))
        if bias is not None:
            z = self.op.Add(z, self.op.Unsqueeze(bias, [1]))
        return self.steps(z, gates * self.hidden)

    def product(self, dz: ir.Value, h: ir.Value) -> ir.Value:
        """The adjoint of R in R h, from that of R h as rows."""
        return self.op.MatMul(self.op.Transpose(dz, perm=[0, 2, 1]), self.rows(h, self.hidden))  # type: ignore[no-any-return]

    # Adjoints

    def adjoints(self, back: Callable[[], Back]) -> list[Adjoint]:
        """The adjoints of X, W, R, B and the initial hidden state."""
        op = self.op

        def dx() -> ir.Value:
            dx = self.ordered(self.steps(op.MatMul(back().dx, self.w), self.features))
            dx = op.ReduceSum(dx, [1], keepdims=0)
            return self.narrow(op.Transpose(dx, perm=[1, 0, 2]) if self.batch_first else dx)

        def dw() -> ir.Value:
            return self.narrow(op.MatMul(op.Transpose(back().dx, perm=[0, 2, 1]), self.x_rows))

        def db() -> ir.Value:
            dx, dh = (op.ReduceSum(rows, [1], keepdims=0) for rows in (back().dx, back().dh))
            return self.narrow(op.Concat(dx, dh, axis=1))

        return [dx, dw, lambda: self.narrow(back().dr()), db, lambda: self.initial(back().dstates[0])]

    def initial(self, dstate: ir.Value) -> ir.Value:
        """The adjoint of an initial state in the layout of the operator."""
        return self.narrow(self.op.Transpose(dstate, perm=[1, 0, 2]) if self.batch_first else dstate)
