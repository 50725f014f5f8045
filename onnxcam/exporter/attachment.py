"""Any ONNX file → artifact, with no PyTorch."""

from __future__ import annotations

__all__ = ["PictureForm", "attach", "default_path", "detach", "feature_maps", "picture_form"]

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
import onnx_ir as ir

from onnxcam.contract import (
    ACTIVATIONS,
    GRADIENTS,
    METADATA_KEY,
    ArtifactInfo,
    BoxInfo,
    Explain,
    Fuse,
    ImageLayout,
    ImageType,
    Preprocess,
    ScoreKind,
    layer_output,
)
from onnxcam.errors import ExportError, LayerError, VerificationError
from onnxcam.exporter.artifact import ArtifactOptions, add_explanation, describe, drop_outputs, remove_explanation
from onnxcam.exporter.comparison import TOLERANCE, ExportReport, refuse_not_finite, relative_error
from onnxcam.exporter.files import read_model, write_model
from onnxcam.exporter.layers import Candidate, Target, picture_target
from onnxcam.exporter.preparation import prepare
from onnxcam.exporter.sample import picture_input, sample_feed
from onnxcam.exporter.scores import find_score
from onnxcam.exporter.sessions import RUNTIME_ERRORS, cpu_session, start_session
from onnxcam.exporter.targets import FeatureMaps
from onnxcam.methods import find_methods

_COARSE: Final = 0.05
"""The same tolerance for half-precision and quantised models, whose last digit moves with every other fusion."""


def attach(
    source: str | Path,
    path: str | Path | None = None,
    *,
    layer: str | Sequence[str] | None = None,
    method: str | Sequence[str] = "gradcam",
    score: ScoreKind = "class",
    classes: int = 1,
    boxes: BoxInfo | None = None,
    explain: Explain = "class",
    fuse: Fuse | None = None,
    eigen_smooth: bool = False,
    output: str | None = None,
    layout: str | None = None,
    image_input: str | None = None,
    outputs: Literal["all", "cam"] = "all",
    preprocess: Preprocess | None = None,
    labels: Sequence[str] | None = None,
    license: str | None = None,
    replace: bool = False,
) -> ExportReport:
    """Write the ONNX model ``source`` as an artifact that answers as before and explains in the same pass.

    path: the artifact; ``NAME.cam.onnx`` beside the source where None. The source is never changed.
    layer: the target feature map(s), by the name of a value, of a node, or by the path of a PyTorch module where the
        file tells of it. None takes the last one that all ways to the score lead through and in which more than one
        place matters to the score: before the last attention for a transformer with a class token. Where all methods
        have the picture for their target, None is the picture too.
    method: name(s) among `onnxcam.methods`. The first one's map is the output ``cam``.
    score: what is explained: the score of a ``"class"``; ``"weights"``, a weighting of the output that is given when
        the file runs; ``"number"``, the output itself, one number an image; ``"segmentation"``, the score of a class
        summed over where it is predicted, or over a region that is given when the file runs; ``"boxes"``, that of a
        class at a detector's boxes; ``"similarity"``, the cosine of an embedding and one that is given when the file
        runs.
    classes: how many classes of each image are explained in one run, K: by default the top K, or those chosen when the
        file runs. From two on, maps are [N, K, h, w].
    boxes: of the score ``"boxes"``, a class's score at a detector's boxes: how the model gives them, and whether one is
        explained or all of the class.
    explain: ``"counterfactual"`` makes maps of what speaks against the class (of -y_c), ``"contrast"`` of what speaks
        for it rather than for another (of y_c - y_d): the likeliest other one, or the one chosen when the file runs.
    fuse: ``"mean"`` or ``"max"`` joins the maps of several layers into one, each scaled to 0-1 before; see
        `onnxcam.methods.fused`. None keeps them apart.
    eigen_smooth: combine the weighted channels by their first principal component instead of their sum.
    output: the output that is explained, where the model has several: the class scores.
    layout: ``"NCHW"``, ``"NHWC"``, ``"NCDHW"`` for volumes and clips, or ``"tokens:n"`` for [N, T, C] of which the
        first n tokens have no place; found by itself where None.
    image_input: the input that takes the picture, where it is not the first with four axes.
    outputs: ``"cam"`` leaves the feature map and its gradient out of the file's outputs.
    preprocess, labels, license: kept in the file; a renewed artifact keeps its own.
    replace: ``source`` is an artifact: explain it anew, into the same file where ``path`` is None.

    Before anything is written, plain and explained model run on one random picture, and their outputs are compared.
    Raises `ModelSourceError` for a file that is damaged or cannot be brought to operator set 18, `LayerError`,
    `MethodError`, `UnsupportedOperatorError`, `ExportError`, `VerificationError` or `OutputError`.
    """
    source = Path(source)
    chosen = find_methods(method)
    model = read_model(source)
    old = _old_explanation(model, source, renew=replace)
    target_path = _checked_path(source, path, renew=old is not None)
    prepare(model, str(source), output=output)
    image = picture_input(model.graph.inputs, image_input)
    explained = find_score(model.graph, kind=score, output=output, classes=classes, boxes=boxes)
    options = ArtifactOptions(
        methods=tuple(entry.name for entry in chosen),
        explain=explain,
        fuse=fuse,
        eigen_smooth=eigen_smooth,
        gradients=outputs == "all" or any(entry.differentiates for entry in chosen),
        preprocess=preprocess or (old.preprocess if old else None),
        labels=tuple(labels) if labels is not None else (old.labels if old else None),
        source=old.source if old else source.name,
        license=license or (old.license if old else None),
    )
    feed = sample_feed(model.graph.inputs, image=image, preprocess=options.preprocess)
    maps = FeatureMaps(model, score=explained.value, image=image)
    if layer is None and layout is not None:
        raise LayerError("a layout belongs to a layer that is named: give --layer as well, or leave --layout out")
    if layer is None and chosen and all(entry.target == "picture" for entry in chosen):
        targets = [picture_target(model.graph, image)]
    elif layer is None:
        targets = [maps.default(feed)]
    else:
        targets = [maps.named(name, layout) for name in ([layer] if isinstance(layer, str) else layer)]
    own = [y.name or "" for y in model.graph.outputs]
    info = add_explanation(model, targets, score=explained, image=image, options=options)
    errors = _check(model, targets, source, own, feed, explained.trial(len(feed[image.name or ""])))
    info = dataclasses.replace(info, verification=errors)
    describe(model, info)
    if outputs == "cam":
        drop_outputs(model, [layer_output(name, k) for name in (ACTIVATIONS, GRADIENTS) for k in range(len(targets))])
    write_model(model, target_path)
    return ExportReport(
        path=target_path,
        info=info,
        dynamic_batch=image.shape is None or not isinstance(image.shape[0], int),
        errors=errors,
    )


