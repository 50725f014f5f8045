"""An artifact, loaded and ready to answer and explain."""

from __future__ import annotations

__all__ = ["CamModel", "Prepared", "load"]

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from onnxcam.contract import (
    AGAINST_INDEX,
    CAM,
    CLASS_INDEX,
    EXPLAINED_BOXES,
    EXPLAINED_CLASS,
    SCORE,
    SCORE_INPUTS,
    SCORE_REFERENCE,
    SCORE_REGION,
    ArtifactInfo,
    Preprocess,
    ResizeMode,
)
from onnxcam.errors import (
    ArtifactError,
    ClassError,
    InputError,
)
from onnxcam.runtime.asked import Questions, rows_of
from onnxcam.runtime.augmentation import views
from onnxcam.runtime.choices import ClassChoices, Classes
from onnxcam.runtime.closing import Closing
from onnxcam.runtime.engine import Engine
from onnxcam.runtime.explanation import Explanation
from onnxcam.runtime.geometry import place
from onnxcam.runtime.maps import Maps
from onnxcam.runtime.perturbation import METHODS, Perturbation
from onnxcam.runtime.perturbation.needs import layer_for
from onnxcam.runtime.preprocess import Prepared, as_bgr, model_input
from onnxcam.runtime.regions import Box, Point
from onnxcam.runtime.repetition import Repetition, refuse_moved, repeated
from onnxcam.runtime.results import Results
from onnxcam.runtime.shipped import shipped_model


def load(
    path: str | PathLike[str] | None = None,
    *,
    providers: str | Sequence[str] | None = None,
    preprocess: Preprocess | None = None,
    resize: ResizeMode | None = None,
    threads: int | None = None,
    spinning: bool = True,
) -> CamModel:
    """The artifact at ``path``, ready to run; None is the model that ships.

    providers: names such as ``"cpu"``, ``"cuda"`` or ``"CUDAExecutionProvider"``, best first; None is all that are
        installed in ONNX Runtime's order, except TensorRT and Azure, which are used when asked for by name.
    preprocess: takes the place of what the artifact says about its input.
    resize: takes the place of its resize mode alone: with ``"letterbox"`` or ``"stretch"`` a model that crops sees all
        of a wide picture.
    threads: that work on one picture; None is as many as there are cores.
    spinning: whether they wait for the next picture without sleeping. It saves a fraction of a millisecond where the
        machine does nothing else, and takes the cores from whatever else there is to do, such as decoding a video.

    Raises `ArtifactError` if the file is missing or no artifact this version can run, and `ProviderError` if a
    provider is not installed. Warns (`RuntimeWarning`) if one is installed but could not start.
    """
    return CamModel(path, providers=providers, preprocess=preprocess, resize=resize, threads=threads, spinning=spinning)


