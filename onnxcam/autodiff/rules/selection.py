"""Rules of operators that choose, copy or cast elements."""

from __future__ import annotations

__all__: list[str] = []

from collections.abc import Sequence

import onnx_ir as ir

from onnxcam.autodiff.registry import Adjoint, Site, rule
from onnxcam.autodiff.rules.masks import as_type_of, masked


@rule("Where", versions=(9, 16), inputs=(1, 2), broadcasts=True)
def where(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    condition = at.input(0)
    return lambda: masked(at, condition, dy), lambda: masked(at, at.op.Not(condition), dy)


@rule("Identity", versions=(13, 14, 16, 19, 21, 23, 24, 25))
def identity(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    return (lambda: dy,)


@rule("Cast", versions=(13, 19, 21, 23, 24, 25, 28))
def cast(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    x = at.input(0)
    integer = x.dtype is not None and not x.dtype.is_floating_point()  # the adjoint of a quantised value stays as it is
    return (lambda: dy if integer else as_type_of(at, dy, x),)


@rule("CastLike", versions=(15, 19, 21, 23, 24, 25), inputs=(0, 1))
def cast_like(at: Site, dy: ir.Value) -> Sequence[Adjoint | None]:
    return lambda: as_type_of(at, dy, at.input(0)), None


@rule("Dropout", versions=(13, 22))
def dropout(at: Site, dy: ir.Value, _: ir.Value | None = None) -> Sequence[Adjoint]:
    training = at.optional(2)
    if training is not None and at.constant(training) is not False:
        raise at.unsupported("training_mode draws a random mask: export the model in evaluation mode")
    return (lambda: dy,)
