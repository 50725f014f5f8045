"""A forward graph becomes an artifact: class index, backward subgraph, methods, metadata."""

from __future__ import annotations

__all__ = [
    "ArtifactOptions",
    "add_explanation",
    "cpu_session",
    "describe",
    "drop_outputs",
    "halve_storage",
    "write_model",
]

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as passes
import onnxruntime as ort
from onnxscript import OpBuilder

import onnxcam
from onnxcam.autodiff import gradients
from onnxcam.autodiff.emitter import emitter
from onnxcam.contract import (
    ACTIVATIONS,
    CAM,
    EXPLAINED_CLASS,
    GRADIENTS,
    METADATA_KEY,
    ArtifactInfo,
    LayerInfo,
    Preprocess,
    ScoreInfo,
    cam_output,
    layer_output,
)
from onnxcam.errors import ExportError, LayerError, OutputError
from onnxcam.exporter.score import explained_class, find_class_score, find_head, seed
from onnxcam.methods import Method, Site, find_method

_WORTH_HALVING = 32768
"""Elements from which a weight is stored in half precision: the small ones save little, and move the answer most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArtifactOptions:
    """What goes into an artifact beside the graph."""

    methods: tuple[str, ...] = ("gradcam",)
    preprocess: Preprocess | None = None
    labels: tuple[str, ...] | None = None
    source: str | None = None
    license: str | None = None


def add_explanation(
    model: ir.Model, layers: Sequence[tuple[str, ir.Value]], *, output: ir.Value, options: ArtifactOptions
) -> ArtifactInfo:
    """Add to ``model``, in place, what the contract asks for, and give the metadata that describes it.

    layers: the name and the feature map [N, C, h, w] of each target. With no method in ``options`` any
        floating-point value will do, and no map is made.
    output: the model's class output [N, classes].

    Raises `LayerError`, `MethodError`, `UnsupportedOperatorError` and `ExportError`, each naming what it refuses.
    """
    graph = model.graph
    _refuse_taken_names(graph)
    chosen = [find_method(name) for name in options.methods]
    passes.ShapeInferencePass()(model)
    for name, value in layers:
        _refuse_flat(name, value, chosen)
    score = find_class_score(output)
    forward = len(graph)
    op = emitter(graph, "explanation")
    explained = explained_class(op, score)
    maps = [value for _, value in layers]
    start = seed(op, score, explained)
    grads = gradients(model, of=start.value, wrt=maps, seed=start.adjoint)
    added: list[tuple[str, ir.Value]] = []
    for k, (value, gradient) in enumerate(zip(maps, grads, strict=True)):
        for m, method in enumerate(chosen):
            head = find_head(op, score, explained, value) if method.needs == "head" else None
            site = Site(op=op, activations=value, explained_class=explained, gradients=gradient, head=head)
            added.append((cam_output(method.name, first=m == 0, layer=k), _map(op, method, site)))
        added += [(layer_output(ACTIVATIONS, k), value), (layer_output(GRADIENTS, k), gradient)]
    for name, value in [*added, (EXPLAINED_CLASS, explained)]:
        _add_output(op, name, value)
    passes.CommonSubexpressionEliminationPass()(model)
    passes.RemoveUnusedNodesPass()(model)
    passes.NameFixPass()(model)
    for node in list(graph)[forward:]:
        node.metadata_props.clear()
    info = ArtifactInfo(
        onnxcam=onnxcam.__version__,
        image_input=graph.inputs[0].name or "",
        layers=tuple(LayerInfo(name=name, layout="NCHW", shape=_dims(value)) for name, value in layers),
        methods=tuple(method.name for method in chosen),
        score=ScoreInfo(output=output.name or "", activation=score.activation, classes=score.classes),
        preprocess=options.preprocess,
        labels=_checked_labels(options.labels, score.classes),
        source=options.source,
        license=options.license,
        nodes={"forward": forward, "backward": len(graph) - forward},
        extra={"stepped_over": score.stepped_over} if score.stepped_over else {},
    )
    describe(model, info)
    return info


def drop_outputs(model: ir.Model, names: Sequence[str]) -> None:
    """Take the outputs ``names`` away, and every node that only they needed; the metadata's counts follow."""
    graph = model.graph
    for output in [output for output in graph.outputs if output.name in names]:
        graph.outputs.remove(output)
    before = len(graph)
    passes.RemoveUnusedNodesPass()(model)
    info = ArtifactInfo.from_json(model.metadata_props[METADATA_KEY])
    nodes = dict(info.nodes)
    nodes["backward"] -= before - len(graph)
    describe(model, replace(info, nodes=nodes))


