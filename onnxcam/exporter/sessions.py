"""ONNX Runtime on the CPU, as checks run it."""

from __future__ import annotations

__all__ = ["RUNTIME_ERRORS", "cpu_session", "start_session", "weights_folder"]

import onnx_ir as ir
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


def cpu_session(model: ir.Model) -> ort.InferenceSession:
    """``model`` in ONNX Runtime on the CPU, with threads that do not spin: others work in this process."""
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
