"""The table of methods: name, equation, paper, what each needs, and the function that emits its nodes."""

from __future__ import annotations

__all__ = ["Head", "Method", "Site", "find_method", "method", "methods"]

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from onnxcam.errors import MethodError, nearest_names

if TYPE_CHECKING:
    import onnx_ir as ir
    from onnxscript import OpBuilder

Needs = Literal["gradients", "head"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """A classic CAM head behind the feature map: global average pooling, then one linear layer or none.

    weights: the rows of the linear layer that belong to the explained classes, [N, C]; None where the pooled
        channels are the class scores themselves.
    """

    weights: ir.Value | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """Where a method is built.

    op: emits nodes. ``activations`` is A, [N, C, h, w].
    explained_class: int64 [N].
    gradients: g, shaped as A; None for a method that does not need it.
    head: the model's classic CAM head; None where it has another or the method does not need it.
    """

    op: OpBuilder
    activations: ir.Value
    explained_class: ir.Value
    gradients: ir.Value | None = None
    head: Head | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """One method: ``build`` emits the raw map, float [N, h, w]. ``needs`` says what its `Site` must have."""

    name: str
    equation: str
    paper: str
    needs: Needs
    build: Callable[[Site], ir.Value]

    @property
    def summary(self) -> str:
        """The first line of the method's docstring."""
        return (self.build.__doc__ or "").strip().partition("\n")[0]


_methods: dict[str, Method] = {}


def methods() -> Mapping[str, Method]:
    """Every registered method by name."""
    return MappingProxyType(_methods)


def method(
    name: str, *, equation: str, paper: str, needs: Needs
) -> Callable[[Callable[[Site], ir.Value]], Callable[[Site], ir.Value]]:
    """Register the decorated function as the method ``name``. A second method of that name is refused."""

    def register(build: Callable[[Site], ir.Value]) -> Callable[[Site], ir.Value]:
        if name in _methods:
            raise ValueError(f"method '{name}' is registered already")
        _methods[name] = Method(name=name, equation=equation, paper=paper, needs=needs, build=build)
        return build

    return register


def find_method(name: str) -> Method:
    """The method called ``name``. Raises `MethodError` with the nearest names."""
    if name not in _methods:
        hint = nearest_names(name, _methods) or f"known: {', '.join(_methods)}"
        raise MethodError(f"there is no method '{name}'; {hint}")
    return _methods[name]
