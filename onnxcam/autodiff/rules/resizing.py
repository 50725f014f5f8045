"""The rule of Resize."""

from __future__ import annotations

__all__: list[str] = []

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import onnx_ir as ir

from onnxcam.autodiff.registry import Adjoint, Site, rule
from onnxcam.autodiff.rules.movement import identity, length, narrowed, summed_blocks

_OF_ALL_AXES: Final = frozenset({"axes", "keep_aspect_ratio_policy"})
"""The attributes that speak of several axes at once."""

_Operand = ir.Value | list[int] | list[float]


@rule("Resize", versions=(13, 18, 19))
def resize(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    """y = R_h x R_w, so dx = R_hᵀ dy R_w. The node itself, run on an identity matrix, gives each R."""

    def dx() -> ir.Value:
        along = _resized(at)
        factors = {one.axis: _whole_factor(at, one) for one in along}
        if all(factors.values()):
            return summed_blocks(at, dy, at.input(0), {a: f for a, f in factors.items() if f}, whole=False)
        found = dy
        for one in sorted(along, key=lambda one: one.growth(at), reverse=True):  # what shrinks most comes first
            found = _times(at, found, one.axis, _weights(at, one, along))
        return found

    return (dx,)


@dataclass(frozen=True, slots=True)
class _Along:
    """One resized axis: the ``index``-th of those that scales, sizes and roi speak of."""

    axis: int
    index: int

    def growth(self, at: Site) -> float:
        """How many times longer y is than x; 1 where that is not known when the graph is built."""
        return (length(at.y[0], self.axis) or 1) / (length(at.input(0), self.axis) or 1) if _known(at, self) else 1.0


def _known(at: Site, one: _Along) -> bool:
    return length(at.input(0), one.axis) is not None and length(at.y[0], one.axis) is not None


def _named(at: Site) -> list[_Along]:
    rank = at.rank(at.input(0))
    axes = at.attribute("axes", None)
    return [_Along(axis, index) for index, axis in enumerate(at.axes(range(rank) if axes is None else axes, rank))]


def _crops(at: Site) -> bool:
    return at.attribute("coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize"  # type: ignore[no-any-return]


def _stretches(at: Site) -> bool:
    """Whether each axis is resized by itself; else all of them have the smallest or the largest scale."""
    return _scales(at) is not None or at.attribute("keep_aspect_ratio_policy", "stretch") == "stretch"


def _scales(at: Site) -> ir.Value | None:
    """The scales; None where sizes are given in their place."""
    scales = at.optional(2)
    return None if scales is None or at.constant(scales) == [] or list(scales.shape or [1]) == [0] else scales


def _resized(at: Site) -> list[_Along]:
    """The axes along which y may differ from x."""
    named = _named(at)
    return [one for one in named if not _is_whole(at, one, len(named)) or not _is_as_it_was(at, one)]


def _is_whole(at: Site, one: _Along, count: int) -> bool:
    """Whether nothing is cut off along the axis."""
    if not _crops(at):
        return True
    roi = at.constant(at.optional(1))
    return roi is not None and (roi[one.index], roi[one.index + count]) == (0.0, 1.0)


def _is_as_it_was(at: Site, one: _Along) -> bool:
    scales = _scales(at)
    if scales is not None:
        known = at.constant(scales)
        return known is not None and known[one.index] == 1.0
    if not _stretches(at):
        return False
    x, (y, *_) = at.input(0), at.y
    if x.shape is None or y.shape is None:
        return False
    before, after = x.shape[one.axis], y.shape[one.axis]
    known = isinstance(before, int) or before.value is not None  # two unknown sizes compare equal
    return known and before == after


def _whole_factor(at: Site, one: _Along) -> int | None:
    """k where the nearest element of x is exactly that of the index over k, else None."""
    if at.attribute("mode", "nearest") != "nearest" or not _stretches(at):
        return None
    coordinates = at.attribute("coordinate_transformation_mode", "half_pixel")
    nearest = at.attribute("nearest_mode", "round_prefer_floor")
    if (coordinates, nearest) != ("asymmetric", "floor") and not (
        coordinates in ("half_pixel", "pytorch_half_pixel", "half_pixel_symmetric") and nearest.startswith("round")
    ):
        return None
    scales = at.constant(_scales(at))
    if scales is not None:
        factor = scales[one.index]
    elif _scales(at) is None and _known(at, one):
        factor = one.growth(at)
    else:
        return None
    return int(factor) if factor >= 1 and factor == int(factor) else None


def _weights(at: Site, one: _Along, along: Sequence[_Along]) -> ir.Value:
    """R, [out, in]: what each element of y takes of each element of x along an axis."""
    op, x = at.op, at.input(0)
    attributes = {name: attribute.value for name, attribute in at.node.attributes.items() if name not in _OF_ALL_AXES}
    if _crops(at):
        attributes["extrapolation_value"] = 0.0  # the linear part
    size = _size(at, x, one.axis)
    square = identity(at, op.Concat(size, size, axis=0) if isinstance(size, ir.Value) else size * 2, x)
    if not _stretches(at) and len(along) > 1:
        found = _weights_of_kept_aspect(at, one, along, square, attributes)
    else:
        roi = scales = sizes = None
        if _crops(at):
            begin, end = (_element(at, at.input(1), one.index + k * len(_named(at))) for k in (0, 1))
            roi = _joined(at, [[0.0, 0.0], begin, [0.0, 1.0, 1.0], end, [1.0]])
        given = _scales(at)
        if given is None:
            sizes = _joined(at, [[1, 1], _element(at, at.input(3), one.index), size])
        else:
            scales = _joined(at, [[1.0, 1.0], _element(at, given, one.index), [1.0]])
        found = op.Resize(op.Unsqueeze(square, [0, 1]), roi, scales, sizes, **attributes)
        found = op.Squeeze(found, [0, 1])
    return narrowed(at, found, x)


def _weights_of_kept_aspect(
    at: Site, one: _Along, along: Sequence[_Along], square: ir.Value, attributes: dict[str, Any]
) -> ir.Value:
    """The scale of one axis depends on the other: pictures of one lit row each are resized, and a column is taken."""
    op = at.op
    if len(along) != 2 or _crops(at):
        raise at.unsupported("keep_aspect_ratio_policy is covered for two axes: name them in the attribute axes")
    (other,) = (two for two in along if two != one)
    across = _size(at, at.input(0), other.axis)
    rows = op.Expand(op.Unsqueeze(square, [0, 3]), _joined(at, [[1, 1, 1], across]))
    sizes = _joined(at, [_element(at, at.input(3), two.index) for two in (one, other)])
    policy = at.attribute("keep_aspect_ratio_policy", "stretch")
    resized = op.Resize(rows, None, None, sizes, axes=[2, 3], keep_aspect_ratio_policy=policy, **attributes)
    column = op.Squeeze(op.Slice(resized, [0], [1], [3]), [0, 3])
    return op.Transpose(column, perm=[1, 0])  # type: ignore[no-any-return]


def _size(at: Site, value: ir.Value, axis: int) -> ir.Value | list[int]:
    """The length along an axis, as a list of one."""
    known = length(value, axis)
    found: ir.Value | list[int] = at.op.Shape(value, start=axis, end=axis + 1) if known is None else [known]
    return found


def _element(at: Site, values: ir.Value, index: int) -> _Operand:
    """One element of a vector, as a list of one."""
    known = at.constant(values)
    return at.op.Slice(values, [index], [index + 1]) if known is None else [known[index]]


def _joined(at: Site, pieces: Sequence[_Operand]) -> _Operand:
    """The pieces one after another; a list where all of them are."""
    if all(isinstance(piece, list) for piece in pieces):
        return [element for piece in pieces if isinstance(piece, list) for element in piece]
    found: ir.Value = at.op.Concat(*pieces, axis=0)
    return found


def _times(at: Site, value: ir.Value, axis: int, weights: ir.Value) -> ir.Value:
    """``value`` times the matrix ``weights`` along an axis."""
    rank = at.rank(at.input(0))
    found: ir.Value
    if axis == rank - 2:
        found = at.op.MatMul(at.op.Transpose(weights, perm=[1, 0]), value)
        return found
    order = list(range(rank))
    order[axis], order[-1] = order[-1], order[axis]
    if axis < rank - 1:
        value = at.op.Transpose(value, perm=order)
    found = at.op.MatMul(value, weights)
    return at.op.Transpose(found, perm=order) if axis < rank - 1 else found
