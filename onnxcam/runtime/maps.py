"""The maps in an artifact, by method and layer."""

from __future__ import annotations

__all__ = ["Maps"]

from collections.abc import Collection
from pathlib import Path

from onnxcam.contract import ArtifactInfo, cam_output
from onnxcam.errors import LayerError, MethodError, nearest_names
from onnxcam.runtime.perturbation import METHODS


class Maps:
    """Which map of the artifact at ``path`` is meant, of those that are among its outputs, ``given``."""

    def __init__(self, info: ArtifactInfo, given: Collection[str], path: Path) -> None:
        self.methods = info.methods
        self.layers = tuple(layer.name for layer in info.layers)
        self._info, self._given, self._path = info, given, path

    def find(self, method: str | None, layer: str | None) -> tuple[int, int]:
        """The positions of ``method`` and ``layer``, which together have a map; None is the first.

        Raises `MethodError` or `LayerError` where they have none.
        """
        if method is not None and method not in self.methods:
            near = nearest_names(method, (*self.methods, *METHODS))
            renewed = f"renew it, with 'onnxcam attach {self._path} --replace --method {method} -o NAME.cam.onnx'"
            raise MethodError(
                f"'{self._path}' has no map by '{method}', only by {', '.join(self.methods)}; {near or renewed}"
            )
        m = 0 if method is None else self.methods.index(method)
        k = 0 if layer is None else self.layer(layer)
        if self._name(m, k) not in self._given:
            raise LayerError(
                f"the map by '{self.methods[m]}' in '{self._path}' "
                + f"{self._what(self.methods[m])}: leave the layer out"
            )
        return m, k

    def layer(self, name: str) -> int:
        """The position of the layer ``name``. Raises `LayerError`."""
        if name not in self.layers:
            near = nearest_names(name, self.layers)
            raise LayerError(
                f"'{self._path}' has no map at '{name}', only at {', '.join(self.layers)}"
                + (f"; {near}" if near else ": make it again with that --layer")
            )
        return self.layers.index(name)

    def outputs(self, layer: int) -> dict[str, str]:
        """For each method that has a map at the layer with position ``layer``, the output it is."""
        found = {method: self._name(i, layer) for i, method in enumerate(self.methods)}
        return {method: name for method, name in found.items() if name in self._given}

    def place(self, method: int, layer: int) -> str:
        """What the map lies on: the layer's name, the input's for a map of the picture, or ``attention``."""
        name = self.methods[method]
        if name in self._info.attention_methods:
            return "attention"
        return self._info.image_input if name in self._info.picture_methods else self.layers[layer]

    def _what(self, name: str) -> str:
        """What the one map of the method ``name`` is of, as errors say it."""
        if name in self._info.attention_methods:
            return "is of the attention in all layers"
        return "is of the picture" if name in self._info.picture_methods else "joins all its layers"

    def _name(self, method: int, layer: int) -> str:
        return cam_output(self.methods[method], first=method == 0, layer=layer)
