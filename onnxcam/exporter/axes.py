"""Where the places are in a value: which axes are batch, channels, height and width.

Labels are carried forward from the pictures and from the operators whose axes are fixed (Conv, pools). An axis is a
row of atoms, each a label with its size: a Reshape regroups atoms, so height and width that were merged into tokens,
or split into windows (H rows of windows, h rows in a window), are still known as such. What no rule follows has no
label, and elementwise neighbours give it back.

Of a map of 28×28 places in windows of 7×7, for instance, where ``H 4·h 7`` is an axis of two atoms::

    N, H 28, W 28, C              Reshape
    N, H 4, h 7, W 4, w 7, C      Transpose: windows first
    N, H 4, W 4, h 7, w 7, C      Reshape, attention within each window, Reshape
    N, H 4, W 4, h 7, w 7, C      Transpose back
    N, H 4, h 7, W 4, w 7, C      Reshape: H 4·h 7 is H 28 again
    N, H 28, W 28, C
"""

from __future__ import annotations

__all__ = ["find_layouts"]

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import onnx_ir as ir

from onnxcam.exporter.layout import Layout

Atom = tuple[str | None, int | None]
"""N, C, D, H, W, or h and w within a window, or None; and its size, where it is known."""
Axis = tuple[Atom, ...]
Axes = tuple[Axis, ...]

_UNKNOWN: Final[Axis] = ((None, None),)
_TOKENS: Final = "T"
"""The label of merged height and width to which tokens without a place were joined."""

_CHANNELS_SECOND = frozenset(
    {"Conv", "ConvTranspose", "MaxPool", "AveragePool", "LpPool", "GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool",
     "LRN", "DepthToSpace", "SpaceToDepth", "InstanceNormalization", "FusedConv", "MaxUnpool", "GridSample"}
)  # fmt: skip


def find_layouts(graph: ir.Graph) -> dict[ir.Value, Layout]:
    """The layout of every value of ``graph`` that has one, and more than one place."""
    axes: dict[ir.Value, Axes] = {}
    grids: list[tuple[int, int]] = []
    for x in graph.inputs:
        if (found := _of_input(x)) is not None:
            axes[x] = found
    for node in graph:
        follow = _FOLLOW.get(node.op_type, _elementwise)
        if node.op_type in _CHANNELS_SECOND:
            follow = _channels_second
        for y in node.outputs:
            if y.shape is None:
                continue
            found = follow(node, y, axes, grids)
            if found is not None and len(found) == len(y.shape):
                axes[y] = found
                if (grid := _grid(found)) is not None and (not grids or grids[-1] != grid):
                    grids.append(grid)
    layouts = {}
    for value, found in axes.items():
        if (layout := _layout(value, found, grids)) is not None:
            layouts[value] = layout
    return layouts


def _layout(value: ir.Value, axes: Axes, grids: Sequence[tuple[int, int]]) -> Layout | None:
    labels = ["".join(label or "?" for label, _ in axis) for axis in axes]
    if labels == ["N", "C", "H", "W"]:
        return Layout("NCHW") if _extent(axes[2] + axes[3]) else None
    if labels == ["N", "C", "D", "H", "W"]:
        return Layout("NCDHW") if _extent(axes[2] + axes[3] + axes[4]) else None
    if labels == ["N", "H", "W", "C"]:
        return Layout("NHWC") if _extent(axes[1] + axes[2]) else None
    if labels == ["N", "HW", "C"]:
        (_, height), (_, width) = axes[1]
        if height is None or width is None or height * width == 1:
            return None
        return Layout("tokens", 0, (height, width))
    if labels == ["N", _TOKENS, "C"]:
        ((_, tokens),) = axes[1]
        grid = _grid_within(tokens, grids)
        return Layout("tokens", (tokens or 0) - math.prod(grid), grid) if grid else None
    return None


def _extent(places: Axis) -> bool:
    return any(size != 1 for _, size in places)


def _grid(axes: Axes) -> tuple[int, int] | None:
    """Height and width, where both are known and follow one another."""
    flat = [atom for axis in axes for atom in axis]
    for (a, height), (b, width) in itertools.pairwise(flat):
        if a == "H" and b == "W" and height is not None and width is not None:
            return height, width
    return None


_MOST_EXTRA: Final = 16
"""The most tokens without a place: class, distillation and register tokens are a few."""


