"""The maps of an artifact: every method at every layer, from gradients that are each emitted once."""

from __future__ import annotations

__all__ = ["check_methods", "maps"]

from collections.abc import Sequence

import onnx_ir as ir

from onnxcam.contract import cam_output
from onnxcam.errors import LayerError, MethodError
from onnxcam.exporter.gradients import Gradients, alike, as_places
from onnxcam.exporter.layers import Target
from onnxcam.exporter.layout import as_volume
from onnxcam.exporter.options import ArtifactOptions
from onnxcam.exporter.rerun import Reruns
from onnxcam.exporter.scores.contrast import Explained
from onnxcam.methods import Head, Method, Site, fused


def check_methods(methods: Sequence[Method], options: ArtifactOptions, *, layers: int) -> None:
    """Refuse what cannot be, before any work. Raises `MethodError` and `LayerError`."""
    explain = options.explain
    for method in methods:
        if method.fusion and layers < 2:
            raise MethodError(f"'{method.name}' joins the maps of several layers: name two or more with --layer")
        if explain != "class" and not method.differentiates and method.needs != "rerun":
            raise MethodError(
                f"'{method.name}' takes no gradients, so it tells nothing of a {explain}: take 'gradcam', or another "
                "that 'onnxcam methods' lists with gradients"
            )
        if explain != "class" and method.score != "class":
            raise MethodError(f"'{method.name}' sets classes apart already: take it without a {explain}")
        if options.fuse and method.target != "layer":
            what = "attention" if method.target == "attention" else "picture"
            raise MethodError(f"'{method.name}' is a map of the {what}, no layer to fuse: leave it or fuse out")
        if options.eigen_smooth and not method.smooths:
            what = "a principal component itself"
            if method.needs == "rerun":
                what = "made of scores, not of channels"
            elif method.target in ("picture", "attention"):
                what = f"of the {method.target}, not of a layer"
            raise MethodError(f"'{method.name}' is {what}: leave it or eigen-smooth out")
    if options.fuse and layers < 2:
        raise LayerError("only the maps of several layers can be fused: name two or more with --layer")


def maps(
    at: Gradients, methods: Sequence[Method], options: ArtifactOptions, reruns: Reruns
) -> list[dict[str, ir.Value]]:
    """For each layer, the maps of ``methods`` by the names of their outputs: float32 [N, h, w].

    A map of all layers stands with the first, and so does one of the picture or of the attention.
    """
    op = at.op
    at_layers = any(method.target not in ("picture", "attention") for method in methods)
    places = [as_places(op, target.value, target.layout) for target in at.targets] if at_layers else []
    found: list[dict[str, ir.Value]] = [{} for _ in at.targets]
    for m, method in enumerate(methods):
        if method.target == "attention":
            found[0][cam_output(method.name, first=m == 0)] = _of_attention(at, method, options)
            continue
        picture = _at_picture(at, method, options) if method.target != "layer" else None
        if picture is not None and at.picture is not None and method.target == "picture":
            found[0][cam_output(method.name, first=m == 0)] = _map(method, picture, at.picture)
            continue
        cams = []
        gradients, curvatures = _gradients(at, method, options), _curvatures(at, method, options)
        for k, (target, activations) in enumerate(zip(at.targets, places, strict=True)):
            head = _head(at, target) if method.needs == "head" else None
            site = Site(
                op=op,
                activations=activations,
                explained_class=at.subject.explained,
                gradients=gradients[k],
                curvature=curvatures[k],
                head=head,
                rerun=reruns.of(at.subject, k, activations) if method.needs == "rerun" else None,
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


def _of_attention(at: Gradients, method: Method, options: ArtifactOptions) -> ir.Value:
    """The map of ``method``, whose target is the attention."""
    assert method.build is not None  # find_methods refuses others
    attention = at.attending(options.explain if method.differentiates else None)
    last = attention.maps[-1]
    assert last.shape is not None
    site = Site(op=at.op, activations=last, explained_class=at.subject.explained, attention=attention)
    return _typed(method.build(site), [last.shape[0], *attention.grid])


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
    score: Explained = options.explain
    negative = score == "counterfactual" and method.backward == "gradient"
    gradients = at.explaining_at_picture("class" if negative else score, method)
    biases = at.explaining_at_biases("class" if negative else score) if method.needs == "biases" else []
    return Site(
        op=at.op,
        activations=as_places(at.op, at.picture.value, at.picture.layout),
        explained_class=at.subject.explained,
        gradients=alike(gradients, at.op.Neg(gradients)) if negative else gradients,
        biases=[alike(bias, at.op.Neg(bias)) for bias in biases] if negative else biases,
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
    return [alike(g, at.op.Neg(g)) for g in found] if options.explain == "counterfactual" else found


def _curvatures(at: Gradients, method: Method, options: ArtifactOptions) -> Sequence[ir.Value | None]:
    """How what ``method`` explains by bends at each layer."""
    if method.needs != "curvature":
        return [None] * len(at.targets)
    if options.explain == "contrast":
        return at.curving("contrast")
    found = at.curving("class")
    if options.explain == "class":
        return found
    return [None if h is None else alike(h, at.op.Neg(h)) for h in found]


def _typed(cam: ir.Value, shape: Sequence[int | ir.SymbolicDim | None]) -> ir.Value:
    cam.dtype, cam.shape = ir.DataType.FLOAT, ir.Shape(shape)
    return cam


def _largest(dims: Sequence[int | ir.SymbolicDim]) -> int | None:
    """The largest of ``dims``; None where one is open."""
    known = [dim for dim in dims if isinstance(dim, int)]
    return max(known) if len(known) == len(dims) else None