class CamModel(Closing):
    """A loaded artifact. Used in a ``with`` statement it gives the device memory back at the end.

    path: the file. info: its metadata. labels, classes: of the model's answer.
    explained: how many classes of each picture are explained in one run.
    methods, layers: the names by which its maps are chosen.
    preprocess: how pictures become its input; None if neither artifact nor caller said so.

    `explain` does everything at once. `prepare` (any thread) and `run` (one batch, one pass) are its two halves, for a
    pipeline that overlaps them.
    """

    def __init__(
        self,
        path: str | PathLike[str] | None = None,
        *,
        providers: str | Sequence[str] | None = None,
        preprocess: Preprocess | None = None,
        resize: ResizeMode | None = None,
        threads: int | None = None,
        spinning: bool = True,
    ) -> None:
        self.path = shipped_model() if path is None else Path(path)
        self._engine = engine = Engine(self.path, providers, threads=threads, spinning=spinning)
        self.info = _info(engine)
        self.preprocess = preprocess or self.info.preprocess
        if resize and self.preprocess:
            self.preprocess = replace(self.preprocess, resize=resize)
        self.labels = self.info.labels
        self.classes = self.info.score.classes
        self.explained = self.info.score.explained
        self.maps = Maps(self.info, engine.outputs, self.path)
        self.methods, self.layers = self.maps.methods, self.maps.layers
        kind = self.info.score.kind
        stated = {
            "class": [EXPLAINED_CLASS],
            "segmentation": [EXPLAINED_CLASS],
            "boxes": [EXPLAINED_CLASS, EXPLAINED_BOXES],
            "weights": [SCORE],
            "similarity": [SCORE],
        }.get(kind, [])
        missing = [name for name in (CAM, *stated, self.info.score.output) if name not in engine.outputs]
        if missing:
            raise ArtifactError(f"'{self.path}' lacks the output '{missing[0]}': export the model again")
        if self.info.image_input not in engine.inputs:
            raise ArtifactError(f"'{self.path}' lacks the input '{self.info.image_input}': export the model again")
        shape = engine.inputs[self.info.image_input]
        self._batch = shape[0] if isinstance(shape[0], int) else None
        self._alike = {name for name, x in engine.inputs.items() if isinstance(shape[0], str) and x[:1] == shape[:1]}
        self._axes = len(shape)
        self._questions = Questions(engine, self.info, batch=self._batch)

    @property
    def providers(self) -> tuple[str, ...]:
        """The execution providers that really run it, best first."""
        return self._engine.providers

    def close(self) -> None:
        """Give session and device memory back. May be called twice."""
        self._engine.close()

    @overload
    def explain(
        self,
        image: Sequence[NDArray[Any]],
        *,
        class_index: ClassChoices | None = ...,
        against: ClassChoices | None = ...,
        method: str | None = ...,
        layer: str | None = ...,
        score_weights: NDArray[Any] | None = ...,
        box: Box | None = ...,
        point: Point | None = ...,
        mask: NDArray[Any] | None = ...,
        box_index: int | Sequence[int] | None = ...,
        box_threshold: float | None = ...,
        reference: NDArray[Any] | None = ...,
        perturbation: Perturbation | None = ...,
        augment: Sequence[str] = ...,
        progress: Callable[[float], None] | None = ...,
        inputs: Mapping[str, NDArray[Any]] | None = ...,
    ) -> list[Explanation]: ...

    @overload
    def explain(
        self,
        image: NDArray[Any],
        *,
        class_index: ClassChoices | None = ...,
        against: ClassChoices | None = ...,
        method: str | None = ...,
        layer: str | None = ...,
        score_weights: NDArray[Any] | None = ...,
        box: Box | None = ...,
        point: Point | None = ...,
        mask: NDArray[Any] | None = ...,
        box_index: int | Sequence[int] | None = ...,
        box_threshold: float | None = ...,
        reference: NDArray[Any] | None = ...,
        perturbation: Perturbation | None = ...,
        augment: Sequence[str] = ...,
        progress: Callable[[float], None] | None = ...,
        inputs: Mapping[str, NDArray[Any]] | None = ...,
    ) -> Any: ...

    def explain(
        self,
        image: Any,
        *,
        class_index: ClassChoices | None = None,
        against: ClassChoices | None = None,
        method: str | None = None,
        layer: str | None = None,
        score_weights: NDArray[Any] | None = None,
        box: Box | None = None,
        point: Point | None = None,
        mask: NDArray[Any] | None = None,
        box_index: int | Sequence[int] | None = None,
        box_threshold: float | None = None,
        reference: NDArray[Any] | None = None,
        perturbation: Perturbation | None = None,
        augment: Sequence[str] = (),
        progress: Callable[[float], None] | None = None,
        inputs: Mapping[str, NDArray[Any]] | None = None,
    ) -> Any:
        """The `Explanation` of ``image``; of a list or a batch of images, a list of them.

        image: uint8 BGR [H, W, 3]; grey [H, W], BGRA [H, W, 4] and uint16 are converted. A list may mix sizes; a
            batch is an array [N, H, W, 3]. All of it runs in one pass where the model's batch is dynamic.
        class_index: the class to explain, one for all images or one each: an index, a rank where negative (-1 the top
            class), or a label. Of an artifact that explains K classes of each image, K of them for all images, or a
            list of K for each; `Explanation.classes` then has an explanation of each. None is the top class, or K.
        against: where the artifact makes contrasts, the class that it is set apart from; a rank counts the others
            alone, and None is the likeliest of them.
        method, layer: which of the artifact's `methods` and `layers` `Explanation.cam` is of; None is the first. All
            maps come in the same pass, and `Explanation.cams` has those of the other methods. A method that runs the
            model on changed pictures (`onnxcam.runtime.perturbation`) needs no map in the artifact.
        perturbation: how such a method changes pictures.
        augment: views whose maps are averaged, of any method: names among `onnxcam.runtime.augmentation.AUGMENTATIONS`.
        progress: called with the share of the work that is done, 0-1, where it takes many runs.
        score_weights: where the artifact explains a weighting of its output, the weights: shaped as the output of one
            image for all of them, or with an axis of as many in front.
        box, point, mask: where the artifact explains a segmentation, the part of each image that counts: x, y, width
            and height, or x and y, in pixels of the image, or an array [H, W] that is not 0 there. None is where the
            class is predicted.
        reference: where the artifact explains a similarity, the embedding to be similar to: [D] for all images, or an
            axis of as many in front; `embedding` gives that of an image.
        box_index: where the artifact explains a detector's box, which, one for all images or one each: a number, or a
            rank where negative; -1 is the box at which the class is likeliest.
        box_threshold: where it explains all boxes of a class, the probability above which.
        inputs: the model's further inputs, by name, as they are.

        Raises, before running, `ClassError`, `MethodError` or `LayerError` if the artifact has no such class, method or
        layer, and `InputError` if an image does not fit.
        """
        many = isinstance(image, Sequence) or (isinstance(image, np.ndarray) and image.ndim == 4)
        images = list(image) if many else [image]
        prepared = [self.prepare(each) for each in images]
        asked = self._questions.asked(
            prepared,
            score_weights=score_weights,
            box=box,
            point=point,
            mask=mask,
            box_index=box_index,
            box_threshold=box_threshold,
            reference=reference,
        )
        self.check(
            len(images),
            class_index=class_index,
            against=against,
            method=method,
            layer=layer,
            perturbation=perturbation,
            augment=augment,
        )
        explanations = self.run(
            prepared,
            class_index=class_index,
            against=against,
            method=method,
            layer=layer,
            perturbation=perturbation,
            augment=augment,
            progress=progress,
            inputs={**(inputs or {}), **asked},
        )
        return explanations if many else explanations[0]

    @property
    def _what(self) -> str:
        """What is explained that is no class."""
        whats = {"weights": "a weighting of", "similarity": "the similarity to a reference of"}
        return f"{whats.get(self.info.score.kind, '')} its output '{self.info.score.output}'".lstrip()

    def embedding(self, image: NDArray[Any]) -> NDArray[np.float32]:
        """What a model that explains a similarity makes of ``image``, float32 [D]: a ``reference`` for `explain`.

        Raises `InputError` for a model that explains something else.
        """
        tensor = self.prepare(image).tensor
        reference = self._questions.any_reference()
        values = self.outputs(tensor[None], [self.info.score.output], inputs={SCORE_REFERENCE: reference})
        found: NDArray[np.float32] = values[self.info.score.output][0].astype(np.float32)
        return found

    def asked(
        self, *, box_index: int | None = None, box_threshold: float | None = None, reference: NDArray[Any] | None = None
    ) -> dict[str, NDArray[Any]]:
        """``inputs`` for `run` that ask the same of every picture, as `explain` does. Raises `InputError`."""
        return self._questions.asked_of_any(box_index=box_index, box_threshold=box_threshold, reference=reference)

    def inputs(self, batch: int) -> dict[str, tuple[list[int], str]]:
        """Shape and NumPy type of each input that must be given, for so many pictures (or as many as the model fixes).

        Raises `InputError` if another axis is open and nothing says how long it is.
        """
        stated = self.preprocess
        sizes = {} if stated is None else dict(zip("hw", (stated.height, stated.width), strict=True))
        places = "nhwc" if stated and stated.layout == "nhwc" else "nchw"
        forms = {}
        for name, shape in self._engine.inputs.items():
            known = sizes | {"n": batch} if name == self.info.image_input else {"n": batch}
            axes = [x if isinstance(x, int) else known.get(places[i : i + 1]) for i, x in enumerate(shape)]
            lengths = [x for x in axes if x is not None]
            if len(lengths) < len(axes):
                raise InputError(f"the input '{name}' of '{self.path}' is {shape}: nothing says how long its axes are")
            forms[name] = (lengths, self._engine.types[name])
        return forms

    def prepare(self, image: NDArray[Any]) -> Prepared:
        """``image`` as the model's input. Touches no state: safe in any thread. Raises `InputError`."""
        if self._axes != 4:
            raise InputError(
                f"'{self.path}' takes no picture but '{self.info.image_input}' with {self._axes} axes: run it with "
                "onnxruntime on such an array, which gives its map as the output 'cam'"
            )
        if self.preprocess is None:
            raise InputError(
                f"'{self.path}' does not say how a picture becomes its input: make it again with --mean and --std, "
                "or pass preprocess=onnxcam.Preprocess(...) to load"
            )
        picture = as_bgr(image)
        placement = place(picture.shape[0], picture.shape[1], self.preprocess)
        return Prepared(picture, placement, model_input(picture, placement, self.preprocess))

    def run(
        self,
        prepared: Sequence[Prepared],
        *,
        class_index: ClassChoices | None = None,
        against: ClassChoices | None = None,
        method: str | None = None,
        layer: str | None = None,
        perturbation: Perturbation | None = None,
        augment: Sequence[str] = (),
        progress: Callable[[float], None] | None = None,
        inputs: Mapping[str, NDArray[Any]] | None = None,
        feature_maps: bool = True,
    ) -> list[Explanation]:
        """The explanations of what `prepare` gave, in one pass (or as many as a fixed batch size asks for).

        feature_maps: whether `Explanation.activations` and `gradients` are wanted, most of what there is to fetch.
        A method on changed pictures and ``augment`` then take their runs for each picture and each explained class.
        """
        classes, others = self.check(
            len(prepared),
            class_index=class_index,
            against=against,
            method=method,
            layer=layer,
            perturbation=perturbation,
            augment=augment,
        )
        shown = self.maps.find(None if method in METHODS else method, None if method in METHODS else layer)
        how = self._repetition(method, layer, perturbation, augment)
        if how is not None:
            refuse_moved(how.views, inputs or {})
        explanations = []
        if prepared:
            results = Results(self.info, self.maps, shown, self.path, feature_maps=feature_maps)
            tensors = np.stack([each.tensor for each in prepared])
            names = [name for name in results.names if name in self._engine.outputs]
            values = self.outputs(tensors, names, classes=classes, others=others, inputs=inputs)
            explanations = list(results.explanations(prepared, values, region=(inputs or {}).get(SCORE_REGION)))
        return explanations if how is None else self._repeated(explanations, prepared, how, inputs or {}, progress)

    def _repeated(
        self,
        plain: Sequence[Explanation],
        prepared: Sequence[Prepared],
        how: Repetition,
        inputs: Mapping[str, NDArray[Any]],
        progress: Callable[[float], None] | None,
    ) -> list[Explanation]:
        """``plain``, what one run says of each picture, with maps that are made of many runs."""
        count = len(plain) * self.explained

        def one(i: int, c: int, explanation: Explanation) -> Explanation:
            def further(copies: int) -> dict[str, NDArray[Any]]:
                own = rows_of(inputs, i, 1, len(prepared), fixed=False)
                cut = {name for name in own if name in self._alike and name not in SCORE_INPUTS}
                return {name: x[i : i + 1].repeat(copies, 0) if name in cut else x for name, x in own.items()}

            def told(share: float) -> None:
                if progress:
                    progress((i * self.explained + c + share) / count)

            return repeated(self, prepared[i].tensor, explanation, replace(how, inputs=further), told)

        made = [[one(i, c, each) for c, each in enumerate(picture.classes)] for i, picture in enumerate(plain)]
        return [replace(first, others=tuple(others)) for first, *others in made]

    def outputs(
        self,
        tensors: NDArray[Any],
        names: Sequence[str],
        *,
        classes: Sequence[Sequence[int]] | None = None,
        others: Sequence[Sequence[int]] | None = None,
        inputs: Mapping[str, NDArray[Any]] | None = None,
    ) -> dict[str, NDArray[Any]]:
        """The graph's outputs ``names`` for a batch of the model's inputs, in one pass or as a fixed batch asks for.

        classes, others: as `check` gives them. inputs: the further ones. Raises `InputError` if the model cannot take
        them.
        """
        chosen = {CLASS_INDEX: classes, AGAINST_INDEX: others}
        choices = {name: np.asarray(rows, np.int64) for name, rows in chosen.items() if rows is not None}
        if self.explained == 1:
            choices = {name: rows[:, 0] for name, rows in choices.items()}
        size = self._batch or max(len(tensors), 1)
        parts = [
            self._pass(
                names,
                {self.info.image_input: tensors, **choices},
                slice(start, min(start + size, len(tensors))),
                rows_of(inputs or {}, start, size, len(tensors), fixed=self._batch is not None),
            )
            for start in range(0, len(tensors), size)
        ]
        return parts[0] if len(parts) == 1 else {name: np.concatenate([part[name] for part in parts]) for name in names}

    @property
    def number_output(self) -> str:
        """The output that is explained where it is no class: one number for each picture."""
        return SCORE if SCORE in self._engine.outputs else self.info.score.output

    def check(
        self,
        count: int = 1,
        *,
        class_index: ClassChoices | None = None,
        against: ClassChoices | None = None,
        method: str | None = None,
        layer: str | None = None,
        perturbation: Perturbation | None = None,
        augment: Sequence[str] = (),
    ) -> tuple[list[list[int]] | None, list[list[int]] | None]:
        """The classes to explain in each of ``count`` images, and those to set them apart from, where any were named.

        Raises what `explain` raises before running.
        """
        self._repetition(method, layer, perturbation, augment)
        if class_index is not None and self.info.score.kind in ("weights", "number", "similarity"):
            raise ClassError(f"'{self.path}' explains no class but {self._what}: leave the class out")
        known = Classes(count=self.classes, explained=self.explained, labels=self.labels)
        classes = None if class_index is None else known.chosen(class_index, count)
        if against is None:
            return classes, None
        if self.info.explain != "contrast":
            raise ClassError(
                f"'{self.path}' sets no class apart from another: make it with --explain contrast to use 'against'"
            )
        return classes, known.alike(against, count)

    def _repetition(
        self, method: str | None, layer: str | None, perturbation: Perturbation | None, augment: Sequence[str]
    ) -> Repetition | None:
        """What is to be done beyond one run; None where one run does. Raises `MethodError` or `LayerError`."""
        looks = views(augment)
        options = perturbation or Perturbation()
        batch = self._batch or options.batch
        entry = METHODS.get(method or "")
        if entry is not None:
            k = None if layer is None else self.maps.layer(layer)
            at = layer_for(entry, self.info, self._engine.outputs, self.path, k)
            return Repetition(entry=entry, settings=entry.settings(options), layer=at, views=looks, batch=batch)
        m, k = self.maps.find(method, layer)
        if perturbation is not None:
            perturbation.settings(self.methods[m], samples=None, sigma=None, windows=False)  # it takes none of them
        return None if len(looks) == 1 else Repetition(entry=None, settings=None, layer=k, views=looks, batch=batch)

    def _pass(
        self,
        names: Sequence[str],
        feeds: Mapping[str, NDArray[Any]],
        part: slice,
        inputs: Mapping[str, NDArray[Any]],
    ) -> dict[str, NDArray[Any]]:
        """The outputs ``names`` for that ``part`` of the pictures; a fixed batch is filled with repeats of the last."""
        count = part.stop - part.start
        surplus = (self._batch or count) - count
        filled = {name: np.concatenate([x[part], x[part][-1:].repeat(surplus, 0)]) for name, x in feeds.items()}
        values = self._engine.run(names, {**inputs, **filled})
        return {name: value[:count] for name, value in values.items()}


def _info(engine: Engine) -> ArtifactInfo:
    if engine.metadata is None:
        raise ArtifactError(
            f"'{engine.path}' is a plain ONNX model without a CAM: make an artifact of it with "
            f"'onnxcam attach {engine.path}'"
        )
    return ArtifactInfo.from_json(engine.metadata)
