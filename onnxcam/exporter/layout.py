"""How a feature map is laid out: which of its axes are channels, and which places."""

from __future__ import annotations

__all__ = ["NCHW", "Layout", "as_volume", "canonical", "parse_layout", "shape_text"]

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import onnx_ir as ir
from onnxscript import OpBuilder

from onnxcam.contract import FeatureLayout
from onnxcam.errors import LayerError


@dataclass(frozen=True, slots=True)
class Layout:
    """How the axes of a feature map are laid out.

    extra_tokens: for tokens [N, T, C], how many of the first have no place (class token, registers).
    grid: for tokens, rows and columns of the others.
    """

    kind: FeatureLayout
    extra_tokens: int = 0
    grid: tuple[int, int] | None = None

    def __str__(self) -> str:
        return f"tokens:{self.extra_tokens}" if self.kind == "tokens" else self.kind


def parse_layout(text: str, value: ir.Value, known: Layout | None) -> Layout:
    """The layout a user names for ``value``: ``NCHW``, ``NHWC``, ``NCDHW``, or ``tokens:n``, n of them without a place.

    known: what was found by itself; the grid of the tokens is taken from it. Raises `LayerError`.
    """
    shape = list(value.shape or ())
    for kind in _KINDS:
        if text.upper() == kind:
            if len(shape) != len(kind):
                raise LayerError(f"'{value.name}' has {len(shape)} axes, and {kind} {len(kind)}: leave --layout out")
            return Layout(kind)
    match = re.fullmatch(r"tokens(?::(\d+))?", text)
    if match is None:
        raise LayerError(f"there is no layout '{text}': write NCHW, NHWC, NCDHW, or tokens:1 (one without a place)")
    extra = int(match[1] or 0)
    tokens = shape[1] if len(shape) == 3 else None
    if not isinstance(tokens, int):
        raise LayerError(f"'{value.name}' gives {shape_text(shape)}, and tokens are [N, T, C] with a known number T")
    if known is not None and known.grid is not None and math.prod(known.grid) == tokens - extra:
        return Layout("tokens", extra, known.grid)
    side = math.isqrt(max(tokens - extra, 0))
    if side < 2 or side * side != tokens - extra:
        raise LayerError(f"'{value.name}' has {tokens} tokens, and without {extra} they fill no square grid")
    return Layout("tokens", extra, (side, side))


def canonical(op: OpBuilder, value: ir.Value, layout: Layout) -> ir.Value:
    """``value`` as [N, C, h, w]; the places of a volume all below one another, [N, C, d·h·w, 1]."""
    if layout.kind == "NCHW":
        return value
    shape = value.shape
    assert shape is not None
    found: ir.Value
    if layout.kind == "NCDHW":
        found = op.Unsqueeze(op.Reshape(value, [0, 0, -1]), [3])
        sizes = [dim for dim in shape[2:] if isinstance(dim, int)]
        found.shape = ir.Shape([*shape[:2], math.prod(sizes) if len(sizes) == 3 else None, 1])
        return found
    if layout.kind == "NHWC":
        found = op.Transpose(value, perm=[0, 3, 1, 2])
        dims = [shape[0], shape[3], shape[1], shape[2]]
    else:
        assert layout.grid is not None
        if layout.extra_tokens:
            value = op.Slice(value, [layout.extra_tokens], [layout.extra_tokens + math.prod(layout.grid)], [1])
        found = op.Reshape(op.Transpose(value, perm=[0, 2, 1]), [0, 0, *layout.grid])
        dims = [shape[0], shape[2], *layout.grid]
    found.shape = ir.Shape(dims)
    return found


def as_volume(op: OpBuilder, cam: ir.Value, value: ir.Value) -> ir.Value:
    """The map [N, d·h·w, 1] that a method made of the volume ``value`` [N, C, d, h, w], as [N, d, h, w]."""
    assert value.shape is not None
    sizes = op.Concat(op.Shape(value, start=0, end=1), op.Shape(value, start=2), axis=0)
    found: ir.Value = op.Reshape(cam, sizes)
    found.dtype, found.shape = ir.DataType.FLOAT, ir.Shape([value.shape[0], *value.shape[2:]])
    return found


_KINDS: Final[tuple[FeatureLayout, ...]] = ("NCHW", "NHWC", "NCDHW")
NCHW: Final = Layout("NCHW")


def shape_text(shape: Iterable[int | ir.SymbolicDim] | None) -> str:
    """A shape as errors show it, such as [N, 3, ?, ?]."""
    if shape is None:
        return "unknown"
    return "[" + ", ".join(str(dim if isinstance(dim, int) else dim.value or "?") for dim in shape) + "]"
