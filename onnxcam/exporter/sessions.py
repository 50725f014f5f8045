"""ONNX Runtime on the CPU, as checks run it."""

from __future__ import annotations

__all__ = ["RUNTIME_ERRORS", "cpu_session", "foreign_nodes", "start_session", "weights_folder"]

from collections.abc import Sequence
from typing import Final

import onnx
import onnx_ir as ir
import onnx_ir.passes.common as passes
import onnxruntime as ort

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


_RUNTIME_DOMAINS: Final = frozenset({"com.microsoft", "com.microsoft.nchwc", "com.ms.internal.nhwc"})


def foreign_nodes(model: ir.Model, outputs: Sequence[ir.Value]) -> list[ir.Node]:
    """The nodes that ``outputs`` need and ONNX Runtime does not have: of no standard, not its own, no function."""
    needed: set[ir.Node] = set()
    stack = list(outputs)
    while stack:
        node = stack.pop().producer()
        if node is not None and node not in needed:
            needed.add(node)
            stack += [x for inside in (node, *_inside(node)) for x in inside.inputs if x is not None]
    return [
        inside
        for node in model.graph
        if node in needed
        for inside in (node, *_inside(node))
        if inside.op_identifier() not in model.functions
        and inside.domain not in _RUNTIME_DOMAINS
        and not onnx.defs.has(inside.op_type, inside.domain)
    ]


def _inside(node: ir.Node) -> list[ir.Node]:
    """The nodes of the subgraphs of ``node``."""
    bodies = [a.as_graph() for a in node.attributes.values() if a.type == ir.AttributeType.GRAPH]
    return [inside for body in bodies for inside in body.all_nodes()]


def cpu_session(model: ir.Model) -> ort.InferenceSession:
    """``model`` in ONNX Runtime on the CPU, with threads that do not spin: others work in this process.

    Outputs that need operators which ONNX Runtime does not have are left out.
    """
    beyond = [k for k, y in enumerate(model.graph.outputs) if foreign_nodes(model, [y])]
    if beyond:
        model = model.clone()
        model.graph.outputs[:] = [y for k, y in enumerate(model.graph.outputs) if k not in beyond]
        passes.RemoveUnusedNodesPass()(model)
    return start_session(ir.to_proto(model).SerializeToString(), folder=weights_folder(model))


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


def weights_folder(model: ir.Model) -> str | None:
    """Where the external data of ``model`` are."""
    tensors = (value.const_value for graph in model.graphs() for value in graph.initializers.values())
    return next((str(tensor.base_dir) for tensor in tensors if isinstance(tensor, ir.ExternalTensor)), None)
