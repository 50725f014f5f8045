"""What a PyTorch model takes and gives, as tensors by name. (Which type a tensor is, the caller says.)"""

from __future__ import annotations

__all__ = ["given", "named", "output_name"]

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from onnxcam.errors import ExportError, nearest_names


def given(example: Any, forward: Callable[..., Any], tensor: type) -> dict[str, Any]:
    """The tensors of ``example`` by the names that the inputs are to have: ``image`` for one alone.

    A dictionary names them itself; those of a tuple are called as the parameters of ``forward``. Raises `ExportError`.
    """
    if isinstance(example, tensor):
        return {"image": example}
    if isinstance(example, Mapping):
        found = dict(example)
    elif isinstance(example, Sequence):
        names = [
            name
            for name, parameter in inspect.signature(forward).parameters.items()
            if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        ]
        names += [f"input_{i}" for i in range(len(names), len(example))]
        found = dict(zip(names, example, strict=False))
    else:
        raise ExportError(f"the example is a {type(example).__name__}: give a tensor, or a tuple or dictionary of them")
    wrong = [name for name, value in found.items() if not isinstance(value, tensor)]
    if wrong or not found:
        what = f"'{wrong[0]}' of the example is a {type(found[wrong[0]]).__name__}" if wrong else "the example is empty"
        raise ExportError(f"{what}: give tensors")
    return found


def named(output: Any, tensor: type) -> dict[str, Any]:
    """The tensors that a model returned, by name: ``logits`` for one alone, else its keys, fields or positions.

    Entries that are no tensors, such as a loss that is None, are left out. Raises `ExportError` where there is none.
    """
    found = {"logits": output} if isinstance(output, tensor) else dict(_tensors(output, tensor, ""))
    if not found:
        raise ExportError(f"the model returns a {type(output).__name__} without a tensor: wrap it so that it has one")
    return found


def _tensors(value: Any, tensor: type, name: str) -> list[tuple[str, Any]]:
    if isinstance(value, tensor):
        return [(name or "output", value)]
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        entries = list(zip(value._fields, value, strict=True))
    elif isinstance(value, Mapping):
        entries = [(str(key), each) for key, each in value.items()]
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        entries = [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]
    elif isinstance(value, Sequence) and not isinstance(value, str):
        entries = [(f"{name or 'output'}_{i}", each) for i, each in enumerate(value)]
        return [found for key, each in entries for found in _tensors(each, tensor, key)]
    else:
        return []
    return [found for key, each in entries for found in _tensors(each, tensor, f"{name}_{key}" if name else key)]


def output_name(names: Sequence[str], wanted: str | int | None) -> str | None:
    """Which of the outputs ``names`` is ``wanted``, by name or position; None where none is. Raises `ExportError`."""
    if wanted is None:
        return None
    if isinstance(wanted, int):
        if not -len(names) <= wanted < len(names):
            raise ExportError(f"the model has no output {wanted}: it has {len(names)}, {', '.join(names)}")
        return names[wanted]
    if wanted not in names:
        hint = nearest_names(wanted, names) or f"it has {', '.join(names)}"
        raise ExportError(f"the model has no output '{wanted}'; {hint}")
    return wanted
