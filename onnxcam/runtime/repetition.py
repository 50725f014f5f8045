"""Explanations that take the model more than one run: of changed pictures, and of several views."""

from __future__ import annotations

__all__ = ["Repetition", "refuse_moved", "repeated"]

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from onnxcam.contract import (
    ACTIVATIONS,
    BOX_INDEX,
    GRADIENTS,
    SCORE_REGION,
    SCORE_WEIGHTS,
    LayerInfo,
    Preprocess,
    layer_output,
)
from onnxcam.errors import InputError
from onnxcam.runtime.augmentation import View, averaged
from onnxcam.runtime.explanation import Explanation
from onnxcam.runtime.perturbation import Entry
from onnxcam.runtime.perturbation.needs import is_picture
from onnxcam.runtime.perturbation.options import Settings
from onnxcam.runtime.perturbation.subject import Subject

if TYPE_CHECKING:
    from onnxcam.runtime.session import CamModel

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Repetition:
    """What is done to each picture beyond one run.

    entry, settings: the method that runs the model on changed pictures; None for the artifact's own maps.
    layer: position of the layer that is looked at; None where none is needed.
    views: in which the picture is looked at. batch: the most pictures to run at once.
    inputs: gives the model's further inputs for so many copies of the picture.
    """

    entry: Entry | None
    settings: Settings | None
    layer: int | None
    views: Sequence[View]
    batch: int
    inputs: Callable[[int], Mapping[str, NDArray[Any]]] = lambda copies: {}


def repeated(
    model: CamModel, tensor: NDArray[Any], plain: Explanation, how: Repetition, told: Callable[[float], None]
) -> Explanation:
    """``plain``, the explanation of the model's input ``tensor``, with the maps that ``how`` asks for.

    The classes stay those of ``plain``. told: takes the share that is done, 0-1.
    """
    assert model.preprocess is not None  # there is a tensor
    preprocess = model.preprocess
    picture = _planar(tensor, preprocess)
    seen = [view.of(picture) for view in how.views]

    def run(
        pictures: Floats, names: Sequence[str], index: int | None, looks: Sequence[View] = ()
    ) -> Mapping[str, NDArray[Any]]:
        rows = None if index is None else [[index] * model.explained] * len(pictures)
        others = None
        if plain.against is not None and index == plain.class_index:
            others = [[plain.against] * model.explained] * len(pictures)
        further = _seen_by(looks, how.inputs(len(pictures)))
        tensors = _as_input(pictures, preprocess)
        values = model.outputs(tensors, names, classes=rows, others=others, inputs=further)
        if model.explained == 1:
            return values
        whole = {model.info.score.output, *(layer_output(ACTIVATIONS, k) for k in range(len(model.layers)))}
        return {name: x if name in whole else x[:, 0] for name, x in values.items()}  # all K are the same class

    if how.entry is None:
        assert how.layer is not None
        names = model.maps.outputs(how.layer)
        cams = _own_maps(seen, how.views, names, partial(run, index=plain.class_index), how.batch, told)
    else:
        cams = {how.entry.name: _maps(model, seen, plain, how, run, told)}
    size = picture.shape[1], picture.shape[2]
    joined = {method: averaged(how.views, each, size) for method, each in cams.items()}
    if how.entry is None:
        return replace(plain, cam=joined[plain.method or ""], cams=joined)
    name = how.entry.name
    layer = None if how.layer is None else model.layers[how.layer]
    return replace(plain, cam=joined[name], method=name, layer=layer, cams={**plain.cams, **joined})


