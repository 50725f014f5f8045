"""Attention as ONNX Runtime's transformer optimiser writes it, for encoders: without past states."""

from __future__ import annotations

__all__: list[str] = []

import math
from collections.abc import Sequence

import onnx_ir as ir

from onnxcam.autodiff.registry import Site, expansion
from onnxcam.autodiff.rules.movement import number
from onnxcam.autodiff.rules.quantization import CONTRIB


@expansion("Attention", domain=CONTRIB)
def attention(at: Site) -> Sequence[ir.Value | None]:
    """One product gives query, key and value of all heads side by side."""
    if at.attribute("do_rotary", 0):
        raise at.unsupported("rotary embeddings are not differentiated: use the model as it was before optimisation")
    _refuse_past(at, 4, 6)
    x, weight, bias = at.input(0), at.input(1), at.optional(2)
    sizes = list(at.attribute("qkv_hidden_sizes", ()))
    if not sizes:
        width = None if weight.shape is None else weight.shape[1]
        if not isinstance(width, int):
            raise at.unsupported(f"the width of the weight '{weight.name}' is not static")
        sizes = [width // 3] * 3
    projected = at.op.MatMul(x, weight)
    if bias is not None:
        projected = at.op.Add(projected, bias)
    parts = at.op.Split(projected, sizes, axis=2, _outputs=3)
    heads = at.attribute("num_heads", 1)
    q, k, v = (_by_head(at, part, heads, size) for part, size in zip(parts, sizes, strict=True))
    return _outputs(at, _attend(at, q, k, v, sizes[0] // heads, mask=at.optional(3), bias=at.optional(5)))


@expansion("MultiHeadAttention", domain=CONTRIB)
def multi_head_attention(at: Site) -> Sequence[ir.Value | None]:
    """Query, key and value are given, of shape [N, S, hidden]; key and value may be by head already."""
    _refuse_past(at, 6, 7, 8, 9)
    if len(at.x) < 3 or at.x[1] is None or at.x[2] is None:
        raise at.unsupported("packed inputs are not differentiated: give query, key and value each by itself")
    query, key, value, bias = at.input(0), at.input(1), at.input(2), at.optional(3)
    heads = at.attribute("num_heads", 1)
    head = _width(at, query) // heads
    sizes = [head * heads, head * heads, _width(at, value) * (heads if at.rank(value) == 4 else 1)]
    parts = [query, key, value]
    if bias is not None:
        if at.rank(key) == 4:
            raise at.unsupported("a bias for keys that are by head already is not differentiated")
        added = at.op.Split(bias, sizes, axis=0, _outputs=3)
        parts = [at.op.Add(part, more) for part, more in zip(parts, added, strict=True)]
    q, k, v = (
        part if at.rank(given) == 4 else _by_head(at, part, heads, size)
        for part, given, size in zip(parts, (query, key, value), sizes, strict=True)
    )
    return _outputs(at, _attend(at, q, k, v, head, mask=at.optional(4), bias=at.optional(5)))


def _refuse_past(at: Site, *inputs: int) -> None:
    if any(at.optional(i) is not None for i in inputs):
        raise at.unsupported("past states are not differentiated: export the model without a cache")


def _outputs(at: Site, y: ir.Value) -> Sequence[ir.Value | None]:
    return [y, *[None] * (len(at.node.outputs) - 1)]


def _width(at: Site, value: ir.Value) -> int:
    """The length of the last axis."""
    width = None if value.shape is None else value.shape[-1]
    if not isinstance(width, int):
        raise at.unsupported(f"the last axis of '{value.name}' is not static")
    return width


def _by_head(at: Site, value: ir.Value, heads: int, size: int) -> ir.Value:
    """[N, S, hidden] → [N, heads, S, size of a head]."""
    apart = at.op.Reshape(value, [0, 0, heads, size // heads])
    return at.op.Transpose(apart, perm=[0, 2, 1, 3])  # type: ignore[no-any-return]


def _attend(
    at: Site, q: ir.Value, k: ir.Value, v: ir.Value, head: int, *, mask: ir.Value | None, bias: ir.Value | None
) -> ir.Value:
    """softmax(scale q kᵀ + mask + bias) v of each head, and the heads side by side again."""
    op = at.op
    scale = at.attribute("scale", 0.0) or 1 / math.sqrt(head)
    scores = op.MatMul(op.Mul(q, scale), op.Transpose(k, perm=[0, 1, 3, 2]))
    if bias is not None:
        scores = op.Add(scores, bias)
    filtered = number(at, at.attribute("mask_filter_value", -10000.0), q)
    if mask is not None:
        hidden = _hidden(at, mask, k)
        scores = op.Add(scores, op.Mul(op.CastLike(hidden, q), filtered))
    if at.attribute("unidirectional", 0):
        square = op.Concat(op.Shape(q, start=2, end=3), op.Shape(k, start=2, end=3), axis=0)
        scores = op.Add(scores, op.Trilu(op.Expand(filtered, square), 1, upper=1))
    y = op.Transpose(op.MatMul(op.Softmax(scores, axis=-1), v), perm=[0, 2, 1, 3])
    return op.Reshape(y, [0, 0, -1])  # type: ignore[no-any-return]


def _hidden(at: Site, mask: ir.Value, k: ir.Value) -> ir.Value:
    """Where a mask hides keys, against [N, heads, S, T]: the mask is 0 there, or the length of the keys that count."""
    op, rank = at.op, at.rank(mask)
    if rank in (2, 3):
        return op.Unsqueeze(op.LessOrEqual(mask, 0), [1, 2] if rank == 2 else [1])  # type: ignore[no-any-return]
    x = at.input(0)
    assert mask.shape is not None
    if rank == 1 and x.shape is not None and mask.shape[0] == x.shape[0]:
        places = op.Cast(op.Range(0, op.Squeeze(op.Shape(k, start=2, end=3)), 1), to=mask.dtype)
        return op.GreaterOrEqual(places, op.Unsqueeze(mask, [1, 2, 3]))  # type: ignore[no-any-return]
    raise at.unsupported(f"a mask of shape {mask.shape} is not differentiated: give one of [N, T], [N, S, T] or [N]")