def _grid_within(tokens: int | None, grids: Sequence[tuple[int, int]]) -> tuple[int, int] | None:
    """The latest grid that, with a few extra tokens, has ``tokens`` places."""
    fit = [g for g in grids if tokens is not None and 0 <= tokens - math.prod(g) <= _MOST_EXTRA and math.prod(g) > 1]
    return fit[-1] if fit else None


Follow = Callable[[ir.Node, ir.Value, Mapping[ir.Value, Axes], Sequence[tuple[int, int]]], "Axes | None"]


def _size(value: ir.Value, axis: int) -> int | None:
    dim = None if value.shape is None else value.shape[axis]
    return dim if isinstance(dim, int) else None


def _labelled(value: ir.Value, labels: Sequence[str | None]) -> Axes:
    return tuple(((label, _size(value, axis)),) for axis, label in enumerate(labels))


def _of_input(x: ir.Value) -> Axes | None:
    """A picture: [N, C, H, W], or [N, H, W, C] where only that puts few channels last; a volume: [N, C, D, H, W]."""
    if x.shape is None or len(x.shape) not in (4, 5) or x.is_initializer():
        return None
    if len(x.shape) == 5:
        return _labelled(x, "NCDHW")
    last = _few(_size(x, 3)) and not _few(_size(x, 1))
    return _labelled(x, "NHWC" if last else "NCHW")


def _few(size: int | None) -> bool:
    return size is not None and size <= 4


def _channels_second(node: ir.Node, y: ir.Value, axes: Mapping[ir.Value, Axes], _: object) -> Axes | None:
    assert y.shape is not None
    rank = len(y.shape)
    if rank in (4, 5):
        return _labelled(y, "NCHW" if rank == 4 else "NCDHW")
    before = axes.get(node.inputs[0]) if node.inputs[0] is not None else None
    if rank == 3 and before is not None and len(before) == 3 and _size(y, 2) == _count(before[2]):
        return (*_labelled(y, "NC?")[:2], before[2])
    return None


def _count(axis: Axis) -> int | None:
    sizes = [size for _, size in axis]
    return None if None in sizes else math.prod(size or 0 for size in sizes)


def _transpose(node: ir.Node, y: ir.Value, axes: Mapping[ir.Value, Axes], _: object) -> Axes | None:
    before = _first(node, axes)
    if before is None:
        return None
    perm = node.attributes.get_ints("perm", tuple(reversed(range(len(before)))))
    return tuple(before[axis] for axis in perm)


def _first(node: ir.Node, axes: Mapping[ir.Value, Axes]) -> Axes | None:
    return axes.get(node.inputs[0]) if node.inputs and node.inputs[0] is not None else None


