"""Which feature maps are explained: those that are named, or the one found by itself."""

from __future__ import annotations

__all__ = ["FeatureMaps", "default_module", "matters", "module_maps"]

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
import onnx_ir as ir

from onnxcam.autodiff import gradients
from onnxcam.autodiff.emitter import emitter
from onnxcam.errors import LayerError
from onnxcam.exporter.axes import find_layouts
from onnxcam.exporter.layers import Candidate, Target, candidates, find_value, picture_target
from onnxcam.exporter.layout import Layout, parse_layout, shape_text
from onnxcam.exporter.sample import picture_input, sample_feed
from onnxcam.exporter.sessions import cpu_session

if TYPE_CHECKING:
    from onnxcam.exporter.torch import TorchExport

_COPYING: Final = frozenset({"Cast", "Identity", "Pad", "Resize", "Slice", "Upsample"})
_PROBED: Final = 8
"""How many maps are looked at together for whether their places matter."""


def default_module(exported: TorchExport, score: ir.Value) -> str:
    """The path of the module whose output is taken by default. Raises `LayerError` where there is none."""
    _, default = module_maps(exported, score)
    assert default.module is not None
    return default.module


def module_maps(exported: TorchExport, score: ir.Value) -> tuple[list[Candidate], Target]:
    """The outputs of modules that are feature maps on the way to the score, and the one taken by default."""
    image = picture_input(exported.model.graph.inputs)
    maps = FeatureMaps(exported.model, score=score, image=image)
    maps.all = [candidate for candidate in maps.all if candidate.module is not None]
    return maps.all, maps.default(sample_feed(exported.model.graph.inputs, image=image))


class FeatureMaps:
    """The feature maps on the way from the picture to the ``score``, to choose targets from."""

    def __init__(self, model: ir.Model, *, score: ir.Value, image: ir.Value) -> None:
        self.all = candidates(model.graph, score, image)
        self._model = model
        self._score = score
        self._image = image
        self._known = {candidate.value: candidate for candidate in self.all}

    def named(self, name: str, layout: str | None = None) -> Target:
        """The target that ``name`` means, its axes laid out as ``layout`` says, or as found.

        Raises `LayerError` for an unknown name, and where it is not known where the places are.
        """
        value = find_value(self._model.graph, name)
        known = self._known.get(value)
        module = known.module if known else None
        if layout is not None:
            return Target(
                name=name,
                value=value,
                layout=parse_layout(layout, value, known.layout if known else None),
                module=module,
            )
        if known is not None:
            return Target(name=name, value=value, layout=known.layout, module=module)
        if value is self._image:
            return picture_target(self._model.graph, value)
        found = find_layouts(self._model.graph).get(value)
        if found is not None:
            raise LayerError(
                f"layer '{name}' is not on the way from the picture to the score: "
                "choose one that 'onnxcam layers' lists"
            )
        shape = "an unknown shape" if value.shape is None else shape_text(value.shape)
        raise LayerError(
            f"layer '{name}' gives {shape}, in which no height and width are to be seen: choose one that "
            "'onnxcam layers' lists, or say with --layout where they are"
        )

    def default(self, feed: Mapping[str, np.ndarray]) -> Target:
        """The last map that all ways to the score lead through and in which more than one place matters.

        Which tokens matter, a gradient on ``feed`` tells; averaging pools are passed over, and so is a map of the
        classes themselves, only enlarged behind. Where all maps can be gone around, the last of all. Raises
        `LayerError` where no map fits.
        """
        scores = _enlarged(self._score) if len(self._score.shape or ()) > 3 else set()
        fit = [c for c in reversed(self.all) if not _averages(c.value) and c.value not in scores]
        fit = [c for c in fit if c.cut] + [c for c in fit if not c.cut]
        for start in range(0, len(fit), _PROBED):
            some = fit[start : start + _PROBED]
            for candidate, does in zip(some, self._matter(some, feed), strict=True):
                if does:
                    return Target(
                        name=candidate.name, value=candidate.value, layout=candidate.layout, module=candidate.module
                    )
        raise LayerError(
            "no value on the way from the picture to the score has places that matter to it: "
            "name a layer with --layer, and say where its places are with --layout"
        )

    def _matter(self, some: Sequence[Candidate], feed: Mapping[str, np.ndarray]) -> list[bool]:
        """For each map, whether the top value of the score depends on more than one of its places.

        Maps with channels are taken to: it is tokens of which the score may read one alone.
        """
        if all(c.layout.kind != "tokens" for c in some):
            return [True] * len(some)
        copy = self._model.clone()
        values = {y.name: y for node in copy.graph for y in node.outputs}
        score = values[self._score.name]
        op = emitter(copy.graph, "probe")
        top = op.CastLike(op.Equal(score, op.ReduceMax(score, [min(1, len(score.shape or ()) - 1)])), score)
        top.type, top.shape = score.type, score.shape
        grads = gradients(copy, of=score, wrt=[values[c.name] for c in some], seed=top)
        copy.graph.outputs.clear()
        copy.graph.outputs.extend(grads)
        found = cpu_session(copy).run(None, dict(feed))
        return [matters(gradient, c.layout) for gradient, c in zip(found, some, strict=True)]


def matters(gradient: np.ndarray, layout: Layout) -> bool:
    """Whether ``gradient`` is not zero at more than one place."""
    channels = 1 if layout.kind in ("NCHW", "NCDHW") else gradient.ndim - 1
    places = np.any(gradient != 0, axis=channels)
    if layout.kind == "tokens":
        places = places[:, layout.extra_tokens :]
    return int(places.reshape(len(places), -1).sum(axis=1).max(initial=0)) > 1


def _enlarged(score: ir.Value) -> set[ir.Value]:
    """``score`` and the maps of which it is an enlarged or cut copy."""
    found = {score}
    while (node := score.producer()) is not None and node.op_type in _COPYING and node.inputs[0] is not None:
        score = node.inputs[0]
        found.add(score)
    return found


def _averages(value: ir.Value) -> bool:
    node = value.producer()
    return node is not None and node.op_type in ("AveragePool", "GlobalAveragePool", "ReduceMean")
