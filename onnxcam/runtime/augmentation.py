"""Several views of one picture, whose maps are brought back to it and averaged."""

from __future__ import annotations

__all__ = ["AUGMENTATIONS", "View", "averaged", "views"]

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxcam.errors import MethodError, nearest_names
from onnxcam.runtime.geometry import interpolation

Floats = NDArray[np.float32]

AUGMENTATIONS = ("flip", "scale", "intensity")
"""``flip``: as it is and mirrored left to right. ``scale``: as it is, and a tenth smaller and larger about the middle.
``intensity``: the model's input as it is, times 0.9 and times 1.1, as pytorch-grad-cam's ``aug_smooth``."""

_FACTORS = (1.0, 0.9, 1.1)


@dataclass(frozen=True, slots=True)
class View:
    """A way to look at a picture: mirrored, zoomed by ``scale`` about its middle, times ``intensity``."""

    flip: bool = False
    scale: float = 1.0
    intensity: float = 1.0

    def of(self, picture: Floats) -> Floats:
        """The model's input [C, H, W] in this view. Beyond the border of a smaller one, its edge goes on."""
        return np.asarray(self.moved(picture) * np.float32(self.intensity))

    def moved(self, planes: Floats) -> Floats:
        """What lies over the picture, [C, h, w], as it lies in this view."""
        if self.scale != 1:
            rows, columns = (
                interpolation(n, n, n / 2 - n / 2 / self.scale, n / self.scale, n) for n in planes.shape[1:]
            )
            planes = np.asarray(rows @ planes @ columns.T)
        return planes[:, :, ::-1] if self.flip else planes

    @property
    def moves(self) -> bool:
        """Whether things lie elsewhere in this view."""
        return self.flip or self.scale != 1

    def back(self, cam: Floats, size: tuple[int, int] | None) -> tuple[Floats, Floats]:
        """The map ``cam`` [h, w] of this view as one of the picture, and 1 where the view saw the picture, else 0.

        size: height and width of the result; None leaves those of the map, where views differ in no scale.
        """
        if self.flip:
            cam = cam[:, ::-1]
        if size is None:
            return cam, np.ones_like(cam)
        starts = [n / 2 - n / 2 * self.scale for n in size]
        rows, columns = (
            interpolation(cells, n, start, n * self.scale, n)
            for cells, n, start in zip(cam.shape, size, starts, strict=True)
        )
        inside = [
            (at > 0) & (at < n)
            for n, at in ((n, s + (np.arange(n) + 0.5) * self.scale) for n, s in zip(size, starts, strict=True))
        ]
        return rows @ cam @ columns.T, np.outer(*inside).astype(np.float32)


def views(names: Sequence[str]) -> list[View]:
    """Every combination of the augmentations ``names``, the picture as it is first.

    Raises `MethodError` for a name that is not among `AUGMENTATIONS`.
    """
    for name in names:
        if name not in AUGMENTATIONS:
            near = nearest_names(name, AUGMENTATIONS) or f"there are {', '.join(AUGMENTATIONS)}"
            raise MethodError(f"there is no augmentation '{name}': {near}")
    flips = (False, True) if "flip" in names else (False,)
    scales = _FACTORS if "scale" in names else (1.0,)
    intensities = _FACTORS if "intensity" in names else (1.0,)
    return [View(*each) for each in itertools.product(flips, scales, intensities)]


def averaged(looks: Sequence[View], cams: Sequence[Floats], size: tuple[int, int]) -> Floats:
    """The mean of the maps ``cams`` of each of ``looks``, at each place over those that saw it.

    It is as large as the maps are, or ``size``, the model's input, where the views differ in scale: cells of a map
    that is made of few do not lie on one another then.
    """
    common = size if any(look.scale != 1 for look in looks) else None
    back = [look.back(cam, common) for look, cam in zip(looks, cams, strict=True)]
    total = sum(cam * seen for cam, seen in back)
    return np.asarray(total / sum(seen for _, seen in back), np.float32)
