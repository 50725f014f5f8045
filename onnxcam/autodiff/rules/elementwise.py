"""Rules of operators that work on each element: arithmetic, activations, selection and casts."""

from __future__ import annotations

import onnx_ir as ir

from onnxcam.autodiff.registry import Site, rule


@rule("Add", versions=(7, 13, 14), inputs=(0, 1), broadcasts=True)
def add(at: Site, dy: ir.Value):
    return lambda: dy, lambda: dy


@rule("Mul", versions=(7, 13, 14), inputs=(0, 1), broadcasts=True)
def mul(at: Site, dy: ir.Value):
    a, b = at.x
    return lambda: at.op.Mul(dy, b), lambda: at.op.Mul(dy, a)


@rule("Relu", versions=(6, 13, 14))
def relu(at: Site, dy: ir.Value):
    (y,) = at.y  # the output as mask leaves ONNX Runtime's Conv+Relu fusion whole
    return (lambda: at.op.Mul(dy, at.op.CastLike(at.op.Greater(y, 0.0), dy)),)