def _maps(
    model: CamModel,
    seen: Sequence[Floats],
    plain: Explanation,
    how: Repetition,
    run: Callable[[Floats, Sequence[str], int | None], Mapping[str, NDArray[Any]]],
    told: Callable[[float], None],
) -> list[Floats]:
    """The map of each view, by a method that changes pictures."""
    assert how.entry is not None
    assert how.settings is not None
    mapper = how.entry.load()
    layer = how.layer or 0
    cams = []
    for i, picture in enumerate(seen):
        subject = Subject(
            picture=picture,
            run=run,
            score=model.info.score,
            number_output=model.number_output,
            stepped_over=model.info.extra.get("stepped_over"),
            weights=_weights(plain),
            layer=None if how.layer is None else _layer(model, how.layer),
            activations_output=layer_output(ACTIVATIONS, layer),
            gradients_output=layer_output(GRADIENTS, layer),
            batch=how.batch,
            told=lambda share, i=i: told((i + share) / len(seen)),  # type: ignore[misc]
            what=how.entry.name,
        )
        cams.append(mapper(subject, how.settings))
    return cams


def _own_maps(
    seen: Sequence[Floats],
    looks: Sequence[View],
    names: Mapping[str, str],
    run: Callable[..., Mapping[str, NDArray[Any]]],
    batch: int,
    told: Callable[[float], None],
) -> dict[str, list[Floats]]:
    """The artifact's own maps of each view, by method; ``names`` are their outputs."""
    cams: dict[str, list[Floats]] = {method: [] for method in names}
    for start in range(0, len(seen), batch):
        part = slice(start, start + batch)
        values = run(np.stack(seen[part]), [*names.values()], looks=looks[part])
        for method, name in names.items():
            cams[method] += list(values[name])
        told(min(start + batch, len(seen)) / len(seen))
    return cams


def _seen_by(looks: Sequence[View], inputs: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
    """``inputs`` of one picture for each of its views: a region that was asked for lies elsewhere in some."""
    region = inputs.get(SCORE_REGION)
    if region is None or not any(look.moves for look in looks):
        return inputs
    return {**inputs, SCORE_REGION: np.stack([look.moved(region)[0] for look in looks])}


def refuse_moved(looks: Sequence[View], inputs: Mapping[str, NDArray[Any]]) -> None:
    """Raise `InputError` where ``inputs`` ask for what cannot be found again in all of ``looks``."""
    if not any(look.moves for look in looks):
        return
    if BOX_INDEX in inputs and (inputs[BOX_INDEX] >= 0).any():
        raise InputError(
            f"box {int(inputs[BOX_INDEX].max())} lies elsewhere in a picture that is flipped or scaled: choose the box "
            "by a rank, such as -1, or leave flip and scale out"
        )
    if max(np.shape(inputs.get(SCORE_WEIGHTS, ()))[2:], default=1) > 1:
        raise InputError(
            "weights of an output with places weigh others in a picture that is flipped or scaled: leave flip and "
            "scale out"
        )


def _layer(model: CamModel, position: int) -> LayerInfo:
    """What the artifact says of a layer; the picture itself lies as the preprocessing says."""
    layer = model.info.layers[position]
    if not is_picture(layer, model.info) or model.preprocess is None:
        return layer
    return replace(layer, layout="NHWC" if model.preprocess.layout == "nhwc" else "NCHW")


def _weights(plain: Explanation) -> dict[int | None, float]:
    """What is explained, as weights of the classes."""
    if plain.explain == "counterfactual":
        return {plain.class_index: -1.0}
    weights: dict[int | None, float] = {plain.class_index: 1.0}
    return weights if plain.against is None else weights | {plain.against: -1.0}


def _planar(tensor: NDArray[Any], preprocess: Preprocess) -> Floats:
    """The model's input as float32 [C, H, W]."""
    planar = tensor.transpose(2, 0, 1) if preprocess.layout == "nhwc" else tensor
    return np.ascontiguousarray(planar, np.float32)


def _as_input(pictures: Floats, preprocess: Preprocess) -> NDArray[Any]:
    """Pictures [B, C, H, W] as the model takes them."""
    values = pictures.transpose(0, 2, 3, 1) if preprocess.layout == "nhwc" else pictures
    if preprocess.dtype == "uint8":
        values = values.round().clip(0, 255)
    return np.ascontiguousarray(values, preprocess.dtype)
