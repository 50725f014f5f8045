"""Masks and casts that rules share.

A mask is cast and multiplied: ONNX Runtime runs ``Where`` several times slower.
"""

from __future__ import annotations

__all__ = ["as_type_of", "masked"]

import onnx_ir as ir

from onnxcam.autodiff.registry import Site


def masked(at: Site, condition: ir.Value, value: ir.Value) -> ir.Value:
    """``value`` where the condition holds, elsewhere 0."""
    return at.op.Mul(value, as_type_of(at, condition, value))  # type: ignore[no-any-return]


def as_type_of(at: Site, value: ir.Value, like: ir.Value) -> ir.Value:
    """``value`` in the type of ``like``."""
    if like.dtype is None:
        return at.op.CastLike(value, like)  # type: ignore[no-any-return]
    return value if value.dtype == like.dtype else at.op.Cast(value, to=like.dtype)
