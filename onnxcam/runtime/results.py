"""What one run of an artifact gives, read as explanations."""

from __future__ import annotations

__all__ = ["Results"]

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxcam.contract import (
    ACTIVATIONS,
    AGAINST_CLASS,
    EXPLAINED_BOXES,
    EXPLAINED_CLASS,
    GRADIENTS,
    SCORE,
    ArtifactInfo,
    layer_output,
)
from onnxcam.errors import InputError
from onnxcam.runtime.answers import Detections, answer
from onnxcam.runtime.explanation import Explanation
from onnxcam.runtime.maps import Maps
from onnxcam.runtime.preprocess import Prepared

Values = Mapping[str, NDArray[Any]]


class Results:
    """The explanations by one method at one layer of the artifact at ``path``.

    shown: the positions of method and layer among those of ``maps``. feature_maps: whether they are read too.
    """

    def __init__(
        self, info: ArtifactInfo, maps: Maps, shown: tuple[int, int], path: Path, *, feature_maps: bool = True
    ) -> None:
        self._info, self._score, self._maps, self._path = info, info.score, maps, path
        self._method, self._layer = maps.methods[shown[0]], maps.place(*shown)
        self._cams = maps.outputs(shown[1])
        self._feature_maps = feature_maps
        self._activations, self._gradients = (layer_output(name, shown[1]) for name in (ACTIVATIONS, GRADIENTS))

    @property
    def names(self) -> list[str]:
        """The outputs that are read, as far as the artifact has them."""
        boxes = [self._score.boxes.output] if self._score.boxes else []
        chosen = [EXPLAINED_CLASS, AGAINST_CLASS, EXPLAINED_BOXES, SCORE, self._score.output, *boxes]
        layer = [self._activations, self._gradients] if self._feature_maps else []
        return list(dict.fromkeys([*chosen, *layer, *self._cams.values()]))

    def explanations(
        self, prepared: Sequence[Prepared], values: Values, *, region: NDArray[np.float32] | None
    ) -> Iterator[Explanation]:
        """An explanation of each of the pictures ``prepared``, of which the outputs have the ``values``.

        region: of a segmentation, the part of each picture, or of all, that was asked for. Raises `InputError` for an
        answer or a map that is NaN or infinite.
        """
        for i, each in enumerate(prepared):
            first, *others = [
                self._explanation(each, i, k, values, None if region is None else region[i % len(region)])
                for k in range(self._score.explained)
            ]
            yield replace(first, others=tuple(others))

    def _explanation(
        self, prepared: Prepared, i: int, k: int, values: Values, region: NDArray[np.float32] | None
    ) -> Explanation:
        """That of the picture with position ``i``, of the class that is explained in it at position ``k``."""

        def of_class(name: str) -> Any:
            if name not in values:
                return None
            return values[name][i] if self._score.explained == 1 else values[name][i, k]

        output = values[self._score.output][i]
        index, against = of_class(EXPLAINED_CLASS), of_class(AGAINST_CLASS)
        boxes = self._score.boxes
        found = answer(
            self._score,
            output,
            explained=None if index is None else int(index),
            number=float(np.reshape(values[SCORE][i] if SCORE in values else output, -1)[0]),
            region=region,
            detections=Detections(
                sides=values[boxes.output][i], marked=of_class(EXPLAINED_BOXES), placement=prepared.placement
            )
            if boxes
            else None,
        )
        cams = {method: of_class(name) for method, name in self._cams.items()}
        self._refuse_not_finite(f"the answer '{self._score.output}'", found.score)
        self._refuse_not_finite(f"the map by '{self._method}'", cams[self._method])
        labels = self._info.labels
        return Explanation(
            class_index=None if index is None else int(index),
            label=labels[index] if labels and index is not None else None,
            score=found.score,
            scores=found.scores,
            output=output,
            region=found.region,
            boxes=found.boxes,
            box_scores=found.box_scores,
            cam=cams[self._method],
            activations=values[self._activations][i] if self._activations in values else None,
            gradients=of_class(self._gradients),
            picture=prepared.picture,
            placement=prepared.placement,
            labels=labels,
            method=self._method,
            layer=self._layer,
            cams=cams,
            explain=self._info.explain,
            against=None if against is None else int(against),
        )

    def _refuse_not_finite(self, what: str, values: NDArray[Any] | float) -> None:
        if not np.isfinite(values).all():
            raise InputError(
                f"{what} of '{self._path}' is NaN or infinite for this picture: look for such values in the weights, "
                "or run a half-precision model in float32"
            )
