"""From what a user calls a class to its index."""

from __future__ import annotations

__all__ = ["class_named"]

from collections.abc import Sequence

from onnxcam.errors import ClassError, nearest_names


def class_named(name: str, labels: Sequence[str] | None) -> int:
    """Index of the class that ``name`` is the label of, or one of its comma-separated synonyms, whatever the case.

    A whole label goes before a synonym. Raises `ClassError` if no class or more than one has that name.
    """
    if labels is None:
        raise ClassError(f"this model carries no labels, so give the number of class '{name}' instead")
    wanted = _folded(name)
    found = [i for i, label in enumerate(labels) if _folded(label) == wanted]
    found = found or [i for i, label in enumerate(labels) if wanted in map(_folded, label.split(","))]
    if not found:
        synonyms = (synonym.strip() for label in labels for synonym in label.split(","))
        near = nearest_names(name.strip(), synonyms)
        raise ClassError(f"this model has no class '{name}'{': ' + near if near else ''}")
    if len(found) > 1:
        raise ClassError(f"'{name}' is the name of classes {', '.join(map(str, found))}: give the number")
    return found[0]


def _folded(text: str) -> str:
    return " ".join(text.casefold().split())
