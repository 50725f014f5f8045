"""The table of methods: name, equation, paper, what each needs and costs, and the function that emits its nodes."""

from __future__ import annotations

__all__ = [
    "Attention",
    "Backward",
    "Fusion",
    "Head",
    "Masks",
    "Method",
    "Needs",
    "Reads",
    "Rerun",
    "Score",
    "Site",
    "Target",
    "describe",
    "find_method",
    "find_methods",
    "graph_methods",
    "method",
    "methods",
]

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from onnxcam.errors import MethodError, nearest_names
from onnxcam.methods.principal import first_component

if TYPE_CHECKING:
    import onnx_ir as ir
    from onnxscript import OpBuilder

Needs = Literal[
    "activations",
    "gradients",
    "curvature",
    "biases",
    "attention",
    "attention gradients",
    "head",
    "rerun",
    "pictures",
]
Reads = Literal["scores", "activations", "gradients", "input gradients"]
Score = Literal["class", "finer"]
Fusion = Literal["mean", "max", "product"]
Target = Literal["layer", "picture", "layer and picture", "attention"]
Backward = Literal["gradient", "guided", "deconvolution"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """A classic CAM head behind the feature map: global average pooling, then one linear layer or none.

    weights: the rows of the linear layer that belong to the explained classes, [N, C]; None where the pooled
        channels are the class scores themselves.
    """

    weights: ir.Value | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Masks:
    """A row of masks for the feature map, to be multiplied with: one for each channel, or one for each place.

    build: emits some of them from ``op``, their numbers, int64 [B], and C, h and w, int64 [3]: float32
        [B, C or 1, h or 1, w or 1]. Places are numbered row by row.
    along: what they are counted along.
    planar: whether it matters which places are neighbours, so that they must lie in a plane.
    alongside: whether the other half of a residual block is masked as well: a skip connection past the feature map, or
        the normalisation right behind it where the feature map itself is the skip connection.

    Tokens without a place are kept as they are where masks are ``along`` places.
    """

    build: Callable[[OpBuilder, ir.Value, ir.Value], ir.Value]
    along: Literal["channels", "places"]
    planar: bool = False
    alongside: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Rerun:
    """The part of the model behind the feature map, to be run again on masked copies of it.

    score: the class score of the map as it is, float32 [N].
    scores: emits the class scores of A ⊙ m for each m of some `Masks`: float32 [N, C] or [N, h·w].
    """

    score: ir.Value
    scores: Callable[[Masks], ir.Value]


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    """The attention of a transformer, among T tokens: how much each token (row) takes of each (column).

    maps: of each layer, first to last, behind softmax: float32 [N, heads, T, T].
    read: the tokens that the score is read from: the class token, or all that have places.
    extra_tokens: how many of the first tokens have no place.
    grid: rows and columns of the others.
    gradients: of each layer ∂y_l/∂A_l, shaped as its map; y_l is the score of the tokens behind that layer, read as the
        model reads those behind its last. Empty for a method that does not need it.
    """

    maps: Sequence[ir.Value]
    read: Sequence[int]
    extra_tokens: int
    grid: tuple[int, int]
    gradients: Sequence[ir.Value] = ()

    @property
    def tokens(self) -> int:
        """T."""
        return self.extra_tokens + self.grid[0] * self.grid[1]

    def places(self, op: OpBuilder, tokens: ir.Value) -> ir.Value:
        """What ``tokens`` [N, T] holds of those with a place, as a map [N, h, w]."""
        if self.extra_tokens:
            tokens = op.Slice(tokens, [self.extra_tokens], [self.tokens], [1])
        placed: ir.Value = op.Reshape(tokens, [-1, *self.grid])
        return placed


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """Where a method is built.

    op: emits nodes. ``activations`` is A, float32 [N, C, h, w], whatever layout and type the model has.
    explained_class: int64 [N]; None where it is no class that is explained.
    gradients: g, shaped and typed as A; None for a method that does not need it.
    curvature: H A, shaped and typed as A, with H = ∂²y/∂A² the Hessian of the score; None where that is zero, as behind
        convolutions, ReLU and pooling, or for a method that does not need it.
    head: the model's classic CAM head; None where it has another or the method does not need it.
    biases: what each bias of the model adds to the score at each place, b · g where it is added, float32 [N, C, h, w]
        of its own size; empty for a method that does not need it.
    rerun: the part of the model behind A, whatever it is; None for a method that does not need it.
    attention: the model's, for a method whose target it is. A is then its last map.
    eigen_smooth: what `combine` does.
    picture: the same at the picture that the model takes, for a method that needs it beside the layer.

    For a method whose target is the picture, the picture is the feature map: A is what the model takes, preprocessed.
    """

    op: OpBuilder
    activations: ir.Value
    explained_class: ir.Value | None
    gradients: ir.Value | None = None
    curvature: ir.Value | None = None
    head: Head | None = None
    biases: Sequence[ir.Value] = ()
    rerun: Rerun | None = None
    attention: Attention | None = None
    eigen_smooth: bool = False
    picture: Site | None = None

    @property
    def sizes(self) -> tuple[int | None, int | None, int | None]:
        """Channels, height and width; None where they are open."""
        assert self.activations.shape is not None
        channels, height, width = (dim if isinstance(dim, int) else None for dim in self.activations.shape[1:])
        return channels, height, width

    def combine(self, weighted: ir.Value) -> ir.Value:
        """The channels of ``weighted`` [N, C, h, w] as one map: their sum, or smoothed, their principal component.

        The sum is a product with a row of ones, where sizes are known: a fifth of the time of summing across channels.
        """
        op, (count, height, width) = self.op, self.sizes
        if self.eigen_smooth:
            return first_component(op, weighted, self.sizes)
        if count is None or height is None or width is None:
            return op.ReduceSum(weighted, [1], keepdims=0)  # type: ignore[no-any-return]
        channels = op.Reshape(weighted, [0, count, height * width])
        total: ir.Value = op.Reshape(op.MatMul([1.0] * count, channels), [0, height, width])
        return total

    def weigh(self, weights: ir.Value) -> ir.Value:
        """The channels of A times ``weights`` [N, C, 1, 1] or [1, C, 1, 1], combined to one map [N, h, w].

        As a matrix product, where sizes are known: it takes a fifth of the time of multiplying and summing.
        """
        op, (_, height, width) = self.op, self.sizes
        if self.eigen_smooth or height is None or width is None:
            return self.combine(op.Mul(weights, self.activations))
        channels = op.Reshape(self.activations, [0, -1, height * width])
        combined: ir.Value = op.Reshape(op.MatMul(op.Reshape(weights, [0, 1, -1]), channels), [0, height, width])
        return combined

    def evidence(self, weighted: ir.Value) -> ir.Value:
        """What speaks for the class: `combine` without its negative values."""
        positive: ir.Value = self.op.Relu(self.combine(weighted))
        return positive


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """One method: ``build`` emits the raw map, float [N, h, w].

    build: None for a method that runs the model on changed ``pictures``, in the runtime.
    needs: what its `Site` must have: the ``activations`` alone, the ``gradients``, these and the ``curvature``, these
        and the ``biases``, the model's ``attention`` or that and the ``attention gradients``, a classic CAM ``head``,
        or a ``rerun`` of what is behind the feature map; or else changed ``pictures``.
    summary: what it shows, in one sentence.
    reads: of a method on changed pictures, which outputs of the file it needs.
    cost: over an inference of the plain model, in words.
    smooths: whether it weighs channels and then combines them, so that eigen-smooth has a meaning.
    score: whose gradients it takes: of the ``class`` score, or of its distance from the next classes (``finer``).
    fusion: how the maps of several layers become its one map; None where it has one for each.
    target: what it explains at: the chosen ``layer``, the ``picture`` that the model takes, or both; or the
        ``attention`` of all layers.
    backward: how its gradients at the picture are formed: by the derivatives (``gradient``), or with what comes back
        through ReLU and its kin rectified, with the derivative (``guided``) or in its place (``deconvolution``).
    """

    name: str
    equation: str
    paper: str
    needs: Needs
    summary: str
    build: Callable[[Site], ir.Value] | None = None
    reads: Reads | None = None
    cost: str = "a few nodes"
    smooths: bool = False
    score: Score = "class"
    fusion: Fusion | None = None
    target: Target = "layer"
    backward: Backward = "gradient"

    @property
    def differentiates(self) -> bool:
        """Whether it is made of derivatives of a score, and so of any score: of -y_c, or of y_c - y_d."""
        return self.needs in ("gradients", "curvature", "biases", "attention gradients")


_methods: dict[str, Method] = {}


def methods() -> Mapping[str, Method]:
    """Every registered method by name."""
    return MappingProxyType(_methods)


def graph_methods() -> Mapping[str, Method]:
    """Those that are built as nodes of a file."""
    return MappingProxyType({name: entry for name, entry in _methods.items() if entry.build is not None})


def method(
    name: str,
    *,
    equation: str,
    paper: str,
    needs: Needs,
    cost: str = "a few nodes",
    smooths: bool = False,
    score: Score = "class",
    fusion: Fusion | None = None,
    target: Target = "layer",
    backward: Backward = "gradient",
) -> Callable[[Callable[[Site], ir.Value]], Callable[[Site], ir.Value]]:
    """Register the decorated function as the method ``name``; see `Method`. A second one of that name is refused."""

    def register(build: Callable[[Site], ir.Value]) -> Callable[[Site], ir.Value]:
        _register(
            Method(
                name=name,
                equation=equation,
                paper=paper,
                needs=needs,
                summary=(build.__doc__ or "").strip().partition("\n")[0],
                build=build,
                cost=cost,
                smooths=smooths,
                score=score,
                fusion=fusion,
                target=target,
                backward=backward,
            )
        )
        return build

    return register


def describe(name: str, summary: str, *, equation: str, paper: str, reads: Reads, cost: str) -> None:
    """Register the method ``name``, which runs the model on changed pictures; see `Method`."""
    _register(
        Method(
            name=name,
            equation=equation,
            paper=paper,
            needs="pictures",
            summary=summary,
            reads=reads,
            cost=cost,
            target="layer" if reads in ("activations", "gradients") else "picture",
        )
    )


def _register(entry: Method) -> None:
    if entry.name in _methods:
        raise ValueError(f"method '{entry.name}' is registered already")
    _methods[entry.name] = entry


def find_method(name: str) -> Method:
    """The method called ``name``. Raises `MethodError` with the nearest names."""
    if name not in _methods:
        hint = nearest_names(name, _methods) or f"known: {', '.join(_methods)}"
        raise MethodError(f"there is no method '{name}'; {hint}")
    return _methods[name]


def find_methods(names: str | Sequence[str]) -> list[Method]:
    """The methods called ``names``, in order, to be built into a file.

    Raises `MethodError` for an unknown one, for one named twice, and for one that is no part of a file.
    """
    wanted = [names] if isinstance(names, str) else list(names)
    found = [find_method(name) for name in wanted]
    for name in wanted:
        if wanted.count(name) > 1:
            raise MethodError(f"the method '{name}' is named twice: once is enough")
    for entry in found:
        if entry.build is None:
            raise MethodError(
                f"'{entry.name}' runs the model on changed pictures: choose it when a file runs, "
                f"'onnxcam image MODEL.cam.onnx PICTURE --method {entry.name}'"
            )
    return found