def halve_storage(model: ir.Model) -> None:
    """Store the large float32 weights as float16, each behind a Cast that a session folds when it loads."""
    graph = model.graph
    for value in list(graph.initializers.values()):
        tensor = value.const_value
        if (
            tensor is None
            or tensor.dtype != ir.DataType.FLOAT
            or tensor.size < _WORTH_HALVING
            or value.is_graph_input()
        ):
            continue
        name = value.name
        uses = list(value.uses())
        value.name = f"{name}.float16"
        half = tensor.numpy().astype(np.float16)
        value.const_value, value.dtype = ir.tensor(half, name=value.name), ir.DataType.FLOAT16
        wide = ir.Value(name=name, type=ir.TensorType(ir.DataType.FLOAT), shape=value.shape)
        cast = ir.Node("", "Cast", [value], attributes=[ir.AttrInt64("to", ir.DataType.FLOAT)], outputs=[wide])
        for node, index in uses:
            node.replace_input_with(index, wide)
        graph.insert_before(graph[0], cast)


def describe(model: ir.Model, info: ArtifactInfo) -> None:
    """Write ``info`` into the model's metadata."""
    model.metadata_props[METADATA_KEY] = info.to_json()
    model.producer_name, model.producer_version = "onnxcam", onnxcam.__version__


def write_model(model: ir.Model, path: Path) -> None:
    """Save ``model`` under ``path`` in one step: a failure leaves nothing, and an older file as it was."""
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    except OSError as error:
        raise OutputError(f"cannot write to '{path.parent}': {error.strerror}; choose another place with -o") from None
    os.close(handle)
    try:
        ir.save(model, name)
        os.chmod(name, 0o666 & ~_umask())
        os.replace(name, path)
    except OSError as error:
        raise OutputError(f"cannot write '{path}': {error.strerror or error}") from None
    finally:
        Path(name).unlink(missing_ok=True)


def cpu_session(model: ir.Model) -> ort.InferenceSession:
    """``model`` in ONNX Runtime on the CPU, with threads that do not spin: others work in this process."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"])


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _map(op: OpBuilder, method: Method, site: Site) -> ir.Value:
    """The map as the contract types it: float32 [N, h, w]."""
    cam = method.build(site)
    if site.activations.dtype != ir.DataType.FLOAT:
        cam = op.Cast(cam, to=ir.DataType.FLOAT)
    shape = site.activations.shape
    assert shape is not None
    cam.dtype, cam.shape = ir.DataType.FLOAT, ir.Shape([shape[0], *shape[2:]])
    return cam


def _add_output(op: OpBuilder, name: str, value: ir.Value) -> None:
    """Make ``value`` an output called ``name``, leaving it its name where it is an output of the model already."""
    output = op.Identity(value) if value.is_graph_output() or value.is_graph_input() else value
    output.dtype, output.shape = value.dtype, value.shape
    output.name = name
    op.builder.graph.outputs.append(output)


def _refuse_taken_names(graph: ir.Graph) -> None:
    reserved = {CAM, ACTIVATIONS, GRADIENTS, EXPLAINED_CLASS}
    taken = [v.name for v in (*graph.inputs, *graph.outputs) if v.name in reserved]
    if taken:
        raise ExportError(
            f"the model has an input or output called '{taken[0]}', a name that the artifact needs: rename it"
        )


def _refuse_flat(name: str, value: ir.Value, methods: Sequence[Method]) -> None:
    if value.shape is None:
        raise LayerError(f"the shape of layer '{name}' is unknown: run shape inference on the model first")
    if methods and (len(value.shape) != 4 or list(value.shape[2:]) == [1, 1]):
        raise LayerError(
            f"layer '{name}' gives {list(value.shape)}, which has no spatial extent: "
            "choose one whose output is [N, C, h, w]; 'onnxcam layers' lists them"
        )


def _dims(value: ir.Value) -> tuple[int | None, ...]:
    assert value.shape is not None
    return tuple(dim if isinstance(dim, int) else None for dim in value.shape)


def _checked_labels(labels: tuple[str, ...] | None, classes: int) -> tuple[str, ...] | None:
    if labels is not None and len(labels) != classes:
        raise ExportError(f"{len(labels)} labels were given for a model of {classes} classes: give one per class")
    return labels