def feature_maps(
    source: Path, *, score: ScoreKind = "class", output: str | None = None, image_input: str | None = None
) -> tuple[list[Candidate], Target]:
    """The feature maps of ``source`` that lie on the way to its scores, and the one taken by default."""
    model = read_model(source)
    if METADATA_KEY in model.metadata_props:
        remove_explanation(model)
    prepare(model, str(source), output=output)
    image = picture_input(model.graph.inputs, image_input)
    maps = FeatureMaps(model, score=find_score(model.graph, kind=score, output=output).value, image=image)
    return maps.all, maps.default(sample_feed(model.graph.inputs, image=image))


_IMAGE_TYPES: Final[dict[ir.DataType, ImageType]] = {ir.DataType.FLOAT16: "float16", ir.DataType.UINT8: "uint8"}


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureForm:
    """What an ONNX file wants its picture to be: channels, height and width (0 where open), layout, type.

    preprocess: what an artifact says of it already.
    """

    size: tuple[int, int, int]
    layout: ImageLayout
    dtype: ImageType
    preprocess: Preprocess | None


def picture_form(
    source: Path, image_input: str | None = None, input_size: tuple[int, int, int] | None = None
) -> PictureForm:
    """What ``source`` wants its picture to be; ``input_size`` fills in what the file leaves open."""
    model = read_model(source)
    text = model.metadata_props.get(METADATA_KEY)
    info = None if text is None else ArtifactInfo.from_json(text)
    image = picture_input(model.graph.inputs, image_input or (info.image_input if info else None))
    dims = [dim if isinstance(dim, int) else 0 for dim in image.shape or ()]
    last = len(dims) == 4 and dims[3] in (1, 3, 4) and dims[1] not in (1, 3, 4)
    size = (dims[3], dims[1], dims[2]) if last else tuple(dims[1:4]) if len(dims) == 4 else (0, 0, 0)
    channels, height, width = (own or given for own, given in zip(size, input_size or (0, 0, 0), strict=True))
    return PictureForm(
        size=(channels, height, width),
        layout="nhwc" if last else "nchw",
        dtype="float16"
        if image.dtype == ir.DataType.FLOAT16
        else "uint8"
        if image.dtype == ir.DataType.UINT8
        else "float32",
        preprocess=info.preprocess if info else None,
    )


def default_path(source: Path) -> Path:
    """``NAME.cam.onnx`` beside ``source``."""
    return source.parent / f"{source.name.removesuffix('.onnx').removesuffix('.cam')}.cam.onnx"


