"""A forward graph becomes an artifact: class index, backward subgraph, methods, metadata."""

from __future__ import annotations

__all__ = [
    "ArtifactOptions",
    "add_explanation",
    "describe",
    "drop_outputs",
    "halve_storage",
    "remove_explanation",
]

from collections.abc import Sequence
from dataclasses import replace
from itertools import zip_longest

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as passes
from onnxscript import OpBuilder

import onnxcam
from onnxcam.autodiff.emitter import emitter
from onnxcam.autodiff.subgraphs import prune
from onnxcam.contract import (
    ACTIVATIONS,
    AGAINST_CLASS,
    CAM,
    EXPLAINED_BOXES,
    EXPLAINED_CLASS,
    GRADIENTS,
    METADATA_KEY,
    SCORE,
    SCORE_INPUTS,
    ArtifactInfo,
    LayerInfo,
    ScoreInfo,
    cam_output,
    layer_output,
)
from onnxcam.errors import ExportError, LayerError
from onnxcam.exporter.attention import find_attention, with_sums
from onnxcam.exporter.biases import find_biases
from onnxcam.exporter.gradients import Gradients
from onnxcam.exporter.layers import Target, picture_target
from onnxcam.exporter.layout import shape_text
from onnxcam.exporter.maps import check_methods, maps
from onnxcam.exporter.options import ArtifactOptions
from onnxcam.exporter.rerun import Reruns
from onnxcam.exporter.scores.contrast import other_classes
from onnxcam.exporter.scores.protocol import Score
from onnxcam.exporter.scores.table import together
from onnxcam.exporter.shapes import infer_shapes
from onnxcam.exporter.simplification import simplify
from onnxcam.methods import Method, find_methods

_WORTH_HALVING = 32768
"""Elements from which a weight is stored in half precision: the small ones save little, and move the answer most."""


