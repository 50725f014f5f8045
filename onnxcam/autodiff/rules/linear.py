"""Rules of matrix products."""

from __future__ import annotations

__all__: list[str] = []

from collections.abc import Sequence

import onnx_ir as ir

from onnxcam.autodiff.registry import Adjoint, Site, rule, sum_to


@rule("Gemm", versions=(13,), inputs=(0, 1, 2))
def gemm(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    """Y = α A' B' + β C, so dA' = α dY B'ᵀ and dB' = α A'ᵀ dY; a transposed operand takes the transposed product."""
    a, b, c, (y,) = at.input(0), at.input(1), at.optional(2), at.y
    t_a, t_b = at.attribute("transA", 0), at.attribute("transB", 0)
    alpha, beta = at.attribute("alpha", 1.0), at.attribute("beta", 1.0)
    scaled = {} if alpha == 1 else {"alpha": alpha}

    def da() -> ir.Value:
        if t_a:
            return at.op.Gemm(b, dy, transA=t_b, transB=1, **scaled)  # type: ignore[no-any-return]
        return at.op.Gemm(dy, b, transB=1 - t_b, **scaled)  # type: ignore[no-any-return]

    def db() -> ir.Value:
        if t_b:
            return at.op.Gemm(dy, a, transA=1, transB=t_a, **scaled)  # type: ignore[no-any-return]
        return at.op.Gemm(a, dy, transA=1 - t_a, **scaled)  # type: ignore[no-any-return]

    def dc() -> ir.Value:
        assert c is not None
        dc = sum_to(at, dy, c, y)
        return dc if beta == 1 else at.op.Mul(dc, beta)

    return da, db, dc


@rule("MatMul", versions=(13,), inputs=(0, 1))
def matmul(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    """dA = dY Bᵀ and dB = Aᵀ dY, summed over the batch axes along which the operand was broadcast."""
    op, a, b, (y,) = at.op, at.input(0), at.input(1), at.y
    rank_a, rank_b = at.rank(a), at.rank(b)
    rank = max(rank_a, rank_b)
    if rank == 1:
        return lambda: op.Mul(dy, b), lambda: op.Mul(dy, a)
    if rank_a == 1:  # a row
        return (
            lambda: op.ReduceSum(op.Mul(op.Unsqueeze(dy, [-2]), b), [*range(rank - 2), rank - 1], keepdims=0),
            lambda: op.Mul(op.Unsqueeze(a, [-1]), op.Unsqueeze(dy, [-2])),
        )
    if rank_b == 1:  # a column
        return (
            lambda: op.Mul(op.Unsqueeze(dy, [-1]), b),
            lambda: op.ReduceSum(op.Mul(op.Unsqueeze(dy, [-1]), a), [*range(rank - 1)], keepdims=0),
        )
    if rank == 2:
        return lambda: op.Gemm(dy, b, transB=1), lambda: op.Gemm(a, dy, transA=1)

    def db() -> ir.Value:
        inner, outer = (None, None) if b.shape is None else b.shape[-2:]
        if rank_b == 2 and isinstance(inner, int) and isinstance(outer, int):  # one product over the whole batch
            rows = op.Reshape(a, [-1, inner])
            return op.Gemm(rows, op.Reshape(dy, [-1, outer]), transA=1)  # type: ignore[no-any-return]
        return sum_to(at, op.MatMul(_transposed(at, a), dy), b, y, matrix=True)

    return lambda: sum_to(at, op.MatMul(dy, _transposed(at, b)), a, y, matrix=True), db


def _transposed(at: Site, x: ir.Value) -> ir.Value:
    """``x`` with its last two axes swapped."""
    rank = at.rank(x)
    return at.op.Transpose(x, perm=[*range(rank - 2), rank - 1, rank - 2])  # type: ignore[no-any-return]
