"""The attention maps of a transformer: a softmax over the last axis between two matrix products, in every layer."""

from __future__ import annotations

__all__ = ["Layers", "find_attention", "with_sums"]

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import onnx_ir as ir
from onnxscript import OpBuilder

from onnxcam.autodiff.registry import describe
from onnxcam.errors import MethodError
from onnxcam.exporter.axes import find_layouts
from onnxcam.exporter.layers import Candidate, Target, candidates, is_weight, on_the_way
from onnxcam.exporter.layout import Layout, shape_text
from onnxcam.methods import Attention

_FUSED: Final = frozenset(
    {"Attention", "MultiHeadAttention", "QAttention", "QOrderedAttention", "PackedAttention", "GroupQueryAttention",
     "PackedMultiHeadAttention", "SparseAttention", "LongformerAttention", "LinearAttention"}
)  # fmt: skip
"""Operators, of ONNX and of ONNX Runtime, that keep their attention maps to themselves."""
_REPEATING: Final = frozenset({"Identity", "Dropout", "Cast", "Where"})
"""What may stand between the softmax and the product with the values: Where takes NaN out of rows without a key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layers:
    """The attention of every layer, first to last, among all tokens, which lie in ``layout``.

    weights: behind softmax, [N, heads, T, T] or [N, T, T].
    sums: what each layer hands on, tokens [N, T, C]; empty where no method needs it.
    read: see `onnxcam.methods.Attention`.
    """

    weights: Sequence[ir.Value]
    layout: Layout
    read: Sequence[int]
    sums: Sequence[ir.Value] = ()

    def site(self, op: OpBuilder, gradients: Sequence[ir.Value] = (), *, over: float = 1.0) -> Attention:
        """As methods take it, with the ``gradients`` at the weights / ``over``."""
        assert self.layout.grid is not None
        wide = [_with_heads(op, value) for value in gradients]
        return Attention(
            maps=[_with_heads(op, value) for value in self.weights],
            gradients=wide if over == 1 else [_shaped_as(x, op.Div(x, over)) for x in wide],
            read=self.read,
            extra_tokens=self.layout.extra_tokens,
            grid=self.layout.grid,
        )


def find_attention(graph: ir.Graph, score: ir.Value, image: ir.Value, targets: Sequence[Target], method: str) -> Layers:
    """The attention on the way from ``image`` to ``score``.

    targets: the layout of one that is of tokens says how many of them have no place.
    method: the name of the method that needs it.

    Raises `MethodError` where there is none, where it is inside a fused operator, within windows or from and to
    different tokens, and where it does not go from layer to layer.
    """
    path = on_the_way(graph, score, image)
    if fused := [describe(node) for node in path if node.op_type in _FUSED]:
        raise MethodError(
            f"'{method}' needs the attention maps, and {fused[0]} keeps its own to itself: export the model with "
            "attention as plain operators (operator set 22 or lower), or take it as it was before it was optimised"
        )
    weights = [found for node in path if (found := _weights(node)) is not None]
    if not weights:
        raise MethodError(f"'{method}' is made of attention maps, and this model has none: take 'gradcam'")
    layouts = [*(target.layout for target in targets), *find_layouts(graph).values()]
    layout = _layout(weights[0], layouts)
    for value in weights:
        if layout is None or not _among_all(value, _tokens(layout), image):
            raise MethodError(
                f"'{method}' needs attention among all tokens in every layer, and '{value.name}' is "
                f"{shape_text(value.shape)}, within windows or from and to different tokens: take 'gradcam'"
            )
    assert layout is not None
    if changed := [node.outputs[0] for node in path if _is_changed(node)]:
        raise MethodError(
            f"'{method}' needs the attention by which the values are weighted, and '{changed[0].name}' is mixed with "
            "something else before: take 'gradcam'"
        )
    for before, value in itertools.pairwise(weights):
        if not on_the_way(graph, value, before):
            raise MethodError(
                f"'{method}' follows attention from layer to layer, and '{value.name}' does not depend on "
                f"'{before.name}', which stands beside it: take 'gradcam'"
            )
    return Layers(weights=weights, layout=layout, read=_read(on_the_way(graph, score, weights[-1]), layout))


def with_sums(graph: ir.Graph, layers: Layers, score: ir.Value, image: ir.Value, method: str) -> Layers:
    """``layers`` with what each hands on: the last sum before the next one's attention that all ways to the score lead
    through, and of the last layer the last before the score.

    Raises `MethodError` where a layer hands on no such sum.
    """
    order = {y: i for i, node in enumerate(graph) for y in node.outputs}
    found = [each.value for each in candidates(graph, score, image) if each.cut and _sums_tokens(each, layers.layout)]
    ends = [order[value] for value in layers.weights[1:]] + [len(graph)]
    handed = []
    for value, end in zip(layers.weights, ends, strict=True):
        between = [y for y in found if order[value] < order[y] < end]
        if not between:
            raise MethodError(
                f"'{method}' reads a score off what each layer hands on, and behind '{value.name}' there is no sum "
                "that all ways to the score lead through: take 'rollout'"
            )
        handed.append(between[-1])
    return replace(layers, sums=handed)


def _sums_tokens(candidate: Candidate, layout: Layout) -> bool:
    """Whether it is the sum of two values that depend on the picture, laid out as ``layout``."""
    node = candidate.value.producer()
    return (
        candidate.layout == layout
        and node is not None
        and node.op_type == "Add"
        and not any(x is None or is_weight(x) for x in node.inputs)
    )


def _weights(node: ir.Node) -> ir.Value | None:
    """The attention that the softmax ``node`` gives: what is multiplied with the values; None if it is none."""
    if node.op_type != "Softmax" or node.domain or node.outputs[0].shape is None:
        return None
    y = node.outputs[0]
    rank = len(y.shape or ())
    if rank not in (3, 4) or node.attributes.get_int("axis", -1) % rank != rank - 1:
        return None
    for _ in range(4):
        readers = [(reader, index) for reader, index in y.uses() if reader.op_type != "IsNaN"]
        if any(reader.op_type == "MatMul" and index == 0 for reader, index in readers):
            return y
        repeating = [reader for reader, _ in readers if reader.op_type in _REPEATING]
        if not repeating:
            return None
        y = repeating[0].outputs[0]
    return None


def _is_changed(node: ir.Node) -> bool:
    """Whether ``node`` is a softmax among tokens that the values are not weighted by as it is."""
    shape = node.outputs[0].shape
    if node.op_type != "Softmax" or shape is None or len(shape) < 3 or shape[-1] == 1:
        return False
    return isinstance(shape[-1], int) and shape[-2] == shape[-1] and _weights(node) is None


def _tokens(layout: Layout) -> int:
    assert layout.grid is not None
    return layout.extra_tokens + layout.grid[0] * layout.grid[1]


def _layout(weights: ir.Value, layouts: Sequence[Layout]) -> Layout | None:
    """The first of ``layouts`` that is of as many tokens as ``weights`` is among."""
    assert weights.shape is not None
    fit = (layout for layout in layouts if layout.kind == "tokens" and _tokens(layout) == weights.shape[-1])
    return next(fit, None)


def _among_all(weights: ir.Value, tokens: int, image: ir.Value) -> bool:
    """Whether each of the ``tokens`` of a picture looks at all of them; windows would be counted with the pictures."""
    assert weights.shape is not None
    assert image.shape is not None
    batch = weights.shape[0]
    named = isinstance(batch, int) or batch.value is not None
    return named and batch == image.shape[0] and list(weights.shape[-2:]) == [tokens, tokens]


def _read(path: Sequence[ir.Node], layout: Layout) -> list[int]:
    """The tokens without a place that are picked, no others with them, on the ``path`` behind the last attention.

    Where there are none, all that have a place.
    """
    picked: set[int] = set()
    for node in path:
        x = node.inputs[0] if node.inputs else None
        if x is None or x.shape is None or len(x.shape) != 3 or x.shape[1] != _tokens(layout):
            continue
        found = _picked(node, _tokens(layout))
        if all(token < layout.extra_tokens for token in found):
            picked.update(found)
    return sorted(picked) or list(range(layout.extra_tokens, _tokens(layout)))


def _picked(node: ir.Node, tokens: int) -> Sequence[int]:
    """The positions that ``node`` takes of its input's second axis, where it takes some and not others."""
    constants = [ir.convenience.get_const_tensor(x) if x is not None else None for x in node.inputs[1:]]
    numbers = [None if tensor is None else tensor.numpy().reshape(-1).tolist() for tensor in constants]
    if node.op_type == "Gather" and node.attributes.get_int("axis", 0) == 1 and numbers[0] is not None:
        return [int(index) % tokens for index in numbers[0]]
    if node.op_type == "Slice" and len(numbers) >= 3 and None not in numbers[:3] and numbers[2] == [1]:
        start, end = (numbers[i] or [0] for i in (0, 1))
        return range(tokens)[int(start[0]) : int(end[0])]
    return []


def _shaped_as(x: ir.Value, y: ir.Value) -> ir.Value:
    y.type, y.shape = x.type, x.shape
    return y


def _with_heads(op: OpBuilder, weights: ir.Value) -> ir.Value:
    """``weights`` as float32 [N, heads, T, T]."""
    shape = weights.shape
    assert shape is not None
    wide = weights if weights.dtype == ir.DataType.FLOAT else op.Cast(weights, to=ir.DataType.FLOAT)
    if len(shape) == 3:
        wide = op.Unsqueeze(wide, [1])
    wide.dtype = ir.DataType.FLOAT
    wide.shape = ir.Shape(shape if len(shape) == 4 else [shape[0], 1, *shape[1:]])
    return wide
