"""From the classes that a user chooses to what an artifact's `CLASS_INDEX` takes."""

from __future__ import annotations

__all__ = ["ClassChoice", "ClassChoices", "Classes"]

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from onnxcam.errors import ClassError
from onnxcam.runtime.labels import class_named

ClassChoice: TypeAlias = int | str
"""An index, a rank where negative (-1 the top class), or a label."""
ClassChoices: TypeAlias = ClassChoice | Sequence[ClassChoice] | Sequence[Sequence[ClassChoice]]
"""One class for all pictures or one each; of an artifact that explains K of each picture, K for all or K each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Classes:
    """The ``count`` classes of a model, of which ``explained`` are explained in each picture, and their labels."""

    count: int
    explained: int
    labels: Sequence[str] | None

    def chosen(self, choices: ClassChoices, pictures: int) -> list[list[int]]:
        """Indices or ranks, as many as are explained, for each of so many pictures.

        Raises `ClassError` if there are too many or too few, or one does not exist.
        """
        if self.explained > 1:
            return self._several(choices, pictures)
        if not _is_list(choices):
            return [[self._one(choices)]] * pictures
        if len(choices) != pictures:  # type: ignore[arg-type]
            count = len(choices)  # type: ignore[arg-type]
            raise ClassError(f"there are {pictures} images and {count} classes: give one class, or one each")
        return [[self._one(each)] for each in choices]  # type: ignore[union-attr]

    def alike(self, choice: ClassChoices, pictures: int) -> list[list[int]]:
        """The same, but one choice alone goes for all that is explained."""
        if self.explained > 1 and not _is_list(choice):
            return [[self._one(choice)] * self.explained] * pictures
        return self.chosen(choice, pictures)

    def _several(self, choices: ClassChoices, pictures: int) -> list[list[int]]:
        rows: Any = choices if _is_list(choices) else [choices]
        nested = [_is_list(row) for row in rows]
        if any(nested) and not all(nested):
            raise ClassError(f"classes and lists of classes are mixed: give {self.explained}, or as many for each")
        if not any(nested):
            rows = [rows] * pictures
        elif len(rows) != pictures:
            raise ClassError(f"there are {pictures} images and classes for {len(rows)}: give a list for each image")
        wrong = [len(row) for row in rows if len(row) != self.explained]
        if wrong:
            raise ClassError(
                f"this model explains {self.explained} classes of each image at once, and {wrong[0]} "
                f"{'was' if wrong[0] == 1 else 'were'} given: give {self.explained}"
            )
        return [[self._one(each) for each in row] for row in rows]

    def _one(self, choice: Any) -> int:
        if isinstance(choice, str):
            return class_named(choice, self.labels)
        if isinstance(choice, bool) or not isinstance(choice, (int, np.integer)):
            raise ClassError(f"a class is a label or a whole number, not {choice!r}")
        index = int(choice)
        if not -self.count <= index < self.count:
            raise ClassError(
                f"there is no class {index}: this model has classes 0 to {self.count - 1}, "
                f"and ranks -1 (the top class) to {-self.count}"
            )
        return index


def _is_list(choice: Any) -> bool:
    return isinstance(choice, (Sequence, np.ndarray)) and not isinstance(choice, str)
