"""Principal components without an SVD, which ONNX does not have."""

from __future__ import annotations

__all__ = ["as_map", "dominant", "first_component"]

from typing import TYPE_CHECKING, Final

from onnxcam.methods.arithmetic import TINY, sign

if TYPE_CHECKING:
    import onnx_ir as ir
    from onnxscript import OpBuilder

_SQUARINGS: Final = 16
"""The 65536th power: an eigenvalue below (1 - 2e-4) of the greatest has left float32."""
_OPEN: Final = 1024
"""How many places are reckoned with where height or width are open."""


def first_component(op: OpBuilder, x: ir.Value, sizes: tuple[int | None, int | None, int | None]) -> ir.Value:
    """The first principal component of ``x`` [N, C, h, w], its places as samples: each place's projection, [N, h, w].

    With X [C, Z] centred by channel, it is vᵀX for the unit v that makes it longest, the first left singular vector.
    That is the first eigenvector of the smaller of XXᵀ (v itself) and XᵀX (u, with v = Xu / |Xu|). Signed so that it
    goes with the mean over channels: where the channels are high together, the map is positive.

    The map's length is the greatest within 1e-5. Its direction is exact within about 1e-6 / gap, where the gap is
    1 - (σ₂/σ₁)²; of two components that are equally long it is some mixture, always the same one.

    sizes: C, h and w, None where open.
    """
    channels, height, width = sizes
    places = _OPEN if height is None or width is None else height * width
    rows = op.Reshape(x, [0, 0, -1])
    rows = op.Sub(rows, op.ReduceMean(rows, [2], keepdims=1))
    scale = op.Max(op.ReduceMax(op.Abs(rows), [1, 2], keepdims=1), TINY)
    rows = op.Div(rows, scale)
    columns = op.Transpose(rows, perm=[0, 2, 1])
    if channels is not None and channels < places:
        axis = dominant(op, op.MatMul(rows, columns))
    else:
        axis = _unit(op, op.MatMul(rows, dominant(op, op.MatMul(columns, rows))))
    found = op.MatMul(columns, axis)
    agreement = op.ReduceSum(op.Mul(found, op.ReduceMean(columns, [2], keepdims=1)), [1, 2], keepdims=1)
    return as_map(op, op.Mul(found, op.Mul(scale, sign(op, agreement))), x)


def dominant(op: OpBuilder, matrix: ir.Value) -> ir.Value:
    """The unit eigenvector [N, n, 1] of the greatest eigenvalue of each ``matrix`` [N, n, n], symmetric, none negative.

    The matrix is squared again and again, and so tends to v vᵀ whatever a start vector would have been; an error of
    rounding in one step is halved by the next. v is its longest column, which is never orthogonal to v.
    """
    for _ in range(_SQUARINGS):
        matrix = op.Div(matrix, op.Max(op.ReduceMax(matrix, [1, 2], keepdims=1), TINY))  # on the diagonal
        matrix = op.MatMul(matrix, matrix)
    longest = op.ArgMax(op.ReduceMax(matrix, [1], keepdims=0), axis=1, keepdims=1)
    return _unit(op, op.Unsqueeze(op.GatherND(matrix, longest, batch_dims=1), [2]))


def as_map(op: OpBuilder, values: ir.Value, x: ir.Value) -> ir.Value:
    """One value a place, [N, h·w, 1], as [N, h, w]; the places are those of ``x`` [N, C, h, w]."""
    shape = op.Concat(op.Shape(x, start=0, end=1), op.Shape(x, start=2, end=4), axis=0)
    cam: ir.Value = op.Reshape(values, shape)
    return cam


def _unit(op: OpBuilder, vector: ir.Value) -> ir.Value:
    """``vector`` [N, n, 1] over its length; zero stays zero."""
    vector = op.Div(vector, op.Max(op.ReduceMax(op.Abs(vector), [1, 2], keepdims=1), TINY))  # squares stay in float32
    unit: ir.Value = op.Div(vector, op.Max(op.ReduceL2(vector, [1, 2], keepdims=1), TINY))
    return unit
