"""Which of a model's outputs is explained."""

from __future__ import annotations

__all__ = ["class_output", "is_table", "only_output"]

from collections.abc import Callable

import onnx_ir as ir

from onnxcam.errors import ExportError, nearest_names


def class_output(graph: ir.Graph, name: str | None = None) -> ir.Value:
    """The output called ``name``, or the only one that can be class scores [N, classes]. Raises `ExportError`."""
    return only_output(graph, name, is_table, "the class scores")


def only_output(graph: ir.Graph, name: str | None, fits: Callable[[ir.Value], bool], what: str) -> ir.Value:
    """The output called ``name``, or the only one that ``fits``, or else the first. Raises `ExportError`."""
    if name is not None:
        for y in graph.outputs:
            if y.name == name:
                return y
        known = [y.name or "" for y in graph.outputs]
        raise ExportError(f"the model has no output '{name}'; {nearest_names(name, known) or f'it has {known}'}")
    fit = [y for y in graph.outputs if fits(y)]
    if len(fit) > 1:
        names = ", ".join(f"'{y.name}'" for y in fit)
        raise ExportError(f"several outputs may be {what}, {names}: choose one with --output")
    return fit[0] if fit else graph.outputs[0]


def is_table(y: ir.Value) -> bool:
    """Whether ``y`` may be [N, classes], where axes of length 1 may follow."""
    shape = y.shape
    return (
        shape is not None
        and len(shape) >= 2
        and isinstance(shape[1], int)
        and all(dim == 1 for dim in shape[2:])
        and (y.dtype is None or y.dtype.is_floating_point())
    )
