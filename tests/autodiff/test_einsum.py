from __future__ import annotations

import pytest
import torch

from onnxcam.errors import AutodiffError

from .gradient_check import build, case, constant, differentiate, each, equals_central_difference, equals_torch

COLUMN = [[1.0], [2.0]]
SHAPES = [
    # matrix products, inner, outer and scaled ones
    ("ij,jk->ik", (3, 5), (5, 7)),
    ("ij,jk", (3, 5), (5, 7)),
    ("kj,ki->ij", (5, 3), (5, 7)),
    ("zA,Az", (3, 5), (5, 3)),
    ("ba,cb", (3, 5), (2, 3)),
    (" b i c , b j c -> b i j ", (2, 3, 5), (2, 7, 5)),
    ("i,i->", (5,), (5,)),
    ("i,j->ji", (3,), (5,)),
    ("ij,ij->ij", (3, 5), (3, 5)),
    (",ij->ij", (), (3, 5)),
    ("bhqd,bhkd->bhqk", (2, 3, 5, 4), (2, 3, 7, 4)),
    # one operand
    ("ijk->kij", (2, 3, 5)),
    ("ijk->j", (2, 3, 5)),
    ("ij->", (3, 5)),
    ("ij->ij", (3, 5)),
    ("ji", (3, 5)),
    # labels summed inside one operand
    ("ij,k->k", (3, 5), (7,)),
    ("aib,ic->ac", (2, 3, 5), (3, 7)),
    # three operands and more
    ("bi,bj,ijk->bk", (2, 3), (2, 5), (3, 5, 7)),
    ("i,j,k,il->jl", (2,), (3,), (5,), (2, 7)),
    # ellipses
    ("...ij,...jk->...ik", (4, 2, 3), (4, 3, 5)),
    ("...ij,...jk", (4, 2, 3), (4, 3, 5)),
    ("...ij,...jk->...ik", (1, 2, 3), (4, 3, 5)),
    ("...ij,...kj->...ik", (2, 1, 4, 5), (1, 3, 6, 5)),
    ("...ij,jk->...ik", (2, 4, 2, 3), (3, 5)),
    ("...ij,jk->...ik", (2, 3), (3, 5)),
    ("i...,j->j...i", (2, 3, 5), (7,)),
    ("i...j,...k->...ik", (2, 1, 5), (3, 7)),
    ("...i->...", (2, 3, 5)),
    ("...->...", (2, 3)),
    ("...,...->...", (3, 1), (1, 5)),
]


def _row(equation: str, *shapes: tuple[int, ...]):
    inputs = dict(zip("abcd", shapes, strict=False))
    spaceless = equation.replace(" ", "")
    return case(
        f'Einsum<equation="{equation}">({", ".join(inputs)})',
        torch=lambda *operands: torch.einsum(spaceless, *operands),
        **inputs,
    )


CASES = [
    *(_row(*row) for row in SHAPES),
    case('Einsum<equation="ij,jk->ik">(a, a)', a=(5, 5), torch=lambda a: a @ a),
    case(
        'Einsum<equation="ij,jk->ik">(a, b)',
        a=(3, 2),
        b=constant([[1.0], [2.0]]),
        torch=lambda a: a @ a.new([[1], [2]]),
    ),
    case('Einsum<equation="ii,ij->j">(a, b)', a=(3, 3), b=(3, 5), wrt=["b"], torch=lambda a, b: a.diagonal() @ b),
]


@each(CASES)
def test_gradient_equals_central_difference(row, setting):
    equals_central_difference(row, setting)


@each(CASES)
def test_gradient_equals_torch(row, setting):
    equals_torch(row, setting)


@pytest.mark.parametrize(
    ("row", "why"),
    [
        (_row("ii->i", (3, 3)), "label 'i' stands twice in 'ii'"),
        (_row("...i,i->", (2, 3), (3,)), "it sums over the ellipsis"),
        (_row("ij,kj->ik", (3, 5), (2, 1)), "label 'j' has the lengths 5 and 1"),
    ],
    ids=str,
)
def test_refuses_what_no_einsum_differentiates(row, why):
    with pytest.raises(AutodiffError, match=why):
        differentiate(build(row), row.wrt)
