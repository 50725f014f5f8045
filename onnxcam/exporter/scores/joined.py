"""What a detector's output is joined of: sides, and the classes or the number of one."""

from __future__ import annotations

__all__ = ["before_joining", "refuse_chosen"]

import onnx_ir as ir

from onnxcam.errors import ExportError
from onnxcam.exporter.layers import behind_identity
from onnxcam.exporter.scores.table import skip


def refuse_chosen(table: ir.Value) -> None:
    """Raise `ExportError` where ``table`` holds numbers of classes, behind the choice of boxes that is in the graph."""
    for part in _parts(*_unmoved(table, 2)):
        node = skip(part).producer()
        if node is not None and node.op_type == "Cast" and _counts(node.inputs[0]):
            raise ExportError(
                f"the output '{table.name}' has one score and the number of its class for each box, and no scores of "
                "the classes: export the detector without the choice of boxes behind it (nms=False, end2end=False)"
            )


def before_joining(table: ir.Value, axis: int, classes: int) -> tuple[ir.Value, int] | None:
    """The scores of ``classes`` that went through a sigmoid, and behind other numbers along ``axis``, into ``table``.

    With the axis along which they lie there. None where it was made otherwise.
    """
    parts = _parts(*(joined := _unmoved(table, axis)))
    if not parts:
        return None
    value, axis = _unmoved(parts[-1], joined[1])
    node = value.producer()
    if node is None or node.op_type != "Sigmoid" or node.domain or node.inputs[0] is None:
        return None
    x = node.inputs[0]
    if x.shape is None:
        x.shape = value.shape
    return (x, axis) if x.shape is not None and len(x.shape) == 3 and x.shape[axis] == classes else None


def _unmoved(value: ir.Value, axis: int) -> tuple[ir.Value, int]:
    """What ``value`` is with boxes and numbers exchanged, any number of times, and which axis ``axis`` is there."""
    while (node := (value := behind_identity(value)).producer()) is not None and node.op_type == "Transpose":
        perm, x = node.attributes.get_ints("perm"), node.inputs[0]
        if x is None or perm is None or list(perm) not in ([0, 1, 2], [0, 2, 1]):
            break
        value, axis = x, perm[axis]
    return value, axis


def _parts(value: ir.Value, axis: int) -> list[ir.Value]:
    """What was joined along ``axis`` into ``value`` [N, …, …]; nothing where it was made otherwise."""
    node = value.producer()
    if node is None or node.op_type != "Concat" or node.attributes.get_int("axis", 0) % 3 != axis:
        return []
    return [x for x in node.inputs if x is not None]


def _counts(x: ir.Value | None) -> bool:
    return x is not None and x.dtype is not None and x.dtype.is_integer()
