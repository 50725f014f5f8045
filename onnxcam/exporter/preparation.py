"""Any ONNX graph becomes one that can be differentiated: opset 18 or newer, constants known, ranks known."""

from __future__ import annotations

__all__ = ["RUNTIME_ERRORS", "cpu_session", "infer_shapes", "prepare", "start_session"]

from collections.abc import Collection, Sequence
from typing import Final

import numpy as np
import onnx
import onnx_ir as ir
import onnx_ir.passes.common as passes
import onnxruntime as ort
from onnxscript.version_converter import ConvertVersionPass

from onnxcam.autodiff.registry import describe
from onnxcam.errors import ModelSourceError
from onnxcam.exporter.logs import without_logs
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
    Raises `ModelSourceError` naming all that stands against it: versions newer than the installed packages know,
    operators that ONNX Runtime does not have, nodes in training mode; or that the operator set cannot be brought up.
    """
    for imports in (model.opset_imports, *(function.opset_imports for function in model.functions.values())):
        if "ai.onnx" in imports:  # the standard's long name
            imports[""] = imports.pop("ai.onnx")
    problems = [*_newer_versions(model), *_foreign_nodes(model), *_training_nodes(model)]
    if problems:
        raise ModelSourceError(f"'{source}' {'; and '.join(problems)}")
    passes.RemoveInitializersFromInputsPass()(model)
    if model.functions:
        passes.InlinePass()(model)
    passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    _bring_up(model, source)
    model.ir_version = max(model.ir_version or 8, 8)
    infer_shapes(model)
    _complete_shapes(model)


def infer_shapes(model: ir.Model) -> None:
    """Infer types and shapes, in place, as far as they can be: a node that contradicts itself stops no other."""
    with without_logs():
        passes.ShapeInferencePass(check_type=False, strict_mode=False)(model)


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


_NEWEST_IR: Final = int(onnx.IR_VERSION)
_RUNTIME_DOMAINS: Final = frozenset({"com.microsoft", "com.microsoft.nchwc", "com.ms.internal.nhwc"})
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


def _foreign_nodes(model: ir.Model) -> list[str]:
    """Operators that are neither in the standard, nor functions of the model, nor ONNX Runtime's own."""
    foreign = [
        describe(node)
        for node in model.graph.all_nodes()
        if node.op_identifier() not in model.functions
        and node.domain not in _RUNTIME_DOMAINS
        and not onnx.defs.has(node.op_type, node.domain)
    ]
    return [f"uses operators that ONNX Runtime does not have: {_some(foreign)}"] if foreign else []


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


def _complete_shapes(model: ir.Model) -> None:
    """Give the values whose type or sizes inference leaves open those they have when the model runs.

    Shapes are left open that go through a calculation, as in Reshape(x, Concat(Shape(x)[0], -1)), and behind operators
    that are not in the standard. Where the inputs are open too, the model runs on one picture and on two of another
    size: what is the same in both is fixed, what follows the number of pictures is the batch.
    """
    graph = model.graph
    given = {dim.value for x in graph.inputs for dim in x.shape or () if isinstance(dim, ir.SymbolicDim)}
    unknown = [y for node in graph for y in node.outputs if y.name and _is_open(y, given)]
    free = [x for x in graph.inputs if not x.is_initializer()]
    if not unknown or any(x.shape is None or x.dtype is None for x in free):
        return
    image = picture_input(graph.inputs)
    is_fixed = all(isinstance(dim, int) for x in free for dim in x.shape or ())
    try:
        session = start_session(_with_shapes(model, unknown), folder=_weights_folder(model))
        names = [y.name for y in session.get_outputs()][-len(unknown) :]
        one = session.run(names, sample_feed(graph.inputs, image=image))
        try:
            two = one if is_fixed else session.run(names, sample_feed(graph.inputs, image=image, batch=2, side=_OTHER))
        except RUNTIME_ERRORS:
            two = [np.full_like(shape, -1) for shape in one]  # it runs on one picture only
    except RUNTIME_ERRORS:
        return  # what cannot run here may still be differentiated where shapes are known
    types = {y.name: _TYPES.get(y.type) for y in session.get_outputs()}
    batch = image.shape[0] if image.shape else None
    for y, a, b in zip(unknown, one, two, strict=True):
        if (dtype := types[y.name]) is not None:
            y.type = ir.TensorType(dtype)
        known = y.shape if y.shape is not None and len(y.shape) == len(a) else [None] * len(a)
        y.shape = ir.Shape(
            dim if isinstance(dim, int) else n if n == m else batch if (n, m) == (1, 2) else dim
            for dim, n, m in zip(known, a.tolist(), b.tolist(), strict=True)
        )


_OTHER: Final = 256
"""Height and width of the second pictures, where they are open."""
_TYPES: Final = {f"tensor({dtype.name.lower()})": dtype for dtype in ir.DataType}
"""ONNX Runtime's names of types."""


def _is_open(y: ir.Value, given: Collection[str | None]) -> bool:
    """Whether type or shape of ``y`` are unknown, or a size that is not one of those ``given`` by the inputs."""
    if isinstance(y.type, ir.SequenceType | ir.OptionalType):
        return False
    return y.shape is None or y.dtype is None or any(_is_made_up(dim, given) for dim in y.shape)


def _is_made_up(dim: int | ir.SymbolicDim, given: Collection[str | None]) -> bool:
    """Whether inference found no name for a size; it makes up unk__0, unk__1, …"""
    if isinstance(dim, int):
        return False
    return dim.value is None or (dim.value not in given and dim.value.startswith("unk__"))


def _with_shapes(model: ir.Model, values: Sequence[ir.Value]) -> bytes:
    """``model`` with ``values`` and, last, their shapes as outputs."""
    proto = ir.to_proto(model)
    outputs = {y.name for y in proto.graph.output}
    proto.graph.output.extend(onnx.ValueInfoProto(name=y.name) for y in values if y.name not in outputs)
    for k, y in enumerate(values):
        proto.graph.node.add(op_type="Shape", input=[y.name], output=[f"shape of {k} {y.name}"])
        proto.graph.output.add(name=f"shape of {k} {y.name}")
    return bytes(proto.SerializeToString())
