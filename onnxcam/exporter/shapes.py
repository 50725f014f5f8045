"""Types and shapes of all values, also where onnx's own inference stops."""

from __future__ import annotations

__all__ = ["infer_shapes"]

from collections.abc import Collection, Sequence
from typing import Final

import numpy as np
import onnx
import onnx_ir as ir
import onnx_ir.passes.common as passes
import onnxruntime as ort

from onnxcam.exporter.logs import without_logs
from onnxcam.exporter.sample import picture_input, sample_feed
from onnxcam.exporter.sessions import RUNTIME_ERRORS, start_session, weights_folder


def infer_shapes(model: ir.Model) -> None:
    """Infer types and shapes, in place, as far as they can be; where inference leaves them open, the model runs.

    A node that contradicts itself stops no other.
    """
    with without_logs():
        passes.ShapeInferencePass(check_type=False, strict_mode=False)(model)
    _complete_shapes(model)


def _complete_shapes(model: ir.Model) -> None:
    """Give the values whose type or sizes inference leaves open those they have when the model runs.

    Shapes are left open that go through a calculation, as in Reshape(x, Concat(Shape(x)[0], -1)), and behind operators
    that are not in the standard. Where the inputs are open too, the model runs on one picture and on two of another
    size: what is the same in both is fixed, what follows the number of pictures is the batch, and all else gets a name,
    so that it is not looked for again.
    """
    graph = model.graph
    given = {dim.value for x in graph.inputs for dim in x.shape or () if isinstance(dim, ir.SymbolicDim)}
    unknown = [y for node in graph for y in node.outputs if y.name and _is_open(y, given)]
    free = [x for x in graph.inputs if not x.is_initializer()]
    if not unknown or any(x.shape is None or x.dtype is None for x in free):
        return
    try:
        session = start_session(_with_shapes(model, unknown), folder=weights_folder(model))
    except RUNTIME_ERRORS:
        return  # what cannot run here may still be differentiated where shapes are known
    _take_over(session, unknown)
    unknown = [y for y in unknown if _is_open(y, given)]
    if not unknown:
        return
    image = picture_input(graph.inputs)
    names = [_shape_name(y) for y in unknown]
    is_fixed = all(isinstance(dim, int) for x in free for dim in x.shape or ())
    try:
        one = session.run(names, sample_feed(graph.inputs, image=image))
    except RUNTIME_ERRORS:
        return
    try:
        feed = sample_feed(graph.inputs, image=image, batch=2, side=_OTHER, other=3)
        two = one if is_fixed else session.run(names, feed)
    except RUNTIME_ERRORS:
        two = [np.full_like(shape, -1) for shape in one]  # it runs on one picture only
    batch = image.shape[0] if image.shape else None
    for y, a, b in zip(unknown, one, two, strict=True):
        known = y.shape if y.shape is not None and len(y.shape) == len(a) else [None] * len(a)
        y.shape = ir.Shape(
            dim if isinstance(dim, int) else n if n == m else batch if (n, m) == (1, 2) else f"{y.name}.{axis}"
            for axis, (dim, n, m) in enumerate(zip(known, a.tolist(), b.tolist(), strict=True))
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


def _take_over(session: ort.InferenceSession, values: Sequence[ir.Value]) -> None:
    """Give ``values`` the types that ONNX Runtime infers, and its shapes to those of unknown rank."""
    known = {y.name: y for y in session.get_outputs()}
    for y in values:
        if (dtype := _TYPES.get(known[y.name].type)) is not None:
            y.type = ir.TensorType(dtype)
        if y.shape is None and known[y.name].shape:  # of a value of unknown rank, it gives none either
            y.shape = ir.Shape(known[y.name].shape)


def _shape_name(y: ir.Value) -> str:
    return f"shape of {y.name}"


def _with_shapes(model: ir.Model, values: Sequence[ir.Value]) -> bytes:
    """``model`` with ``values`` and their shapes as outputs."""
    proto = ir.to_proto(model)
    outputs = {y.name for y in proto.graph.output}
    proto.graph.output.extend(onnx.ValueInfoProto(name=y.name) for y in values if y.name not in outputs)
    for y in values:
        proto.graph.node.add(op_type="Shape", input=[y.name], output=[_shape_name(y)])
        proto.graph.output.add(name=_shape_name(y))
    return bytes(proto.SerializeToString())
