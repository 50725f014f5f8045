"""PyTorch or ONNX → artifact, and the check of an artifact against a reference."""

from __future__ import annotations

__all__ = ["Comparison", "ExportReport", "VerificationReport", "attach", "compare_with_torch", "export", "verify"]

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from onnxcam.contract import ACTIVATIONS, GRADIENTS, SCORE, BoxInfo, Explain, Fuse, Preprocess, ScoreKind, layer_output
from onnxcam.errors import ExportError, MissingExtraError, VerificationError

try:
    import onnx_ir as ir
    import onnxscript  # noqa: F401  the autodiff builds its graphs with it

    from onnxcam.exporter.answers import output_name
    from onnxcam.exporter.artifact import ArtifactOptions, add_explanation, describe, drop_outputs, halve_storage
    from onnxcam.exporter.attachment import attach
    from onnxcam.exporter.axes import find_layouts
    from onnxcam.exporter.comparison import ExportReport, compare_with_torch, torch_tolerance
    from onnxcam.exporter.files import write_model
    from onnxcam.exporter.layers import Target
    from onnxcam.exporter.layout import NCHW
    from onnxcam.exporter.sample import picture_input
    from onnxcam.exporter.scores import Score, find_score
    from onnxcam.exporter.targets import default_module
    from onnxcam.exporter.verification import Comparison, VerificationReport, verify
    from onnxcam.methods import find_methods
except ModuleNotFoundError as error:
    if str(error.name).startswith("onnxcam"):
        raise
    raise MissingExtraError(
        f'exporting needs {error.name}, which is not installed: pip install "onnxcam[export]"'
    ) from error

if TYPE_CHECKING:
    from onnxcam.exporter.torch import Example, Module

STORAGE_TOLERANCE = 1e-2
"""The same for the outputs once the weights are stored in float16."""


