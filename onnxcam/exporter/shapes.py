"""Types and shapes behind operators that only ONNX Runtime knows: onnx's own shape inference stops there."""

from __future__ import annotations

__all__ = ["infer_shapes"]

import onnx
import onnx_ir as ir
import onnx_ir.passes.common as passes
import onnxruntime as ort

from onnxcam.errors import ExportError


def infer_shapes(model: ir.Model) -> None:
    """Give every value of the main graph its type and shape, as far as onnx and ONNX Runtime can infer them.

    Raises `ExportError` where onnx cannot and ONNX Runtime does not load the model.
    """
    passes.ShapeInferencePass()(model)
    unknown = {y.name: y for node in model.graph for y in node.outputs if y.name and (y.shape is None or not y.type)}
    if not unknown:
        return
    proto = ir.to_proto(model)
    outputs = {output.name for output in proto.graph.output}
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in unknown if name not in outputs)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    try:
        session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # noqa: BLE001  its exceptions share no class of their own
        reason = " ".join(str(error).split())[:300]
        raise ExportError(f"ONNX Runtime cannot load the model, whose shapes it alone could infer: {reason}") from None
    for found in session.get_outputs():
        value = unknown.get(found.name)
        if value is None or not found.type.startswith("tensor("):
            continue
        value.type = value.type or ir.TensorType(_DTYPES[found.type[len("tensor(") : -1]])
        if value.shape is None and found.shape:  # of a value of unknown rank, ONNX Runtime gives none either
            value.shape = ir.Shape(found.shape)


_DTYPES = {dtype.name.lower(): dtype for dtype in ir.DataType}
"""The types by the names ONNX Runtime gives them."""
