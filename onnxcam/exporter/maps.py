"""The maps of an artifact: every method at every layer, from gradients that are each emitted once."""

from __future__ import annotations

__all__ = ["Gradients", "check_methods", "maps"]

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

import onnx_ir as ir
from onnxscript import OpBuilder

from onnxcam import autodiff
from onnxcam.contract import cam_output
from onnxcam.errors import LayerError, MethodError
from onnxcam.exporter.layers import Target
from onnxcam.exporter.layout import Layout, as_volume, canonical
from onnxcam.exporter.options import ArtifactOptions
from onnxcam.exporter.scores.contrast import contrast_seed, finer_seed
from onnxcam.exporter.scores.protocol import Seed, Subject
from onnxcam.methods import Head, Method, Site, fused

_HALF_SCALE: Final = 1024.0
"""What the seed is multiplied by in float16, and the gradients divided by: small ones would be rounded to zero."""

_Score = Literal["class", "contrast", "finer"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gradients:
    """The gradients of one subject's scores at all ``targets``, emitted when they are first asked for.

    other: the class that the explained one is set apart from, [N]; None where there is none.
    """

    op: OpBuilder
    model: ir.Model
    targets: Sequence[Target]
    subject: Subject
    other: ir.Value | None = None
    _found: dict[_Score, list[ir.Value]] = field(default_factory=dict)

    def output(self, layer: int) -> ir.Value:
        """dy^c/dA at the target with position ``layer``, of its type and shape."""
        gradient = self._of("class")[layer]
        return _alike(gradient, self.op.Div(gradient, self._scale)) if self._scale != 1 else gradient

    def explaining(self, score: _Score) -> list[ir.Value]:
        """The gradients of ``score`` at each target as methods take them: float32 [N, C, h, w]."""
        return [
            as_places(self.op, gradient, target.layout, over=self._scale)
            for target, gradient in zip(self.targets, self._of(score), strict=True)
        ]

    @property
    def _scale(self) -> float:
        return _HALF_SCALE if self.subject.score.value.dtype == ir.DataType.FLOAT16 else 1.0

    def _of(self, score: _Score) -> list[ir.Value]:
        if score not in self._found:
            start = self._seed(score)
            adjoint = start.adjoint
            if self._scale != 1:
                adjoint = self.op.Mul(adjoint, self._scale)
                adjoint.type, adjoint.shape = start.adjoint.type, start.adjoint.shape
            values = [target.value for target in self.targets]
            self._found[score] = autodiff.gradients(self.model, of=start.value, wrt=values, seed=adjoint)
        return self._found[score]

    def _seed(self, score: _Score) -> Seed:
        if score == "finer":
            return finer_seed(self.op, self.subject)
        if score == "contrast":
            assert self.other is not None
            return contrast_seed(self.op, self.subject, self.other)
        return self.subject.seed(self.op)


def check_methods(methods: Sequence[Method], options: ArtifactOptions, *, layers: int) -> None:
    """Refuse what cannot be, before any work. Raises `MethodError` and `LayerError`."""
    explain = options.explain
    for method in methods:
        if method.fusion and layers < 2:
            raise MethodError(f"'{method.name}' joins the maps of several layers: name two or more with --layer")
        if explain != "class" and method.needs != "gradients":
            raise MethodError(
                f"'{method.name}' takes no gradients, so it tells nothing of a {explain}: take 'gradcam', or another "
                "that 'onnxcam methods' lists with gradients"
            )
        if explain != "class" and method.score != "class":
            raise MethodError(f"'{method.name}' sets classes apart already: take it without a {explain}")
        if options.eigen_smooth and not method.smooths:
            raise MethodError(f"'{method.name}' is a principal component itself: leave it or eigen-smooth out")
    if options.fuse and layers < 2:
        raise LayerError("only the maps of several layers can be fused: name two or more with --layer")


def maps(at: Gradients, methods: Sequence[Method], options: ArtifactOptions) -> list[dict[str, ir.Value]]:
    """For each layer, the maps of ``methods`` by the names of their outputs: float32 [N, h, w].

    A map of all layers stands with the first.
    """
    op = at.op
    places = [as_places(op, target.value, target.layout) for target in at.targets] if methods else []
    found: list[dict[str, ir.Value]] = [{} for _ in at.targets]
    for m, method in enumerate(methods):
        cams = []
        gradients = _gradients(at, method, options)
        for target, activations, gradient in zip(at.targets, places, gradients, strict=True):
            head = _head(at, target) if method.needs == "head" else None
            site = Site(
                op=op,
                activations=activations,
                explained_class=at.subject.explained,
                gradients=gradient,
                head=head,
                eigen_smooth=options.eigen_smooth,
            )
            assert activations.shape is not None
            assert method.build is not None  # find_methods refuses others
            cam = _typed(method.build(site), [activations.shape[0], *activations.shape[2:]])
            cams.append(as_volume(op, cam, target.value) if target.layout.kind == "NCDHW" else cam)
        if joint := method.fusion or options.fuse:
            _refuse_volumes(at.targets)
            shapes = [cam.shape for cam in cams if cam.shape is not None]
            largest = [_largest([shape[axis] for shape in shapes]) for axis in (1, 2)]
            cams = [_typed(fused(op, cams, joint), [shapes[0][0], *largest])]
        for k, cam in enumerate(cams):
            found[k][cam_output(method.name, first=m == 0, layer=k)] = cam
    return found


def _refuse_volumes(targets: Sequence[Target]) -> None:
    for target in targets:
        if target.layout.kind == "NCDHW":
            raise LayerError(f"the maps of volumes are not fused: explain layer '{target.name}' by itself")


def _head(at: Gradients, target: Target) -> Head:
    """The classic CAM head behind ``target``, its weights in float32."""
    weights = at.subject.head(at.op, target).weights
    if weights is None or target.value.dtype == ir.DataType.FLOAT:
        return Head(weights=weights)
    return Head(weights=at.op.Cast(weights, to=ir.DataType.FLOAT))


def _gradients(at: Gradients, method: Method, options: ArtifactOptions) -> Sequence[ir.Value | None]:
    """What ``method`` explains by at each layer."""
    if method.needs != "gradients":
        return [None] * len(at.targets)
    if method.score == "finer":
        return at.explaining("finer")
    if options.explain == "contrast":
        return at.explaining("contrast")
    found = at.explaining("class")
    return [_alike(g, at.op.Neg(g)) for g in found] if options.explain == "counterfactual" else found


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


def _alike(x: ir.Value, y: ir.Value) -> ir.Value:
    y.type, y.shape = x.type, x.shape
    return y


def _typed(cam: ir.Value, shape: Sequence[int | ir.SymbolicDim | None]) -> ir.Value:
    cam.dtype, cam.shape = ir.DataType.FLOAT, ir.Shape(shape)
    return cam


def _largest(dims: Sequence[int | ir.SymbolicDim]) -> int | None:
    """The largest of ``dims``; None where one is open."""
    known = [dim for dim in dims if isinstance(dim, int)]
    return max(known) if len(known) == len(dims) else None
