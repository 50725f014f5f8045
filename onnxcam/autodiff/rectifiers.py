"""Backward passes that rectify what comes back through ReLU and its kin: guided backpropagation and deconvolution.

A rectifier is an activation that lets large x through and holds back what is far below 0. With dy what comes back to
it and f' its derivative, what goes on is:

    gradient        f'(x) · dy
    guided          f'(x) · ReLU(dy)      Springenberg et al., Striving for Simplicity, ICLR 2015 workshop, section 3.4
    deconvolution           ReLU(dy)      Zeiler and Fergus, Visualizing and Understanding Convolutional Networks,
                                          ECCV 2014, section 2.1

The papers state this for ReLU, where f'(x) is 1 above 0. Its kin are bounded above (ReLU6: Clip from 0), let through
a little below 0 (LeakyRelu, PRelu, Elu, Selu, Celu, Softplus), or are x times a gate that opens with x (HardSwish,
Swish, Mish, Gelu, whether one operator or several). Gates alone (Sigmoid, Tanh, HardSigmoid) are no rectifiers.
"""

from __future__ import annotations

__all__ = ["Rectifiers"]

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Final, Literal

import onnx_ir as ir

from onnxcam.autodiff.registry import ALL, Adjoint, Rule, Site
from onnxcam.autodiff.rules.quantization import CONTRIB

_OPERATORS: Final = {
    **{("", name): 1 for name in ("Relu", "LeakyRelu", "PRelu", "ThresholdedRelu", "Elu", "Selu", "Celu", "Softplus")},
    **{("", name): 1 for name in ("HardSwish", "Swish", "Mish", "Gelu")},
    **{(CONTRIB, name): 1 for name in ("Gelu", "QuickGelu")},
    **{(CONTRIB, name): 2 for name in ("BiasGelu", "FastGelu")},
}
"""Rectifiers that are one operator, with how many of the first inputs add up to x."""
_GATES: Final = {"Sigmoid": (0.0, 1.0), "HardSigmoid": (0.0, 1.0), "Tanh": (-1.0, 1.0), "Erf": (-1.0, 1.0)}
"""What opens a gate: its value far below 0, and far above."""
_DEPTH: Final = 8
"""How many operators are looked through between x and what opens its gate."""


class Rectifiers:
    """The exchange of the rules of rectifiers for `onnxcam.autodiff.gradients`, for one differentiation.

    nodes: the rectifiers that were met; where it is empty, nothing was exchanged, and what came out is a gradient.

    ::

        rectifiers = Rectifiers("guided")
        (guided,) = gradients(model, of=score, wrt=[image], seed=seed, exchange=rectifiers)
    """

    def __init__(self, kind: Literal["guided", "deconvolution"]) -> None:
        self.kind = kind
        self.nodes: list[ir.Node] = []

    def __call__(self, at: Site, rule: Rule) -> Rule | None:
        slopes = _slopes(at)
        if slopes is None:
            return None
        self.nodes.append(at.node)

        def vjp(at: Site, dy: ir.Value) -> Sequence[Adjoint | None]:
            positive = at.op.Relu(dy)
            positive.type, positive.shape = dy.type, dy.shape
            if self.kind == "guided":
                assert rule.vjp is not None
                return rule.vjp(at, positive)
            covered = range(len(at.x)) if rule.inputs == ALL else rule.inputs
            return [_times(at, positive, slopes[int(index)]) if int(index) in slopes else None for index in covered]

        return replace(rule, vjp=vjp)


def _times(at: Site, dy: ir.Value, slope: float) -> Adjoint:
    return lambda: dy if slope == 1 else at.op.Mul(dy, slope)


