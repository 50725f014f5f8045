"""Any ONNX graph becomes one that can be differentiated: opset 18 or newer, constants known, ranks known."""

from __future__ import annotations

__all__ = ["RUNTIME_ERRORS", "cpu_session", "prepare", "start_session"]

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import onnx
import onnx_ir as ir
import onnx_ir.passes.common as passes
import onnxruntime as ort
from onnxscript.version_converter import ConvertVersionPass

from onnxcam.errors import ModelSourceError
from onnxcam.exporter.sample import picture_input, sample_feed

OPSET = 18
RUNTIME_ERRORS = (
    ort.capi.onnxruntime_pybind11_state.Fail,
    ort.capi.onnxruntime_pybind11_state.InvalidArgument,
    ort.capi.onnxruntime_pybind11_state.InvalidGraph,
    ort.capi.onnxruntime_pybind11_state.InvalidProtobuf,
    ort.capi.onnxruntime_pybind11_state.NoSuchFile,
    ort.capi.onnxruntime_pybind11_state.NotImplemented,
    ort.capi.onnxruntime_pybind11_state.RuntimeException,
)
"""What ONNX Runtime raises where it cannot load or run a graph."""


def prepare(model: ir.Model, source: str) -> None:
    """Bring ``model``, in place, to where every later step can rely on it.

    Initializers are no inputs any more, constants are initializers, the model's own functions are inlined, the
    operator set is at least 18, and every value on the way to the outputs has a known rank.
    Raises `ModelSourceError` where the operator set cannot be brought up, or is newer than onnx knows.
    """
    passes.RemoveInitializersFromInputsPass()(model)
    passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    if model.functions:
        passes.InlinePass()(model)
    _bring_up(model, source)
    model.ir_version = max(model.ir_version or 8, 8)
    with _quiet():
        passes.ShapeInferencePass()(model)
    _complete_ranks(model)


def cpu_session(model: ir.Model) -> ort.InferenceSession:
    """``model`` in ONNX Runtime on the CPU, with threads that do not spin: others work in this process."""
    return start_session(ir.to_proto(model).SerializeToString(), folder=_weights_folder(model))


def start_session(model: bytes | str, *, folder: str | None = None) -> ort.InferenceSession:
    """The same of a serialised model, whose external data are in ``folder``, or of a file."""
    options = ort.SessionOptions()
    options.enable_cpu_mem_arena = options.enable_mem_pattern = False  # a few runs: what is free goes back at once
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED  # no weights in other layouts
    options.add_session_config_entry("session.disable_prepacking", "1")
    if folder is not None:
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", folder)
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _weights_folder(model: ir.Model) -> str | None:
    """Where the external data of ``model`` are."""
    tensors = (value.const_value for graph in model.graphs() for value in graph.initializers.values())
    return next((str(tensor.base_dir) for tensor in tensors if isinstance(tensor, ir.ExternalTensor)), None)


def _bring_up(model: ir.Model, source: str) -> None:
    opset = model.graph.opset_imports.get("", model.graph.opset_imports.get("ai.onnx", 0))
    newest = onnx.defs.onnx_opset_version()
    if opset > newest:
        raise ModelSourceError(
            f"'{source}' uses operator set {opset}, and the installed onnx {onnx.__version__} knows up to {newest}: "
            "pip install --upgrade onnx"
        )
    if opset >= OPSET:
        return
    with _quiet() as said:
        ConvertVersionPass(OPSET, fallback=True)(model)
    if model.graph.opset_imports.get("") != OPSET:
        raise ModelSourceError(
            f"'{source}' uses operator set {opset}, and onnx cannot convert it to {OPSET}: {said[-1] if said else ''}"
        )
    passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)


def _complete_ranks(model: ir.Model) -> None:
    """Give the values that shape inference says nothing of the type and rank they have when the model runs.

    Operators outside the standard are such; so are shapes that depend on values. Sizes are taken over where every
    input's are fixed.
    """
    graph = model.graph
    unknown = [y for node in graph for y in node.outputs if y.name and (y.shape is None or y.dtype is None)]
    if not unknown:
        return
    free = [x for x in graph.inputs if not x.is_initializer()]
    if any(x.shape is None or x.dtype is None for x in free):
        return
    fixed = all(isinstance(dim, int) for x in free for dim in x.shape or ())
    proto = ir.to_proto(model)
    outputs = {y.name for y in graph.outputs}
    proto.graph.output.extend(onnx.ValueInfoProto(name=y.name) for y in unknown if y.name not in outputs)
    try:
        session = start_session(proto.SerializeToString(), folder=_weights_folder(model))
        feed = sample_feed(graph.inputs, image=picture_input(graph.inputs))
        found = session.run([y.name for y in unknown], feed)
    except RUNTIME_ERRORS:
        return  # what cannot run here may still be differentiated where shapes are known
    for y, array in zip(unknown, found, strict=True):
        if isinstance(array, np.ndarray):
            y.dtype = ir.DataType.from_numpy(array.dtype)
            y.shape = ir.Shape(array.shape if fixed else [None] * array.ndim)


@contextmanager
def _quiet() -> Iterator[list[str]]:
    """Keep the log records of the passes from the user; gives their texts."""
    said: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    keep = Keep()
    loggers = [logging.getLogger(name) for name in ("onnxscript", "onnx_ir")]
    before = [(logger.propagate, list(logger.handlers)) for logger in loggers]
    for logger in loggers:
        logger.propagate, logger.handlers = False, [keep]
    try:
        yield said
    finally:
        for logger, (propagate, handlers) in zip(loggers, before, strict=True):
            logger.propagate, logger.handlers = propagate, handlers