def add_explanation(
    model: ir.Model, targets: Sequence[Target], *, score: Score, image: ir.Value, options: ArtifactOptions
) -> ArtifactInfo:
    """Add to ``model``, in place, what the contract asks for, and give the metadata that describes it.

    targets: the feature maps. With no method in ``options`` any floating-point value will do, and no map is made.
    score: what is explained.
    image: the input that takes the picture.

    Raises `LayerError`, `MethodError`, `UnsupportedOperatorError` and `ExportError`, each naming what it refuses.
    """
    graph = model.graph
    chosen = find_methods(options.methods)
    check_methods(chosen, options, layers=len(targets))
    infer_shapes(model)
    for target in targets:
        _refuse_flat(target, [method for method in chosen if method.target not in ("picture", "attention")])
    _refuse_taken_names(graph, chosen, len(targets), score.info)
    forward, own = len(graph), set(graph.initializers)
    op = emitter(graph, "explanation")
    subjects = score.subjects(op)
    others = other_classes(op, subjects) if options.explain == "contrast" else []
    at_picture = any(method.target in ("picture", "layer and picture") for method in chosen)
    picture = picture_target(graph, image) if at_picture else None
    needs_biases = any(method.needs == "biases" for method in chosen)
    biases = find_biases(graph, score.start, image) if needs_biases else []
    of_attention = [method.name for method in chosen if method.target == "attention"]
    attention = find_attention(graph, score.start, image, targets, of_attention[0]) if of_attention else None
    for method in chosen:
        if attention is not None and method.needs == "attention gradients":
            attention = with_sums(graph, attention, score.start, image, method.name)
    grads = [
        Gradients(
            op=op,
            model=model,
            targets=targets,
            picture=picture,
            biases=biases,
            attention=attention,
            subject=subject,
            other=other,
        )
        for subject, other in zip_longest(subjects, others)
    ]
    reruns = Reruns(
        op=op,
        model=model,
        targets=targets,
        subjects=subjects,
        others=others,
        explain=options.explain,
        image=image,
        preprocess=options.preprocess,
    )
    found = [maps(each, chosen, options, reruns) for each in grads]
    added: dict[str, ir.Value] = {}
    for k, target in enumerate(targets):
        added |= {name: together(op, [cams[k][name] for cams in found]) for name in found[0][k]}
        added[layer_output(ACTIVATIONS, k)] = target.value
        if options.gradients:
            added[layer_output(GRADIENTS, k)] = together(op, [each.output(k) for each in grads])
    added |= score.outputs(op, subjects)
    if others:
        added[AGAINST_CLASS] = together(op, others)
    for name, value in added.items():
        _add_output(op, name, value)
    simplify(graph, forward)
    _merge_constants(graph, own)
    passes.CommonSubexpressionEliminationPass()(model)
    _remove_unused(model)
    passes.NameFixPass()(model)
    for node in list(graph)[forward:]:
        node.metadata_props.clear()
    info = ArtifactInfo(
        onnxcam=onnxcam.__version__,
        image_input=image.name or "",
        layers=tuple(
            LayerInfo(
                name=target.name,
                layout=target.layout.kind,
                shape=_dims(target.value),
                extra_tokens=target.layout.extra_tokens,
                grid=target.layout.grid,
                module=target.module,
            )
            for target in targets
        ),
        methods=tuple(method.name for method in chosen),
        picture_methods=tuple(method.name for method in chosen if method.target == "picture"),
        attention_methods=tuple(of_attention),
        score=score.info,
        preprocess=options.preprocess,
        labels=_checked_labels(options.labels, score.info.classes),
        source=options.source,
        license=options.license,
        explain=options.explain,
        fuse=options.fuse,
        eigen_smooth=options.eigen_smooth,
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
    _remove_unused(model)
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


def remove_explanation(model: ir.Model) -> ArtifactInfo:
    """Take from an artifact, in place, all that `add_explanation` added; gives the metadata it had."""
    graph = model.graph
    info = ArtifactInfo.from_json(model.metadata_props.pop(METADATA_KEY))
    names = _added_outputs(info.methods, len(info.layers), info.score)
    for output in [y for y in graph.outputs if y.name in names]:
        graph.outputs.remove(output)
    _remove_unused(model)
    for x in [x for x in graph.inputs if x.name in SCORE_INPUTS]:
        graph.inputs.remove(x)
        graph.initializers.pop(x.name or "", None)
    for node in graph:  # the feature map's own name went to the output
        for y in node.outputs:
            for k, layer in enumerate(info.layers):
                if y.name == layer_output(ACTIVATIONS, k):
                    y.name = layer.name if not _taken(graph, layer.name) else f"{layer.name}.map"
    return info


def _remove_unused(model: ir.Model) -> None:
    """Remove nodes and initializers that no output needs: the pass by itself leaves what subgraphs read."""
    prune(model.graph)
    passes.RemoveUnusedNodesPass()(model)


def _taken(graph: ir.Graph, name: str) -> bool:
    return any(value.name == name for value in (*graph.inputs, *(y for node in graph for y in node.outputs)))


def _add_output(op: OpBuilder, name: str, value: ir.Value) -> None:
    """Make ``value`` an output called ``name``, leaving it its name where it is an output of the model already."""
    output = op.Identity(value) if value.is_graph_output() or value.is_graph_input() else value
    output.dtype, output.shape = value.dtype, value.shape
    output.name = name
    op.builder.graph.outputs.append(output)


def _refuse_taken_names(graph: ir.Graph, methods: Sequence[Method], layers: int, score: ScoreInfo) -> None:
    added = _added_outputs([method.name for method in methods], layers, score)
    reserved = {CAM, *SCORE_INPUTS, *added}
    taken = [f"'{v.name}'" for v in (*graph.inputs, *graph.outputs) if v.name in reserved]
    if taken:
        raise ExportError(
            f"the model has inputs or outputs called {', '.join(taken)}, which the artifact needs as names: rename them"
        )


def _added_outputs(methods: Sequence[str], layers: int, score: ScoreInfo) -> set[str]:
    """The names of all outputs that an explanation adds."""
    names = {EXPLAINED_BOXES, EXPLAINED_CLASS, AGAINST_CLASS} | (
        {SCORE} if score.kind in ("weights", "similarity") else set()
    )
    for k in range(layers):
        names |= {layer_output(name, k) for name in (ACTIVATIONS, GRADIENTS)}
        names |= {cam_output(method, first=m == 0, layer=k) for m, method in enumerate(methods)}
    return names


def _refuse_flat(target: Target, methods: Sequence[Method]) -> None:
    shape = target.value.shape
    if shape is None:
        raise LayerError(f"the shape of layer '{target.name}' is unknown: run shape inference on the model first")
    ranks = {"NCHW": 4, "NHWC": 4, "NCDHW": 5, "tokens": 3}
    if not methods:
        return
    kind = target.layout.kind
    places = shape[1:3] if kind == "NHWC" else shape[2:] if kind != "tokens" else ()
    if len(shape) != ranks[kind] or (places and all(size == 1 for size in places)):
        raise LayerError(
            f"layer '{target.name}' gives {shape_text(shape)}, which has no spatial extent as {target.layout}: "
            "choose another, that 'onnxcam layers' lists, or name its layout with --layout"
        )


def _merge_constants(graph: ir.Graph, own: set[str]) -> None:
    """Let nodes that were added for one class read the constants of another's, so that equal ones are found equal.

    own: the names of the model's own, which stay as they are.
    """
    kept: dict[tuple[ir.DataType, tuple[int, ...], bytes], ir.Value] = {}
    for name, value in list(graph.initializers.items()):
        tensor = value.const_value
        if name in own or tensor is None or value.is_graph_input():
            continue
        first = kept.setdefault((tensor.dtype, tuple(tensor.shape.numpy()), tensor.tobytes()), value)
        if first is not value:
            ir.convenience.replace_all_uses_with(value, first)
            del graph.initializers[name]


def _dims(value: ir.Value) -> tuple[int | None, ...]:
    assert value.shape is not None
    return tuple(dim if isinstance(dim, int) else None for dim in value.shape)


def _checked_labels(labels: tuple[str, ...] | None, classes: int) -> tuple[str, ...] | None:
    if labels is not None and classes and len(labels) != classes:
        raise ExportError(f"{len(labels)} labels were given for a model of {classes} classes: give one per class")
    return labels
