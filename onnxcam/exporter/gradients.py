"""The gradients that maps are made of, each emitted once and shaped as methods take it."""

from __future__ import annotations

__all__ = ["Gradients", "alike", "as_places"]

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import onnx_ir as ir
from onnxscript import OpBuilder

from onnxcam import autodiff
from onnxcam.errors import IndependentError, MethodError
from onnxcam.exporter.attention import Layers
from onnxcam.exporter.biases import Bias
from onnxcam.exporter.layers import Target, on_the_way
from onnxcam.exporter.layout import Layout, canonical
from onnxcam.exporter.repetition import repeated
from onnxcam.exporter.scores.contrast import Explained, seed_of
from onnxcam.exporter.scores.protocol import Seed, Subject
from onnxcam.methods import Attention, Backward, Method

_HALF_SCALE: Final = 1024.0
"""What the seed is multiplied by in float16, and the gradients divided by: small ones would be rounded to zero."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gradients:
    """The gradients of one subject's scores at all ``targets``, emitted when they are first asked for.

    picture: the target at the picture, where a method needs it.
    biases, attention: the model's, where a method needs them.
    other: the class that the explained one is set apart from, [N]; None where there is none.
    """

    op: OpBuilder
    model: ir.Model
    targets: Sequence[Target]
    subject: Subject
    picture: Target | None = None
    biases: Sequence[Bias] = ()
    attention: Layers | None = None
    other: ir.Value | None = None
    _found: dict[tuple[Explained, Backward], dict[ir.Value, ir.Value]] = field(default_factory=dict)
    _curved: dict[Explained, list[ir.Value | None]] = field(default_factory=dict)

    def attending(self, score: Explained | None) -> Attention:
        """The attention of all layers, and unless ``score`` is None, the gradients of that read behind each of them."""
        assert self.attention is not None
        if score is None:
            return self.attention.site(self.op)
        start = self._start(score)
        last, graph = self.attention.sums[-1], self.op.builder.graph
        behind = on_the_way(graph, start.value, last)
        found = []
        for weights, handed in zip(self.attention.weights, self.attention.sums, strict=True):
            of = start.value if handed is last else repeated(self.op, behind, last, handed)[start.value]
            found += autodiff.gradients(self.model, of=of, wrt=[weights], seed=start.adjoint)
        return self.attention.site(self.op, found, over=self._scale)

    def output(self, layer: int) -> ir.Value:
        """dy^c/dA at the target with position ``layer``, of its type and shape."""
        gradient = self._at([target.value for target in self.targets], "class")[layer]
        return alike(gradient, self.op.Div(gradient, self._scale)) if self._scale != 1 else gradient

    def explaining(self, score: Explained) -> list[ir.Value]:
        """The gradients of ``score`` at each target as methods take them: float32 [N, C, h, w]."""
        return [
            as_places(self.op, gradient, target.layout, over=self._scale)
            for target, gradient in zip(self.targets, self._at_targets(score), strict=True)
        ]

    def curving(self, score: Explained) -> list[ir.Value | None]:
        """H A at each target as methods take it, H the Hessian of ``score``; None where that is zero."""
        if score not in self._curved:
            self._curved[score] = [
                self._curvature(target.value, gradient)
                for target, gradient in zip(self.targets, self._at_targets(score), strict=True)
            ]
        return [
            None if curved is None else as_places(self.op, curved, target.layout, over=self._scale)
            for target, curved in zip(self.targets, self._curved[score], strict=True)
        ]

    def _curvature(self, x: ir.Value, gradient: ir.Value) -> ir.Value | None:
        """The gradient of ⟨``gradient``, x⟩ in which the second x is held: with g = ∂y/∂x this is ∂²y/∂x² · x."""
        try:
            (found,) = autodiff.gradients(self.model, of=gradient, wrt=[x], seed=x)
        except IndependentError:
            return None
        return found

    def explaining_at_picture(self, score: Explained, method: Method) -> ir.Value:
        """What ``method`` takes for the gradients of ``score`` at the picture: float32 [N, C, H, W].

        Raises `MethodError` where it has nothing to exchange in this model.
        """
        assert self.picture is not None
        (gradient,) = self._at([self.picture.value], score, method)
        return as_places(self.op, gradient, self.picture.layout, over=self._scale)

    def explaining_at_biases(self, score: Explained) -> list[ir.Value]:
        """What each of `biases` adds to ``score``, where it is added: float32 [N, C, h, w]."""
        gradients = self._at([bias.value for bias in self.biases], score)
        return [
            as_places(self.op, bias.times(self.op, gradient), bias.layout, over=self._scale)
            for bias, gradient in zip(self.biases, gradients, strict=True)
        ]

    @property
    def _scale(self) -> float:
        return _HALF_SCALE if self.subject.score.value.dtype == ir.DataType.FLOAT16 else 1.0

    def _at_targets(self, score: Explained) -> list[ir.Value]:
        return self._at([target.value for target in self.targets], score)

    def _at(self, values: Sequence[ir.Value], score: Explained, method: Method | None = None) -> list[ir.Value]:
        """What the score's adjoint becomes at ``values``: its gradients, or what ``method`` has instead of them.

        Gradients are emitted at the layers, the picture and the biases at once, so that they share the way.
        """
        backward = method.backward if method else "gradient"
        targets = [target.value for target in (*self.targets, self.picture) if target is not None]
        everywhere = dict.fromkeys([*targets, *(bias.value for bias in self.biases)])
        wrt = list(everywhere) if backward == "gradient" else list(values)
        if (score, backward) not in self._found:
            start = self._start(score)
            exchange = None if backward == "gradient" else autodiff.Rectifiers(backward)
            found = autodiff.gradients(self.model, of=start.value, wrt=wrt, seed=start.adjoint, exchange=exchange)
            if exchange is not None and not exchange.nodes and method is not None:
                raise MethodError(
                    f"'{method.name}' is made by what comes back through ReLU and its kin, and this model has none on "
                    "the way from the picture to the score: take 'saliency', which is what it would be"
                )
            self._found[score, backward] = dict(zip(wrt, found, strict=True))
        return [self._found[score, backward][value] for value in values]

    def _start(self, score: Explained) -> Seed:
        """Where the walk back starts, with an adjoint that half precision can hold."""
        start = seed_of(self.op, self.subject, score, self.other)
        if self._scale == 1:
            return start
        return Seed(value=start.value, adjoint=alike(start.adjoint, self.op.Mul(start.adjoint, self._scale)))


def as_places(op: OpBuilder, value: ir.Value, layout: Layout, *, over: float = 1.0) -> ir.Value:
    """``value`` / ``over`` as methods take it: float32 [N, C, h, w]."""
    shaped = canonical(op, value, layout)
    if value.dtype == ir.DataType.FLOAT and over == 1:
        shaped.dtype = ir.DataType.FLOAT
        return shaped
    wide: ir.Value = op.Cast(shaped, to=ir.DataType.FLOAT)
    if over != 1:
        wide = op.Div(wide, over)
    wide.dtype, wide.shape = ir.DataType.FLOAT, shaped.shape
    return wide


def alike(x: ir.Value, y: ir.Value) -> ir.Value:
    y.type, y.shape = x.type, x.shape
    return y
