"""What a method needs of an artifact, and how a file is made that has it."""

from __future__ import annotations

__all__ = ["is_picture", "layer_for"]

from collections.abc import Collection
from pathlib import Path

from onnxcam.contract import ACTIVATIONS, GRADIENTS, ArtifactInfo, LayerInfo, layer_output
from onnxcam.errors import LayerError, MethodError
from onnxcam.runtime.perturbation import Entry

_TORCH_INPUT = "input"
"""The name of the picture as a layer of an exported PyTorch model."""


_CHANGEABLE = frozenset({"class", "weights", "number", "similarity"})
"""The kinds of score that are read off as one number an image; where others are read off changes with the picture."""


def layer_for(entry: Entry, info: ArtifactInfo, outputs: Collection[str], path: Path, layer: int | None) -> int | None:
    """The position of the layer at which ``entry`` works, and None for one that needs no layer.

    outputs: the artifact's. layer: the position of the one that the user named, if any.
    Raises `MethodError` where the artifact lacks what the method needs, and `LayerError` where another layer has it.
    """
    if info.score.kind not in _CHANGEABLE:
        raise MethodError(
            f"'{entry.name}' follows the score of a class through changed pictures, and '{path}' explains the kind of "
            f"score '{info.score.kind}': take a method of the file's own, {', '.join(info.methods)}"
        )
    if entry.reads == "scores":
        if layer is not None:
            raise LayerError(f"'{entry.name}' needs class scores alone, and no layer: leave the layer out")
        return None
    if entry.reads == "input gradients":
        return _picture_layer(entry, info, outputs, path, layer)
    at = layer or 0
    needed = (ACTIVATIONS,) if entry.reads == "activations" else (ACTIVATIONS, GRADIENTS)
    if any(layer_output(name, at) not in outputs for name in needed):
        raise MethodError(
            f"'{entry.name}' needs the {' and '.join(needed)} of a layer, which '{path}' leaves out: make it again "
            "with all its outputs (--outputs all)"
        )
    return at


def is_picture(layer: LayerInfo, info: ArtifactInfo) -> bool:
    """Whether ``layer`` is the model's picture input itself."""
    return layer.name == info.image_input or (layer.name == _TORCH_INPUT and layer.module in (None, _TORCH_INPUT))


def _picture_layer(entry: Entry, info: ArtifactInfo, outputs: Collection[str], path: Path, layer: int | None) -> int:
    found = [
        k for k, each in enumerate(info.layers) if is_picture(each, info) and layer_output(GRADIENTS, k) in outputs
    ]
    if not found:
        layout = "NHWC" if info.preprocess is not None and info.preprocess.layout == "nhwc" else "NCHW"
        stem = path.name.removesuffix(".onnx").removesuffix(".cam")
        raise MethodError(
            f"'{entry.name}' needs the gradient at the picture itself, which '{path}' does not give: make a file that "
            f"does with 'onnxcam attach {path} --replace --layer {info.image_input} --layout {layout} "
            f"-o {stem}_input.cam.onnx'"
        )
    if layer is not None and layer not in found:
        raise LayerError(
            f"'{entry.name}' works at the picture itself, not at '{info.layers[layer].name}': leave the layer out"
        )
    return found[0]