def export(
    model: Module,
    example: Example,
    path: str | Path,
    *,
    layer: str | Sequence[str] | None = None,
    method: str | Sequence[str] = "gradcam",
    score: ScoreKind | Callable[[Any], Any] = "class",
    output: str | int | None = None,
    classes: int = 1,
    boxes: BoxInfo | None = None,
    explain: Explain = "class",
    fuse: Fuse | None = None,
    eigen_smooth: bool = False,
    outputs: Literal["all", "cam"] = "all",
    storage: Literal["float32", "float16"] = "float32",
    preprocess: Preprocess | None = None,
    labels: Sequence[str] | None = None,
    source: str | None = None,
    license: str | None = None,
) -> ExportReport:
    """Write ``model`` as an artifact that answers and explains in the same pass.

    example: a batch of pictures [N, C, H, W], preprocessed; of a model with several inputs, a tuple or a dictionary of
        them. The batch stays dynamic where torch can export it so.
    layer: module path(s) of the target, such as ``"layer4"``. None takes the last one that all ways to the score lead
        through and whose places matter to the score; where all methods have the picture for their target, the picture.
    method: name(s) among `onnxcam.methods`. The first one's map is the output ``cam``.
    score: what is explained: the score of a ``"class"``; ``"weights"``, a weighting of the output that is given when
        the file runs; ``"number"``, the output itself, one number an image; ``"segmentation"``, the score of a class
        summed over where it is predicted, or over a region that is given when the file runs; ``"boxes"``, that of a
        class at a detector's boxes; ``"similarity"``, the cosine of an embedding and one that is given when the file
        runs. Or a function that turns what the model returns into one number an image, [N]: torch exports it with the
        model.
    output: which output is explained, where the model returns several: a key, an attribute, or a position.
    classes: how many classes of each image are explained in one run, K: by default the top K, or those chosen when the
        file runs. From two on, maps are [N, K, h, w].
    boxes: of the score ``"boxes"``, a class's score at a detector's boxes: how the model gives them, and whether one is
        explained or all of the class.
    explain: ``"counterfactual"`` makes maps of what speaks against the class (of -y_c), ``"contrast"`` of what speaks
        for it rather than for another (of y_c - y_d): the likeliest other one, or the one chosen when the file runs.
    fuse: ``"mean"`` or ``"max"`` joins the maps of several layers into one, each scaled to 0-1 before; see
        `onnxcam.methods.fused`. None keeps them apart.
    eigen_smooth: combine the weighted channels by their first principal component instead of their sum.
    outputs: ``"cam"`` leaves the feature map and its gradient out of the file's outputs.
    storage: ``"float16"`` stores the weights in half the space; they are widened when a session loads, so the
        speed is that of float32. The report then says how far the outputs move.
    preprocess, labels: what turns a picture into ``example``'s form, and a name per class; kept in the file.

    Before anything is written, the graph runs in ONNX Runtime, and its outputs, activations and gradients are
    compared with torch's autograd, on examples near the given one too where that lies at a kink. Raises
    `VerificationError` where they differ by more than `TOLERANCE`, and
    `LayerError`, `MethodError`, `UnsupportedOperatorError`, `ExportError` or `OutputError` where no file can be made.
    """
    from onnxcam.exporter import torch as modules

    path = Path(path)
    function = score if callable(score) else None
    _refuse_folder(path)
    chosen = find_methods(method)
    if layer is None and chosen and all(entry.target == "picture" for entry in chosen):
        names = [modules.INPUT]
    elif layer is None:
        plain = modules.export_module(model, example, (), function)
        names = [default_module(plain, _score(plain.model.graph, score, output, classes, boxes).value)]
    else:
        names = [layer] if isinstance(layer, str) else list(layer)
        # refuses a layer off the way to the score
        modules.reference(model, example, names, output=output, squashed=False, score=function)
    options = ArtifactOptions(
        methods=tuple(entry.name for entry in chosen),
        explain=explain,
        fuse=fuse,
        eigen_smooth=eigen_smooth,
        gradients=outputs == "all" or any(entry.differentiates for entry in chosen),
        preprocess=preprocess,
        labels=None if labels is None else tuple(labels),
        source=source,
        license=license,
    )
    exported = modules.export_module(model, example, names, function)
    image = picture_input(exported.model.graph.inputs)
    if not exported.dynamic_batch:
        warnings.warn(
            "torch exports this model with a fixed batch only: it will take "
            f"{image.shape[0] if image.shape else 1} pictures at a time",
            stacklevel=2,
        )
    layouts = find_layouts(exported.model.graph)
    info = add_explanation(
        exported.model,
        [
            Target(name=name, value=value, layout=layouts.get(value, NCHW), module=name)
            for name, value in zip(names, exported.targets, strict=True)
        ],
        score=_score(exported.model.graph, score, output, classes, boxes),
        image=image,
        options=options,
    )
    errors = compare_with_torch(exported.model, info, model, example, names, function)
    if storage == "float16":
        halve_storage(exported.model)
        errors["stored outputs"] = compare_with_torch(exported.model, info, model, example, names, function)["outputs"]
    info = replace(info, verification=errors)
    describe(exported.model, info)
    for name, error in errors.items():
        at_picture = modules.INPUT in names
        limit = STORAGE_TOLERANCE if name == "stored outputs" else torch_tolerance(name, at_picture=at_picture)
        if not error <= limit:
            raise VerificationError(
                f"the {name} of the exported graph differ from torch's by {error:.1e} (relative; at most {limit:.0e} "
                "is let through), so nothing was written: report the model, or choose another layer"
            )
    if outputs == "cam":
        drop_outputs(
            exported.model, [layer_output(name, k) for name in (ACTIVATIONS, GRADIENTS) for k in range(len(names))]
        )
    write_model(exported.model, path)
    return ExportReport(path=path, info=info, dynamic_batch=exported.dynamic_batch, errors=errors)


def _score(
    graph: ir.Graph,
    score: ScoreKind | Callable[[Any], Any],
    output: str | int | None,
    classes: int,
    boxes: BoxInfo | None,
) -> Score:
    """The score that `export` was asked for, in the ``graph`` that torch exported."""
    if callable(score):
        if output is not None:
            raise ExportError("a score that is a function is given all outputs: leave output out")
        return find_score(graph, kind="number", output=SCORE, classes=classes)
    name = output_name([y.name or "" for y in graph.outputs], output)
    return find_score(graph, kind=score, output=name, classes=classes, boxes=boxes)


def _refuse_folder(path: Path) -> None:
    if path.is_dir():
        raise ExportError(f"'{path}' is a folder: give the file's name with -o NAME.cam.onnx")
    if not path.parent.is_dir():
        raise ExportError(f"the folder '{path.parent}' does not exist: make it first, or choose another with -o")
