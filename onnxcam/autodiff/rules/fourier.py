"""Rules of Fourier transforms. A complex number is the last axis: real part, imaginary part."""

from __future__ import annotations

__all__: list[str] = []

from collections.abc import Sequence

import onnx_ir as ir

from onnxcam.autodiff.registry import Adjoint, Site, rule


@rule("DFT", versions=(17, 20))
def dft(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    """The adjoint of F is N F⁻¹, that of F⁻¹ is F / N; it has the real part of x, where that is all that x has."""
    op, x, inverse = at.op, at.input(0), at.attribute("inverse", 0)
    if inverse and at.attribute("onesided", 0):
        raise at.unsupported("the one-sided inverse is not covered: write the whole spectrum out and use onesided=0")
    axis = at.attribute("axis", 1) if at.version < 20 else at.constant(at.optional(2)) if at.optional(2) else -2
    parts = x.shape[-1] if x.shape is not None else None
    if not isinstance(axis, int) or not isinstance(parts, int):
        raise at.unsupported("the axis, and whether the input is complex, must be known when the graph is built")
    (axis,) = at.axes([axis], at.rank(x))

    def dx() -> ir.Value:
        given = at.optional(1)
        size = op.Shape(x, start=axis, end=axis + 1)
        length = op.Squeeze(size, [0]) if given is None else op.Reshape(given, op.Constant(value_ints=[]))
        if at.version < 20:
            back = op.DFT(dy, length, axis=axis, inverse=1 - inverse)
        else:
            back = op.DFT(dy, length, axis, inverse=1 - inverse)
        scale = op.CastLike(length, dy)
        back = op.Div(back, scale) if inverse else op.Mul(back, scale)
        if parts == 1:
            back = op.Slice(back, [0], [1], [-1])
        if given is None:
            return back  # type: ignore[no-any-return]
        kept = op.Slice(back, [0], size, [axis])  # x was cut or filled up with zeros to that length
        missing = op.Sub(size, op.Shape(kept, start=axis, end=axis + 1))
        return op.Pad(kept, op.Concat([0], missing, axis=0), None, [axis])  # type: ignore[no-any-return]

    return (dx,)
