"""Gradients in the blocked layout of ONNX Runtime's convolutions (NCHWc): what leaves it goes back to rows of pixels
first, and into blocks again behind.

**Masks of rectifiers.** A comparison is not run in blocks. HardSigmoid, max(0, min(1, αx + β)), is, and a steep one of
what ReLU gave tells 0 from anything above. Steep enough in one step would overflow in half precision, which some
runtimes choose by themselves; so it is taken again of what it gave.

**Sums at shortcuts.** Where one of two gradients that are added is not in blocks (it came from a pool, or a strided
convolution), neither is the sum, nor any further one along the shortcuts of a residual network.
"""

from __future__ import annotations

__all__ = ["blocked_masks", "blocked_sums"]

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx_ir as ir

from onnxcam.exporter.rewriting import added, constant, initializer, made_by, put_in_place, sizes

_SLOPE: Final = 61440.0
"""Finite in float16, and exact in it and in bfloat16."""
_HIGHEST: Final = 32768.0
"""Of the line that falls to 0 at the upper bound: its slope, a power of two, times that bound is at most this."""
_RECTIFIERS: Final = frozenset({"Relu", "Clip"})
_CARRIED_ON: Final = frozenset({"Add", "BatchNormalization", "Identity", "Mul", "Sum"})
"""What stands between a Conv and its activation."""
_BLOCK: Final = 16
"""Channels in a block with AVX-512; elsewhere 8 or 4."""
_OF_ALL: Final = frozenset({"Add", "Mul", "Sum"})
_OF_ONE: Final = frozenset(
    {"AveragePool", "BatchNormalization", "Clip", "HardSigmoid", "MaxPool", "Relu", "Resize", "Sigmoid", "Tanh"}
)
"""What is run in blocks where all, or the first, of what it reads is."""


def blocked_masks(graph: ir.Graph, nodes: Sequence[ir.Node], forward: Sequence[ir.Node]) -> None:
    """Cast(y > 0) and Cast(0 < y < b) of what rectifies a Conv in ``forward``, as HardSigmoids. EfficientNet-lite0's
    gradient at the input takes 0.9 of the time so with one thread, and 0.8 with two.

    A y between 0 and 3e-10, which rounding decides, gives a mask between 0 and 1.
    """
    known = set(forward)
    for node in nodes:
        if node.op_type != "Cast" or node.domain or node.outputs[0].dtype != ir.DataType.FLOAT:
            continue
        mask = _mask(node.inputs[0])
        if mask is None or mask.y.producer() not in known or not _is_blocked(mask.y):
            continue
        put_in_place(graph, node, list(_hard_sigmoids(mask, node.outputs[0])))


@dataclass(frozen=True, slots=True)
class _Mask:
    """Where ``y`` is above 0, and below ``high`` if it is bounded."""

    y: ir.Value
    high: float | None = None


def _mask(condition: ir.Value | None) -> _Mask | None:
    node = None if condition is None else condition.producer()
    if node is None or node.domain:
        return None
    if node.op_type == "And":
        sides = {side.op_type: side for x in node.inputs if x is not None and (side := x.producer()) is not None}
        low, high = (_bounded(sides.get(name)) for name in ("Greater", "Less"))
        if low is None or high is None or low[0] is not high[0] or low[1] != 0 or not high[1] > 0:
            return None
        return _Mask(low[0], high[1])
    bounded = _bounded(node) if node.op_type == "Greater" else None
    return None if bounded is None or bounded[1] != 0 else _Mask(bounded[0])


def _bounded(node: ir.Node | None) -> tuple[ir.Value, float] | None:
    """What is compared with which number."""
    if node is None or node.domain or node.inputs[0] is None:
        return None
    bound = constant(node.inputs[1])
    return None if bound is None or bound.size != 1 else (node.inputs[0], float(bound.reshape(())))


