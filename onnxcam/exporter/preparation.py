"""Any ONNX graph becomes one that can be differentiated: opset 18 or newer, constants known, ranks known."""

from __future__ import annotations

__all__ = ["prepare"]

from collections.abc import Sequence
from typing import Final

import onnx
import onnx_ir as ir
import onnx_ir.passes.common as passes
from onnxscript.version_converter import ConvertVersionPass

from onnxcam.autodiff.registry import describe
from onnxcam.errors import ModelSourceError
from onnxcam.exporter.logs import without_logs
from onnxcam.exporter.quantized import dequantize_operators
from onnxcam.exporter.sessions import foreign_nodes
from onnxcam.exporter.shapes import infer_shapes

OPSET = 18


def prepare(model: ir.Model, source: str, *, output: str | None = None) -> None:
    """Bring ``model``, in place, to where every later step can rely on it.

    Initializers are no inputs any more, constants are initializers, the model's own functions are inlined, the
    operator set is at least 18, operators on integers stand between quantisations, and values have a known rank.
    output: the one that is to be explained; any where None.

    Raises `ModelSourceError` naming all that stands against it: versions newer than the installed packages know,
    operators on the way to the output that ONNX Runtime does not have, nodes in training mode; or that the operator
    set cannot be brought up.
    """
    for imports in (model.opset_imports, *(function.opset_imports for function in model.functions.values())):
        if "ai.onnx" in imports:  # the standard's long name
            imports[""] = imports.pop("ai.onnx")
    problems = [*_newer_versions(model), *_foreign_operators(model, output), *_training_nodes(model)]
    if problems:
        raise ModelSourceError(f"'{source}' {'; and '.join(problems)}")
    passes.RemoveInitializersFromInputsPass()(model)
    if model.functions:
        passes.InlinePass()(model)
    passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    _bring_up(model, source)
    model.ir_version = max(model.ir_version or 8, 8)
    dequantize_operators(model)
    infer_shapes(model)


_NEWEST_IR: Final = int(onnx.IR_VERSION)
_SHOWN: Final = 8


def _newer_versions(model: ir.Model) -> list[str]:
    opset, newest = model.opset_imports.get("", 0), onnx.defs.onnx_opset_version()
    upgrade = "pip install --upgrade onnx onnxruntime"
    problems = []
    if opset > newest:
        problems.append(f"uses operator set {opset}, and onnx {onnx.__version__} knows up to {newest}: {upgrade}")
    if (model.ir_version or 0) > _NEWEST_IR:
        problems.append(
            f"has IR version {model.ir_version}, and onnx {onnx.__version__} knows up to {_NEWEST_IR}: {upgrade}"
        )
    return problems


def _foreign_operators(model: ir.Model, output: str | None) -> list[str]:
    """Operators that no output to be explained can do without and that ONNX Runtime does not have."""
    outputs = [y for y in model.graph.outputs if y.name == output] or list(model.graph.outputs)
    found = [foreign_nodes(model, [y]) for y in outputs]
    if not all(found):
        return []
    names = [describe(node) for node in dict.fromkeys(node for nodes in found for node in nodes)]
    return [f"uses operators that ONNX Runtime does not have: {_some(names)}"]


def _training_nodes(model: ir.Model) -> list[str]:
    """Nodes whose results are random, or depend on the rest of the batch."""
    training = []
    for node in model.graph.all_nodes():
        mode = node.inputs[2] if node.op_type == "Dropout" and len(node.inputs) > 2 else None
        known = ir.convenience.get_const_tensor(mode) if mode is not None else None
        if node.attributes.get_int("training_mode", 0) or (known is not None and known.numpy().any()):
            training.append(describe(node))
    if not training:
        return []
    return [f"was exported in training mode: {_some(training)}; export it in evaluation mode (model.eval() in PyTorch)"]


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _bring_up(model: ir.Model, source: str) -> None:
    opset = model.opset_imports.setdefault("", OPSET)  # there may be operators of other domains alone
    if opset >= OPSET:
        return
    with without_logs() as said:
        ConvertVersionPass(OPSET, fallback=True)(model)
    if model.graph.opset_imports.get("") != OPSET:
        raise ModelSourceError(
            f"'{source}' uses operator set {opset}, and onnx cannot convert it to {OPSET}"
            + (f": {said[-1][:300]}" if said else "")
        )
    passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
