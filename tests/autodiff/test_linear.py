from __future__ import annotations

import itertools

import torch

from .gradient_check import case, constant, each, equals_central_difference, equals_torch

WEIGHT = [[1.0, -2.0]] * 7


def _gemm(t_a: int, t_b: int, alpha: float = 1.0, beta: float = 1.0):
    def gemm(a, b, c=None):
        y = alpha * (a.T if t_a else a) @ (b.T if t_b else b)
        return y if c is None else y + beta * c

    return gemm


CASES = [
    *(
        case(
            f"Gemm<transA={t_a}, transB={t_b}, alpha=0.75, beta=-1.5>(a, b, c)",
            a=(7, 3) if t_a else (3, 7),
            b=(5, 7) if t_b else (7, 5),
            c=(5,),
            torch=_gemm(t_a, t_b, 0.75, -1.5),
        )
        for t_a, t_b in itertools.product((0, 1), (0, 1))
    ),
    case("Gemm(a, b)", a=(3, 7), b=(7, 5), torch=_gemm(0, 0)),
    case("Gemm<transB=1>(a, b, c)", a=(3, 1), b=(5, 1), c=(3, 5), torch=_gemm(0, 1)),
    case("Gemm<transB=1, beta=0.0>(a, b, c)", a=(3, 7), b=(5, 7), c=(3, 5), torch=_gemm(0, 1, 1.0, 0.0)),
    case("Gemm(a, b, c)", a=(3, 7), b=(7, 5), c=(3, 1), torch=_gemm(0, 0)),
    case("Gemm(a, b, c)", a=(3, 7), b=(7, 5), c=(1, 5), torch=_gemm(0, 0)),
    case("Gemm(a, b, c)", a=(3, 7), b=(7, 5), c=(), torch=_gemm(0, 0)),
    case("Gemm(a, a, c)", a=(5, 5), c=(5,), torch=lambda a, c: a @ a + c),
    *(
        case("MatMul(a, b)", a=a, b=b, torch=torch.matmul)
        for a, b in [
            ((7,), (7,)),
            ((7,), (7, 5)),
            ((3, 7), (7,)),
            ((3, 7), (7, 5)),
            ((7,), (2, 3, 7, 5)),
            ((2, 3, 5, 7), (7,)),
            ((2, 3, 7), (7, 5)),
            ((3, 7), (2, 7, 5)),
            ((2, 3, 7), (2, 7, 5)),
            ((2, 1, 3, 7), (4, 7, 5)),
            ((4, 3, 7), (2, 1, 7, 5)),
            ((1, 3, 1), (4, 1, 5)),
            ((2, 4, 1, 7), (2, 4, 7, 1)),
        ]
    ),
    case("MatMul(a, b)", a=(2, 3, 7), b=(7, 5), static=["b"], torch=torch.matmul),
    case("MatMul(a, b)", a=(2, 3, 7), b=constant(WEIGHT), torch=lambda a: a @ torch.tensor(WEIGHT)),
]


@each(CASES)
def test_gradient_equals_central_difference(row, setting):
    equals_central_difference(row, setting)


@each(CASES)
def test_gradient_equals_torch(row, setting):
    equals_torch(row, setting)