def _reshape(node: ir.Node, y: ir.Value, axes: Mapping[ir.Value, Axes], _: object) -> Axes | None:
    """Regroup the atoms by the new sizes, from the last axis on; what is left over belongs to the first axis."""
    before = _first(node, axes)
    if before is None or y.shape is None:
        return None
    atoms = [atom for axis in before for atom in axis if atom[1] != 1 or atom[0] == "N"]
    found: list[Axis] = []
    for axis in reversed(range(len(y.shape))):
        size = _size(y, axis)
        if axis == 0:
            found.append(tuple(atoms) or _UNKNOWN)
            break
        if size == 1:
            found.append(())
            continue
        taken: list[Atom] = []
        while atoms and atoms[-1][1] is not None and size is not None and math.prod(n or 0 for _, n in taken) < size:
            if atoms[-1][0] == "N":
                break
            taken.insert(0, atoms.pop())
        product = math.prod(n or 0 for _, n in taken)
        if size is None and atoms:  # dynamic: one atom of unknown size
            if atoms[-1][1] is not None:
                return None
            found.append((atoms.pop(),))
        elif product == size:
            found.append(tuple(taken))
        elif len(taken) == 1 and size is not None and product % size == 0:  # an atom is split
            label = taken[0][0]
            whole = label if label in ("H", "W") else None
            atoms.append((whole, product // size))
            found.append(((whole and whole.lower(), size),))
        else:
            return None
    return tuple(_joined(axis) for axis in reversed(found))


def _joined(axis: Axis) -> Axis:
    """``axis`` with windows put together again (H of rows h), and places that were moved into the channels as such."""
    labels = {label for label, _ in axis}
    if "C" in labels and labels <= {"C", "h", "w"}:
        return (("C", _count(axis)),)
    atoms: list[Atom] = []
    for label, size in axis:
        before, rows = atoms[-1] if atoms else (None, None)
        if before in ("H", "W") and label == before.lower() and rows is not None and size is not None:
            atoms[-1] = (before, rows * size)
        else:
            atoms.append((label, size))
    return tuple(atoms)


def _elementwise(node: ir.Node, y: ir.Value, axes: Mapping[ir.Value, Axes], _: object) -> Axes | None:
    """Axes keep their labels, and an axis that was not broadcast gives its label to the result."""
    assert y.shape is not None
    rank = len(y.shape)
    known = [axes[x] for x in node.inputs if x is not None and x in axes and len(axes[x]) <= rank]
    if not known:
        return None
    found: list[Axis] = []
    for axis in range(rank):
        size = _size(y, axis)
        candidates = [a[axis - rank] for a in known if rank - axis <= len(a)]
        fit = [c for c in candidates if c and (_count(c) == size or _count(c) is None) and None not in dict(c)]
        if fit:
            found.append(fit[0])
        elif candidates and len(candidates[0]) == 1 and candidates[0][0][0] is not None:
            found.append(((candidates[0][0][0], size),))  # cut, padded or resized along the axis
        else:
            found.append(((None, size),))
    return tuple(found)


def _product(node: ir.Node, y: ir.Value, axes: Mapping[ir.Value, Axes], _: object) -> Axes | None:
    """MatMul and Gemm: rows from the left operand; a constant right operand makes channels."""
    assert y.shape is not None
    left, right = (axes.get(x) if x is not None else None for x in node.inputs[:2])
    rank = len(y.shape)
    if left is not None and len(left) == rank:
        last: Axis = (("C", _size(y, rank - 1)),) if right is None else right[-1]
        return (*left[:-1], last)
    if left is None and right is not None and len(right) == rank and rank > 2:  # a constant mixes the rows
        rows = right[-2] if _count(right[-2]) == _size(y, rank - 2) else (((None, _size(y, rank - 2)),))
        return (*right[:-2], rows, right[-1])
    return None


def _reduce(node: ir.Node, y: ir.Value, axes: Mapping[ir.Value, Axes], grids: Sequence[tuple[int, int]]) -> Axes | None:
    before = _first(node, axes)
    if before is None or y.shape is None:
        return None
    if len(y.shape) == len(before):
        return _elementwise(node, y, axes, grids)
    given = ir.convenience.get_const_tensor(node.inputs[1]) if len(node.inputs) > 1 and node.inputs[1] else None
    gone = given.numpy().reshape(-1).tolist() if given is not None else node.attributes.get_ints("axes", ())
    gone = {axis % len(before) for axis in gone}
    return tuple(axis for i, axis in enumerate(before) if i not in gone)


def _gather(node: ir.Node, y: ir.Value, axes: Mapping[ir.Value, Axes], grids: Sequence[tuple[int, int]]) -> Axes | None:
    before = _first(node, axes)
    if before is None or y.shape is None:
        return None
    along = node.attributes.get_int("axis", 0) % len(before)
    if len(y.shape) == len(before) - 1:
        return (*before[:along], *before[along + 1 :])
    return _elementwise(node, y, axes, grids)


def _along(node: ir.Node, y: ir.Value, axes: Mapping[ir.Value, Axes], grids: Sequence[tuple[int, int]]) -> Axes | None:
    """Concat, Split and Slice: tokens without a place join merged height and width, or leave them."""
    found = _elementwise(node, y, axes, grids)
    labelled = [axes[x] for x in node.inputs if x is not None and x in axes and len(axes[x]) == len(found or ())]
    if found is None or not labelled:
        return found
    result = list(found)
    for axis, size in enumerate(_size(y, i) for i in range(len(found))):
        tokens = [a[axis] for a in labelled if [label for label, _ in a[axis]] in (["H", "W"], [_TOKENS])]
        if not tokens or size is None or any(_count(t) == size for t in tokens):
            continue
        grid = _grid_within(size, grids)
        if grid is None:
            result[axis] = ((None, size),)
        elif math.prod(grid) == size:
            result[axis] = (("H", grid[0]), ("W", grid[1]))
        else:
            result[axis] = ((_TOKENS, size),)
    return tuple(result)


_FOLLOW: Final[dict[str, Follow]] = {
    "Transpose": _transpose,
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze"), _reshape),
    **dict.fromkeys(("MatMul", "Gemm", "FusedMatMul", "FusedGemm"), _product),
    **dict.fromkeys(("ReduceMean", "ReduceSum", "ReduceMax", "ReduceL2"), _reduce),
    **dict.fromkeys(("Concat", "Split", "Slice"), _along),
    "Gather": _gather,
}