def detach(source: str | Path, path: str | Path) -> None:
    """Write the model of the artifact ``source`` to ``path``, without its explanation.

    Raises `ModelSourceError` if ``source`` is damaged, `ExportError` if it is no artifact, and `OutputError`.
    """
    model = read_model(Path(source))
    if METADATA_KEY not in model.metadata_props:
        raise ExportError(f"'{source}' is a plain model, without an explanation: 'onnxcam attach' gives it one")
    remove_explanation(model)
    write_model(model, Path(path))


def _old_explanation(model: ir.Model, source: Path, *, renew: bool) -> ArtifactInfo | None:
    """The metadata of an artifact, its explanation removed; None for a plain model."""
    if METADATA_KEY not in model.metadata_props:
        if renew:
            raise ExportError(f"'{source}' is a plain model, with nothing to renew: leave --replace out")
        return None
    if renew:
        return remove_explanation(model)
    info = ArtifactInfo.from_json(model.metadata_props[METADATA_KEY])
    layers = ", ".join(f"'{layer.name}'" for layer in info.layers)
    raise ExportError(
        f"'{source}' is an artifact already: it explains {layers} by {', '.join(info.methods)}; renew it with --replace"
    )


def _checked_path(source: Path, path: str | Path | None, *, renew: bool) -> Path:
    """Where the artifact goes: never over a plain source."""
    found = Path(path) if path is not None else source if renew else default_path(source)
    if found.is_dir():
        raise ExportError(f"'{found}' is a folder: give the file's name with -o NAME.cam.onnx")
    if not found.parent.is_dir():
        raise ExportError(f"the folder '{found.parent}' does not exist: make it first, or choose another with -o")
    if not renew and found.exists() and found.samefile(source):
        raise ExportError(f"'{source}' is the source, which is never changed: choose another name with -o")
    return found


def _check(
    model: ir.Model,
    targets: Sequence[Target],
    source: Path,
    own: Sequence[str],
    feed: Mapping[str, np.ndarray],
    more: Mapping[str, np.ndarray],
) -> dict[str, float]:
    """Run plain and explained model on ``feed``: outputs must agree, and the score must depend on each target.

    The latter is seen from the gradients, where there are any. ``more`` is what the explained one takes besides.
    """
    grads = {layer_output(GRADIENTS, k): target.name for k, target in enumerate(targets)}
    grads = {name: layer for name, layer in grads.items() if any(y.name == name for y in model.graph.outputs)}
    try:
        session = cpu_session(model)
        own = [y.name for y in session.get_outputs() if y.name in own]
        names = [*own, *grads]
        got = dict(zip(names, session.run(names, {**feed, **more}), strict=True))
    except RUNTIME_ERRORS as error:
        raise ExportError(_why_not(error, source, own, feed)) from None
    del session
    refuse_not_finite(model, {f"the gradient at layer '{layer}'": got[name] for name, layer in grads.items()})
    for name, layer in grads.items():
        if not np.any(got[name]):
            raise LayerError(
                f"the score does not depend on layer '{layer}': its gradient is zero everywhere on a random "
                "picture; choose one that 'onnxcam layers' lists"
            )
    try:
        plain = _plain(source, own, feed)
    except RUNTIME_ERRORS:
        return {}  # an operator set that ONNX Runtime no longer runs, now brought up
    errors = {"outputs": max(relative_error(got[name], value) for name, value in zip(own, plain, strict=True))}
    limit = _COARSE if _is_coarse(model) else TOLERANCE
    if not errors["outputs"] <= limit:
        raise VerificationError(
            f"the outputs of '{source}' would change by {errors['outputs']:.1e} (relative; at most {limit:.0e} is let "
            "through), so nothing was written: please report the model"
        )
    return errors


def _plain(source: Path, own: Sequence[str], feed: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """The outputs ``own`` of ``source``, of which an artifact may ask what it is to explain: zeros."""
    session = start_session(str(source))
    asked = [x for x in session.get_inputs() if x.name not in feed]
    zeros = {x.name: np.zeros([d if isinstance(d, int) else 1 for d in x.shape], np.float32) for x in asked}
    found: list[np.ndarray] = session.run(list(own), {**feed, **zeros})
    return found


def _why_not(error: Exception, source: Path, own: Sequence[str], feed: Mapping[str, np.ndarray]) -> str:
    """Why the explained model does not run: often because the plain one does not."""
    reason = f"{str(error).strip().splitlines()[0]}"
    try:
        _plain(source, own, feed)
    except RUNTIME_ERRORS as plain:
        return f"ONNX Runtime cannot run '{source}' here, explained or not: {str(plain).strip().splitlines()[0]}"
    return f"ONNX Runtime runs '{source}', but not explained: {reason}; please report the model"


def _is_coarse(model: ir.Model) -> bool:
    """Whether the model calculates in half precision, or quantised."""
    return any(
        y.dtype in (ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.INT8, ir.DataType.UINT8)
        for node in model.graph
        for y in node.outputs
    )
