"""Rules of operators that gather windows or samples of a picture."""

from __future__ import annotations

__all__: list[str] = []

import math
from collections.abc import Sequence

import onnx_ir as ir

from onnxcam.autodiff.registry import Adjoint, Site, rule
from onnxcam.autodiff.rules.movement import restore


@rule("Col2Im", versions=(18,))
def col2im(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    """The adjoint lays the windows of dy out as columns: a Conv with one kernel for each place in a window."""
    x, block = at.input(0), at.constant(at.input(2))
    if block is None:
        raise at.unsupported("block_shape must be a constant")
    rank, count = len(block), math.prod(block)

    def dx() -> ir.Value:
        places = at.op.EyeLike(at.op.ConstantOfShape([count, count]), dtype=dy.dtype)
        kernels = at.op.Reshape(places, [count, 1, *block])
        spatial = at.op.Shape(dy, start=2)
        planes = at.op.Reshape(dy, at.op.Concat([-1, 1], spatial, axis=0))
        columns = at.op.Conv(
            planes,
            kernels,
            kernel_shape=block,
            strides=at.attribute("strides", [1] * rank),
            pads=at.attribute("pads", [0] * (2 * rank)),
            dilations=at.attribute("dilations", [1] * rank),
        )
        return restore(at, columns, x)

    return (dx,)