def _is_blocked(y: ir.Value) -> bool:
    """Whether ``y`` is the rectified result of a Conv on pictures, with what is added to it."""
    value, seen = y, 0
    if y.dtype != ir.DataType.FLOAT or y.shape is None or len(y.shape) != 4:
        return False
    while (node := value.producer()) is not None and node.op_type != "Conv":
        seen += 1
        if node.op_type not in (_RECTIFIERS if seen == 1 else _CARRIED_ON) or node.inputs[0] is None:
            return False
        value = node.inputs[0]
    return node is not None and seen > 0


def _hard_sigmoids(mask: _Mask, like: ir.Value) -> Iterator[ir.Node]:
    def node(op_type: str, inputs: Sequence[ir.Value], **attributes: float) -> ir.Node:
        result = ir.Value(type=like.type, shape=like.shape)
        return ir.node(op_type, inputs, attributes, outputs=[result])

    above = node("HardSigmoid", [mask.y], alpha=_SLOPE, beta=0.0)
    yield above
    if mask.high is None:
        yield node("HardSigmoid", above.outputs, alpha=_SLOPE, beta=0.0)
        return
    slope = 2.0 ** min(math.floor(math.log2(_HIGHEST / mask.high)), 15)
    below = node("HardSigmoid", [mask.y], alpha=-slope, beta=slope * mask.high)
    yield below
    between = node("Mul", [above.outputs[0], below.outputs[0]])
    yield between
    yield node("HardSigmoid", between.outputs, alpha=_SLOPE, beta=0.0)


def blocked_sums(graph: ir.Graph, nodes: Sequence[ir.Node]) -> None:
    """What is added to the result of a Conv goes into blocks by a Conv that changes nothing: the sum is part of one of
    the two, and what is behind it stays in blocks. ResNet-50's gradient at the input takes 0.96 of the time so.

    Nothing, but where a device convolves in TF32: there it is rounded as what every other Conv reads.
    """
    blocked: set[ir.Value] = set()
    moved: dict[ir.Value, ir.Value] = {}
    behind = set(nodes)
    for node in list(graph):
        if node in behind and node.op_type == "Add" and not node.domain:
            _bring_into_blocks(graph, node, blocked, moved)
        if _gives_blocks(node, blocked):
            blocked.add(node.outputs[0])


def _bring_into_blocks(graph: ir.Graph, node: ir.Node, blocked: set[ir.Value], moved: dict[ir.Value, ir.Value]) -> None:
    """Let the sum ``node`` read the operand that is not in blocks from there, where the other is the result of a Conv
    that nothing else reads. moved: what was brought there before."""
    for i, (x, y) in enumerate(zip(node.inputs, node.inputs[::-1], strict=True)):
        if x is None or x in blocked or y not in blocked or sizes(x) != sizes(y):
            continue
        if made_by(y, "Conv") and len(y.uses()) == 1 and not y.is_graph_output():
            if x not in moved:
                channels = sizes(x)[1]
                assert isinstance(channels, int)
                ones = initializer(graph, f"explanation.ones_{channels}", np.ones((channels, 1, 1, 1), np.float32))
                group = {"group": ir.AttrInt64("group", channels)}
                name = f"{x.name}_blocked"
                moved[x] = added(graph, node, "Conv", [x, ones], name, sizes(x), like=x, attributes=group)
            node.replace_input_with(i, moved[x])
            blocked.add(moved[x])
            return


def _gives_blocks(node: ir.Node, blocked: set[ir.Value]) -> bool:
    """Whether ONNX Runtime runs ``node`` in blocks, if it does so with the values ``blocked``."""
    result = node.outputs[0]
    channels = sizes(result)[1] if len(sizes(result)) == 4 else None
    if node.domain or result.dtype != ir.DataType.FLOAT or not isinstance(channels, int) or channels % _BLOCK:
        return False
    if node.op_type in _OF_ALL:
        return all(x in blocked and sizes(x) == sizes(result) for x in node.inputs if x is not None)
    return node.op_type == "Conv" or (node.op_type in _OF_ONE and node.inputs[0] in blocked)
