"""The rule of Einsum."""

from __future__ import annotations

__all__: list[str] = []

import functools
from collections import Counter
from collections.abc import Sequence

import onnx_ir as ir

from onnxcam.autodiff.registry import ALL, Adjoint, Site, rule, sum_to

_DOT = "."
_ELLIPSIS = 3 * _DOT

Dim = int | ir.SymbolicDim


@rule("Einsum", versions=(12, 28), inputs=ALL)
def einsum(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    """The adjoint of an operand is an Einsum with the output and the operand swapped in the equation.

    What only this operand has was summed inside it, and is repeated; what only the others broadcast is summed.
    """
    *terms, output = _terms(at.attribute("equation", ""))
    return [functools.partial(_operand, at, dy, terms, output, index) for index in range(len(terms))]


def _terms(equation: str) -> list[str]:
    """The terms of the operands and, last, of the output: where it is implied, the labels that stand once, sorted."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    if not arrow:
        labels = Counter(left.replace(_ELLIPSIS, "").replace(",", ""))
        once = sorted(label for label, count in labels.items() if count == 1)
        right = (_ELLIPSIS if _ELLIPSIS in left else "") + "".join(once)
    return [*left.split(","), right]


def _operand(at: Site, dy: ir.Value, terms: Sequence[str], output: str, index: int) -> ir.Value:
    """The adjoint of operand ``index``."""
    _check(at, terms, output, index)
    op, x, term, (y,) = at.op, at.input(index), terms[index], at.y
    others = [i for i in range(len(terms)) if i != index]
    elsewhere = {*output, *(label for i in others for label in terms[i])}
    labels = [label for label, _ in _axes(at, term, x)]
    only_others_broadcast = _ELLIPSIS in output and _ELLIPSIS not in term

    shared = "".join(label for label in term if label in elsewhere)
    dx = dy
    if others or shared != output:
        left = ",".join([output, *(terms[i] for i in others)])
        right = _ELLIPSIS + shared if only_others_broadcast else shared
        dx = op.Einsum(dy, *(at.input(i) for i in others), equation=f"{left}->{right}")
    if only_others_broadcast and (lead := [label for label, _ in _axes(at, output, y)].count(_DOT)):
        dx = op.ReduceSum(dx, list(range(lead)), keepdims=0)
    summed = [axis for axis, label in enumerate(labels) if label not in elsewhere]
    if summed:
        dx = op.Unsqueeze(dx, summed)
    if _DOT in labels:
        dx = sum_to(at, dx, x, ir.Value(shape=_stretched(at, terms, index)))
    return op.Expand(dx, at.shape(x)) if summed else dx


def _axes(at: Site, term: str, value: ir.Value) -> list[tuple[str, Dim]]:
    """The label and the length of each axis of ``value``; the label is a dot for an axis of the ellipsis."""
    stretch = at.rank(value) - len(term.replace(_ELLIPSIS, ""))
    return list(zip(term.replace(_ELLIPSIS, _DOT * stretch), value.shape or (), strict=True))


def _stretched(at: Site, terms: Sequence[str], index: int) -> ir.Shape:
    """The shape of operand ``index`` with its ellipsis as long as the longest.

    From the operands: onnx 1.23 infers the output's shape from the first of them where a length is unknown.
    """
    operands = [_axes(at, term, at.input(i)) for i, term in enumerate(terms)]
    ellipses = [[dim for label, dim in axes if label == _DOT] for axes in operands]
    lengths = zip(*(dims for dims in ellipses if dims), strict=True)
    return ir.Shape(_longest(dim, next(lengths)) if label == _DOT else dim for label, dim in operands[index])


def _longest(own: Dim, dims: Sequence[Dim]) -> Dim:
    """``own`` where none of ``dims`` may be longer, else unknown."""
    return own if all(dim in (1, own) for dim in dims) else ir.SymbolicDim(None)


def _check(at: Site, terms: Sequence[str], output: str, index: int) -> None:
    """Refuse equations whose adjoint is no Einsum."""
    labels = Counter(terms[index].replace(_ELLIPSIS, ""))
    if twice := [label for label, count in labels.items() if count > 1]:
        raise at.unsupported(
            f"label '{twice[0]}' stands twice in '{terms[index]}', which takes a diagonal: "
            "multiply by an identity matrix and sum instead"
        )
    if _ELLIPSIS in "".join(terms) and _ELLIPSIS not in output:
        raise at.unsupported("it sums over the ellipsis: name its axes in the equation")
    lengths: dict[str, int] = {}
    for i, term in enumerate(terms):
        for label, dim in _axes(at, term, at.input(i)):
            known = lengths.setdefault(label, dim) if label != _DOT and isinstance(dim, int) else dim
            if known != dim:
                raise at.unsupported(f"label '{label}' has the lengths {known} and {dim}: only '...' broadcasts")
