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
from onnxcam.errors import IndependentError, LayerError, MethodError
from onnxcam.exporter.biases import Bias
from onnxcam.exporter.layers import Target
from onnxcam.exporter.layout import Layout, as_volume, canonical
from onnxcam.exporter.options import ArtifactOptions
from onnxcam.exporter.scores.contrast import contrast_seed, finer_seed
from onnxcam.exporter.scores.protocol import Seed, Subject
from onnxcam.methods import Backward, Head, Method, Site, fused

_HALF_SCALE: Final = 1024.0
"""What the seed is multiplied by in float16, and the gradients divided by: small ones would be rounded to zero."""

_Score = Literal["class", "counterfactual", "contrast", "finer"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gradients:
    """The gradients of one subject's scores at all ``targets``, emitted when they are first asked for.

    picture: the target at the picture, where a method needs it.
    biases: the model's, where a method needs them.
    other: the class that the explained one is set apart from, [N]; None where there is none.
    """

    op: OpBuilder
    model: ir.Model
    targets: Sequence[Target]
    subject: Subject
    picture: Target | None = None
    biases: Sequence[Bias] = ()
    other: ir.Value | None = None
    _found: dict[tuple[_Score, Backward], dict[ir.Value, ir.Value]] = field(default_factory=dict)
    _curved: dict[_Score, list[ir.Value | None]] = field(default_factory=dict)

    def output(self, layer: int) -> ir.Value:
        """dy^c/dA at the target with position ``layer``, of its type and shape."""
        gradient = self._at([target.value for target in self.targets], "class")[layer]
        return _alike(gradient, self.op.Div(gradient, self._scale)) if self._scale != 1 else gradient

    def explaining(self, score: _Score) -> list[ir.Value]:
        """The gradients of ``score`` at each target as methods take them: float32 [N, C, h, w]."""
        return [
            as_places(self.op, gradient, target.layout, over=self._scale)
            for target, gradient in zip(self.targets, self._at_targets(score), strict=True)
        ]

    def curving(self, score: _Score) -> list[ir.Value | None]:
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

    def explaining_at_picture(self, score: _Score, method: Method) -> ir.Value:
        """What ``method`` takes for the gradients of ``score`` at the picture: float32 [N, C, H, W].

        Raises `MethodError` where it has nothing to exchange in this model.
        """
        assert self.picture is not None
        (gradient,) = self._at([self.picture.value], score, method)
        return as_places(self.op, gradient, self.picture.layout, over=self._scale)

    def explaining_at_biases(self, score: _Score) -> list[ir.Value]:
        """What each of `biases` adds to ``score``, where it is added: float32 [N, C, h, w]."""
        gradients = self._at([bias.value for bias in self.biases], score)
        return [
            as_places(self.op, bias.times(self.op, gradient), bias.layout, over=self._scale)
            for bias, gradient in zip(self.biases, gradients, strict=True)
        ]

    @property
    def _scale(self) -> float:
        return _HALF_SCALE if self.subject.score.value.dtype == ir.DataType.FLOAT16 else 1.0

    def _at_targets(self, score: _Score) -> list[ir.Value]:
        return self._at([target.value for target in self.targets], score)

    def _at(self, values: Sequence[ir.Value], score: _Score, method: Method | None = None) -> list[ir.Value]:
        """What the score's adjoint becomes at ``values``: its gradients, or what ``method`` has instead of them.

        Gradients are emitted at the layers, the picture and the biases at once, so that they share the way.
        """
        backward = method.backward if method else "gradient"
        targets = [target.value for target in (*self.targets, self.picture) if target is not None]
        everywhere = dict.fromkeys([*targets, *(bias.value for bias in self.biases)])
        wrt = list(everywhere) if backward == "gradient" else list(values)
        if (score, backward) not in self._found:
            start = self._seed(score)
            adjoint = start.adjoint
            if self._scale != 1:
                adjoint = _alike(adjoint, self.op.Mul(adjoint, self._scale))
            exchange = None if backward == "gradient" else autodiff.Rectifiers(backward)
            found = autodiff.gradients(self.model, of=start.value, wrt=wrt, seed=adjoint, exchange=exchange)
            if exchange is not None and not exchange.nodes and method is not None:
                raise MethodError(
                    f"'{method.name}' is made by what comes back through ReLU and its kin, and this model has none on "
                    "the way from the picture to the score: take 'saliency', which is what it would be"
                )
            self._found[score, backward] = dict(zip(wrt, found, strict=True))
        return [self._found[score, backward][value] for value in values]

    def _seed(self, score: _Score) -> Seed:
        if score == "counterfactual":
            start = self.subject.seed(self.op)
            return Seed(value=start.value, adjoint=_alike(start.adjoint, self.op.Neg(start.adjoint)))
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
        if explain != "class" and not method.differentiates:
            raise MethodError(
                f"'{method.name}' takes no gradients, so it tells nothing of a {explain}: take 'gradcam', or another "
                "that 'onnxcam methods' lists with gradients"
            )
        if explain != "class" and method.score != "class":
            raise MethodError(f"'{method.name}' sets classes apart already: take it without a {explain}")
        if options.fuse and method.target != "layer":
            raise MethodError(f"'{method.name}' is a map of the picture, no layer to fuse: leave it or fuse out")
        if options.eigen_smooth and not method.smooths:
            what = "of the picture, not of a layer" if method.target == "picture" else "a principal component itself"
            raise MethodError(f"'{method.name}' is {what}: leave it or eigen-smooth out")
    if options.fuse and layers < 2:
        raise LayerError("only the maps of several layers can be fused: name two or more with --layer")


def maps(at: Gradients, methods: Sequence[Method], options: ArtifactOptions) -> list[dict[str, ir.Value]]:
    """For each layer, the maps of ``methods`` by the names of their outputs: float32 [N, h, w].

    A map of all layers stands with the first, and so does one of the picture.
    """
    op = at.op
    at_layers = any(method.target != "picture" for method in methods)
    places = [as_places(op, target.value, target.layout) for target in at.targets] if at_layers else []
    found: list[dict[str, ir.Value]] = [{} for _ in at.targets]
    for m, method in enumerate(methods):
        picture = _at_picture(at, method, options) if method.target != "layer" else None
        if picture is not None and at.picture is not None and method.target == "picture":
            found[0][cam_output(method.name, first=m == 0)] = _map(method, picture, at.picture)
            continue
        cams = []
        gradients, curvatures = _gradients(at, method, options), _curvatures(at, method, options)
        for target, activations, gradient, curvature in zip(at.targets, places, gradients, curvatures, strict=True):
            head = _head(at, target) if method.needs == "head" else None
            site = Site(
                op=op,
                activations=activations,
                explained_class=at.subject.explained,
                gradients=gradient,
                curvature=curvature,
                head=head,
                eigen_smooth=options.eigen_smooth,
                picture=picture,
            )
            cams.append(_map(method, site, target))
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


def _map(method: Method, site: Site, target: Target) -> ir.Value:
    """The map of ``method`` at ``target``, or of the picture beside it."""
    shape = (site.picture or site).activations.shape
    assert shape is not None
    assert method.build is not None  # find_methods refuses others
    cam = _typed(method.build(site), [shape[0], *shape[2:]])
    return as_volume(site.op, cam, target.value) if target.layout.kind == "NCDHW" else cam


def _at_picture(at: Gradients, method: Method, options: ArtifactOptions) -> Site:
    """The picture, and what ``method`` takes for its gradients."""
    assert at.picture is not None
    enlarges = method.target != "picture" or method.needs == "biases"
    if enlarges and at.picture.layout.kind == "NCDHW":
        raise MethodError(f"'{method.name}' enlarges no map of a volume: take 'gradcam' and 'saliency' apart")
    score: _Score = options.explain
    negative = score == "counterfactual" and method.backward == "gradient"
    gradients = at.explaining_at_picture("class" if negative else score, method)
    biases = at.explaining_at_biases("class" if negative else score) if method.needs == "biases" else []
    return Site(
        op=at.op,
        activations=as_places(at.op, at.picture.value, at.picture.layout),
        explained_class=at.subject.explained,
        gradients=_alike(gradients, at.op.Neg(gradients)) if negative else gradients,
        biases=[_alike(bias, at.op.Neg(bias)) for bias in biases] if negative else biases,
    )


def _head(at: Gradients, target: Target) -> Head:
    """The classic CAM head behind ``target``, its weights in float32."""
    weights = at.subject.head(at.op, target).weights
    if weights is None or target.value.dtype == ir.DataType.FLOAT:
        return Head(weights=weights)
    return Head(weights=at.op.Cast(weights, to=ir.DataType.FLOAT))


def _gradients(at: Gradients, method: Method, options: ArtifactOptions) -> Sequence[ir.Value | None]:
    """What ``method`` explains by at each layer."""
    if not method.differentiates:
        return [None] * len(at.targets)
    if method.score == "finer":
        return at.explaining("finer")
    if options.explain == "contrast":
        return at.explaining("contrast")
    found = at.explaining("class")
    return [_alike(g, at.op.Neg(g)) for g in found] if options.explain == "counterfactual" else found


def _curvatures(at: Gradients, method: Method, options: ArtifactOptions) -> Sequence[ir.Value | None]:
    """How what ``method`` explains by bends at each layer."""
    if method.needs != "curvature":
        return [None] * len(at.targets)
    if options.explain == "contrast":
        return at.curving("contrast")
    found = at.curving("class")
    if options.explain == "class":
        return found
    return [None if h is None else _alike(h, at.op.Neg(h)) for h in found]


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