def _slopes(at: Site) -> dict[int, float] | None:
    """Of a rectifier, the inputs that it lets through, with its slope for large ones; None for any other node."""
    node = at.node
    if (count := _OPERATORS.get((node.domain, node.op_type))) is not None:
        return None if _opens_a_gate(node) else dict.fromkeys(range(count), 1.0)
    if node.domain:
        return None
    if node.op_type == "Clip":
        return {0: 1.0} if _scalar(at.optional(1)) == 0 and not _opens_a_gate(node) else None
    if node.op_type == "Max" and len(node.inputs) == 2:
        return next(({1 - i: 1.0} for i in (0, 1) if _scalar(at.x[i]) == 0), None)
    if node.op_type == "Mul":
        return next(({1 - i: high} for i in (0, 1) if (high := _wide_open(at.input(i), at.input(1 - i)))), None)
    return None


def _opens_a_gate(node: ir.Node) -> bool:
    """Whether ``node`` is part of a gate: of ReLU6(x + 3) / 6, or of Tanh(Softplus(x))."""
    if node.op_type == "Softplus":
        readers = [reader.op_type for reader, _ in node.outputs[0].uses()]
        return bool(readers) and all(reader == "Tanh" for reader in readers)
    before = None if node.inputs[0] is None else node.inputs[0].producer()
    if node.op_type != "Clip" or before is None or before.op_type != "Add" or len(node.inputs) < 3:
        return False
    high = _scalar(node.inputs[2])
    return high is not None and any(_scalar(x) == high / 2 for x in before.inputs)


def _wide_open(gate: ir.Value, x: ir.Value) -> float | None:
    """The value for large x of a ``gate`` that opens with ``x``, and is shut far below 0; None if it is none."""
    if (found := _gate(gate)) is None:
        return None
    opened_by, low, high = found
    if abs(low) > 1e-6 or high <= 0:
        return None
    node, candidates = x.producer(), [x]
    if node is not None and node.op_type in ("Mul", "Div") and not node.domain:  # (x / 2) (1 + Erf(x / √2))
        candidates += [v for v in node.inputs if v is not None and _scalar(v) is None]
    return high if any(_made_of(opened_by, each, _DEPTH) for each in candidates) else None


def _gate(value: ir.Value) -> tuple[ir.Value, float, float] | None:
    """Of a value that saturates: what by, and its values far below and far above."""
    node = value.producer()
    x = None if node is None or not node.inputs else node.inputs[0]
    if node is None or node.domain or x is None:
        return None
    if node.op_type in _GATES:
        before = x.producer()
        low, high = _GATES[node.op_type]
        return x, 0.0 if before is not None and before.op_type == "Softplus" else low, high
    if node.op_type == "Clip" and len(node.inputs) == 3:
        ends = _scalar(node.inputs[1]), _scalar(node.inputs[2])
        return None if ends[0] is None or ends[1] is None else (x, ends[0], ends[1])
    if node.op_type not in ("Add", "Mul", "Div"):
        return None
    known = [_scalar(v) for v in node.inputs]
    inner, by = (node.inputs[0], known[1]) if known[1] is not None else (node.inputs[1], known[0])
    if inner is None or not by or (node.op_type == "Div" and known[1] is None) or (found := _gate(inner)) is None:
        return None
    x, low, high = found
    if node.op_type == "Add":
        return x, low + by, high + by
    by = by if node.op_type == "Mul" else 1 / by
    return x, low * by, high * by


def _made_of(value: ir.Value, x: ir.Value, depth: int) -> bool:
    """Whether ``value`` is calculated from ``x`` and numbers alone, place by place."""
    if value is x:
        return True
    node = value.producer()
    if node is None or node.op_type not in ("Add", "Mul", "Div", "Pow", "Softplus") or node.domain or not depth:
        return False
    operands = [v for v in node.inputs if v is not None and _scalar(v) is None]
    return bool(operands) and all(_made_of(v, x, depth - 1) for v in operands)


def _scalar(value: ir.Value | None) -> float | None:
    """The number that ``value`` holds, if it is known and one alone."""
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    if tensor is None or tensor.size != 1:
        return None
    number = float(tensor.numpy().reshape(()))
    return number if math.isfinite(number) else None
