"""The check of an artifact: its gradients against finite differences of its own forward half."""

from __future__ import annotations

__all__ = ["Comparison", "VerificationReport", "verify"]

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import onnx_ir as ir

from onnxcam.autodiff import gradients
from onnxcam.autodiff.emitter import emitter
from onnxcam.autodiff.registry import describe
from onnxcam.autodiff.rules.quantization import ends_are_clipped
from onnxcam.contract import (
    ACTIVATIONS,
    EXPLAINED_CLASS,
    GRADIENTS,
    METADATA_KEY,
    SCORE_INPUTS,
    ArtifactInfo,
    layer_output,
)
from onnxcam.errors import ArtifactError, AutodiffError
from onnxcam.exporter.artifact import remove_explanation
from onnxcam.exporter.comparison import compare_with_torch, torch_tolerance
from onnxcam.exporter.files import read_model
from onnxcam.exporter.layers import behind_identity, on_the_way
from onnxcam.exporter.sample import sample_feed
from onnxcam.exporter.scores import known_score
from onnxcam.exporter.sessions import RUNTIME_ERRORS, cpu_session
from onnxcam.exporter.smooth import smooth

if TYPE_CHECKING:
    from onnxcam.exporter.torch import Module

TOLERANCE: Final = 1e-2
"""Relative error let through: what float32 differences of a network with kinks can resolve."""
QUANTISED_TOLERANCE: Final = 0.5
"""The same where values are quantised behind the layer: the gradient clips where the rounded values lie, differences
where the real ones do, so that only gross errors show."""
_NUMPY: Final = {
    "tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(float16)": np.float16,
    "tensor(uint8)": np.uint8, "tensor(int8)": np.int8, "tensor(int32)": np.int32, "tensor(int64)": np.int64,
    "tensor(bool)": np.bool_,
}  # fmt: skip
_STEPS: Final = (1e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One directional derivative of the explained score: ``got`` from the gradients, ``expected`` from differences.

    error: their difference relative to the gradient's norm; it passes up to ``tolerance``.
    """

    layer: str
    direction: str
    expected: float
    got: float
    error: float
    tolerance: float = TOLERANCE

    @property
    def passed(self) -> bool:
        return self.error <= self.tolerance


@dataclass(frozen=True, slots=True, kw_only=True)
class VerificationReport:
    """Everything that was compared in one artifact.

    sample: the input it was compared on, in words.
    explained_class: the class that was explained on it, the first of several; None where there are no classes.
    culprit: where a gradient is wrong, the operator at which it becomes so.
    against_torch: relative errors of outputs, activations and gradients against PyTorch, where it was given.
    at_picture: whether one of the layers is the picture itself.
    """

    path: Path
    sample: str
    explained_class: int | None
    comparisons: tuple[Comparison, ...]
    culprit: str | None = None
    against_torch: Mapping[str, float] = field(default_factory=dict)
    at_picture: bool = False

    @property
    def passed(self) -> bool:
        return all(comparison.passed for comparison in self.comparisons) and all(
            error <= torch_tolerance(name, at_picture=self.at_picture) for name, error in self.against_torch.items()
        )

    def __str__(self) -> str:
        """A table of what was compared, and the verdict."""
        explained = "" if self.explained_class is None else f", class {self.explained_class}"
        width = max(len(row.layer) for row in self.comparisons)
        lines = [
            f"on {self.sample}{explained}: slopes of its score at each layer",
            f"{'layer':<{width}} {'direction':<18} {'by gradient':>12} {'by differences':>14}  relative error",
        ]
        for row in self.comparisons:
            verdict = "ok" if row.passed else "WRONG"
            slopes = f"{row.got:>12.5g} {row.expected:>14.5g}"
            lines.append(
                f"{row.layer:<{width}} {row.direction:<18} {slopes}  {row.error:.1e} of {row.tolerance:.0e}  {verdict}"
            )
        lines += [f"{name:<14} {error:.1e} relative difference from torch's autograd"
                  for name, error in self.against_torch.items()]  # fmt: skip
        verdict = "passed" if self.passed else "FAILED"
        lines.append(f"largest difference {self.largest_difference:.1e}, relative {self.largest_error:.1e}: {verdict}")
        return "\n".join(lines)

    @property
    def largest_difference(self) -> float:
        """The largest absolute difference between two slopes."""
        return max(abs(c.got - c.expected) for c in self.comparisons)

    @property
    def largest_error(self) -> float:
        """The largest relative error."""
        return max(c.error for c in self.comparisons)


def verify(
    path: str | Path,
    *,
    directions: int = 3,
    seed: int = 0,
    model: Module | None = None,
    layer: str | Sequence[str] | None = None,
    score: Callable[[Any], Any] | None = None,
) -> VerificationReport:
    """Compare the gradients in the artifact ``path`` with central differences of its own forward half.

    The part of the graph behind the feature map A runs at A ± εv in ONNX Runtime (float32), for v along the
    gradient and along ``directions`` random unit vectors, with the step that agrees best; the slope of the
    explained score is compared with ⟨g, v⟩, relative to ‖g‖. Where they differ, the gradients at the values between
    A and the score are compared as well, from the score on: the first that is wrong names the culprit.

    Half precision is widened for the differences. Of a quantised model the rounding is left out, as the
    straight-through gradient leaves it out; the clipping stays.

    seed: of the random picture and vectors.
    model: the PyTorch module that the artifact was made of; outputs, feature maps and gradients are then compared with
        its own, by autograd, at the modules ``layer`` (where None, those that the artifact names).
    score: the function that was given to the export, where one was.

    Raises `ModelSourceError` where the file cannot be read, `ArtifactError`
    where it is no artifact, or was made without its gradients (``--outputs cam``).
    """
    path = Path(path)
    artifact = read_model(path)
    if METADATA_KEY not in artifact.metadata_props:
        raise ArtifactError(
            f"'{path}' is a plain ONNX file: make an artifact with 'onnxcam attach' (or 'onnxcam export' from PyTorch)"
        )
    info = ArtifactInfo.from_json(artifact.metadata_props[METADATA_KEY])
    outputs = {output.name or "": output for output in artifact.graph.outputs}
    if GRADIENTS not in outputs:
        raise ArtifactError(f"'{path}' was made without its gradients: make it again with --outputs all")
    image = next(x for x in artifact.graph.inputs if x.name == info.image_input)
    feed = sample_feed(artifact.graph.inputs, image=image, preprocess=info.preprocess, seed=seed)
    explained = known_score(artifact.graph, info.score)
    feed |= explained.trial(len(feed[info.image_input]))
    rng = np.random.default_rng(seed)
    try:
        session = cpu_session(artifact)
        names = [y.name for y in session.get_outputs()]
        got = dict(zip(names, session.run(names, feed), strict=True))
    except RUNTIME_ERRORS as error:
        raise ArtifactError(f"ONNX Runtime cannot run '{path}': {str(error).strip().splitlines()[0]}") from None
    adjoints = explained.adjoints(feed, got)
    comparisons: list[Comparison] = []
    wrong: tuple[str, np.ndarray] | None = None
    for k, target in enumerate(info.layers):
        activations, found = got[layer_output(ACTIVATIONS, k)], got[layer_output(GRADIENTS, k)]
        head = _Head(artifact, behind_identity(outputs[layer_output(ACTIVATIONS, k)]), explained.start, feed)
        for i, adjoint in enumerate(adjoints):
            gradient = found if len(adjoints) == 1 else found[:, i]
            vectors = {"along the gradient": gradient}
            vectors |= {f"random {j + 1}": rng.standard_normal(gradient.shape) for j in range(directions)}
            for name, vector in vectors.items():
                comparisons.append(head.compare(target.name, name, activations, gradient, vector, adjoint))
                if wrong is None and not comparisons[-1].passed:
                    wrong = target.name, adjoint
    return VerificationReport(
        path=path,
        sample=f"a random picture (seed {seed})",
        explained_class=int(got[EXPLAINED_CLASS].flat[0]) if EXPLAINED_CLASS in got else None,
        comparisons=tuple(comparisons),
        culprit=None if wrong is None else _culprit(artifact, info, wrong[0], feed, wrong[1]),
        against_torch={} if model is None else _against_torch(artifact, info, model, layer, feed, score),
        at_picture=any(
            behind_identity(outputs[layer_output(ACTIVATIONS, k)]) is image for k in range(len(info.layers))
        ),
    )


def _against_torch(
    artifact: ir.Model,
    info: ArtifactInfo,
    model: Module,
    layer: str | Sequence[str] | None,
    feed: Mapping[str, np.ndarray],
    score: Callable[[Any], Any] | None,
) -> dict[str, float]:
    from onnxcam.exporter.torch import INPUT, tensor

    own = {name: tensor(array) for name, array in feed.items() if name not in SCORE_INPUTS}
    example = own if len(own) > 1 else own[info.image_input]
    if layer is None:
        names = [INPUT if known.name == info.image_input else known.module or known.name for known in info.layers]
    else:
        names = [layer] if isinstance(layer, str) else list(layer)
    return compare_with_torch(artifact, info, model, example, names, score)


class _Head:
    """The part of a graph behind a value, run on its own."""

    def __init__(self, model: ir.Model, value: ir.Value, score: ir.Value, feed: Mapping[str, np.ndarray]) -> None:
        inputs = [x for x in model.graph.inputs if not x.is_initializer() and x is not value]
        graph = ir.convenience.extract(model.graph, [*inputs, value], [score])
        head = ir.Model(graph, ir_version=model.ir_version)
        self._tolerance = QUANTISED_TOLERANCE if _ends_clipped(graph) else TOLERANCE
        smooth(head, ends_clipped=_ends_clipped(model.graph))
        self._session = cpu_session(head)
        known = {x.name: _NUMPY[x.type] for x in self._session.get_inputs()}
        self._feed: dict[str, np.ndarray] = {
            name: array.astype(known[name]) for name, array in feed.items() if name in known
        }
        self._value = value.name or ""
        self._dtype = known[self._value]

    def score(self, x: np.ndarray, adjoint: np.ndarray) -> float:
        """The explained scores of all images, added up: no image depends on another."""
        (scores,) = self._session.run(None, {**self._feed, self._value: x.astype(self._dtype)})
        return float((scores.astype(np.float64) * adjoint).sum())

    def compare(
        self, layer: str, name: str, x: np.ndarray, gradient: np.ndarray, vector: np.ndarray, adjoint: np.ndarray
    ) -> Comparison:
        """The slope along ``vector`` of the score with ``adjoint``: of all steps' central differences the best."""
        x, gradient, unit = (array.astype(np.float64) for array in (x, gradient, vector))
        unit /= max(float(np.linalg.norm(unit)), 1e-300)
        got = float((gradient * unit).sum())
        norm = max(float(np.linalg.norm(gradient)), 1e-300)
        size = max(float(np.linalg.norm(x)), 1e-6)
        slopes = []
        for step in _STEPS:
            ahead, behind = (self.score(x + sign * step * size * unit, adjoint) for sign in (1, -1))
            slopes.append((ahead - behind) / (2 * step * size))
        expected = min(slopes, key=lambda slope: abs(slope - got))
        return Comparison(
            layer=layer,
            direction=name,
            expected=expected,
            got=got,
            error=abs(expected - got) / norm,
            tolerance=self._tolerance,
        )


def _ends_clipped(graph: ir.Graph) -> set[str]:
    """The quantised values of which the gradient counts the lowest and the highest step as clipped."""
    quantising = [node for node in graph if node.op_type == "QuantizeLinear"]
    return {node.outputs[0].name or "" for node in quantising if ends_are_clipped(node)}


def _culprit(
    artifact: ir.Model, info: ArtifactInfo, layer: str, feed: Mapping[str, np.ndarray], adjoint: np.ndarray
) -> str:
    """The operator at which the gradient becomes wrong on its way from the score to ``layer``."""
    model = artifact.clone()
    outputs = {y.name: y for y in model.graph.outputs}
    k = next(k for k, known in enumerate(info.layers) if known.name == layer)
    target = behind_identity(outputs[layer_output(ACTIVATIONS, k)])
    remove_explanation(model)
    score = known_score(model.graph, info.score).start
    path = on_the_way(model.graph, score, target)
    values = [target, *(y for node in path for y in node.outputs if _differentiated(y) and y is not score)]
    try:
        found = _anew(model, score, values, feed, adjoint)
    except AutodiffError as error:
        return str(error)
    except RUNTIME_ERRORS as error:
        return f"a graph that does not run: {str(error).strip().splitlines()[0]}"
    for value in reversed(values):
        x, gradient = found[value]
        head = _Head(model, value, score, feed)
        random = np.random.default_rng(0).standard_normal(gradient.shape)
        rows = [head.compare(layer, "", x, gradient, vector, adjoint) for vector in (gradient, random)]
        if not all(row.passed for row in rows):
            readers = [describe(node) for node in path if value in node.inputs]
            return f"{' and '.join(readers)}, from which the gradient of '{value.name}' comes"
    return (
        "none: calculated anew, the gradients are right, so the file was changed, or made by another version; "
        "make it again"
    )


def _anew(
    model: ir.Model, score: ir.Value, values: Sequence[ir.Value], feed: Mapping[str, np.ndarray], adjoint: np.ndarray
) -> dict[ir.Value, tuple[np.ndarray, np.ndarray]]:
    """Each of ``values`` and its gradient, calculated once more."""
    copy = model.clone()
    by_name = {y.name: y for y in (*copy.graph.inputs, *(y for node in copy.graph for y in node.outputs))}
    start = by_name[score.name]
    assert start.dtype is not None
    op = emitter(copy.graph, "verification")
    inner = [by_name[value.name] for value in values]
    seed = op.initializer(ir.tensor(adjoint.astype(start.dtype.numpy())), name="adjoint")
    grads = gradients(copy, of=start, wrt=inner, seed=seed)
    copy.graph.outputs.clear()
    copy.graph.outputs.extend(op.Identity(y) for y in (*inner, *grads))
    own = {x.name: feed[x.name] for x in copy.graph.inputs if x.name and x.name in feed}
    arrays = cpu_session(copy).run(None, own)
    return dict(zip(values, zip(arrays, arrays[len(values) :], strict=False), strict=True))


def _differentiated(y: ir.Value) -> bool:
    return y.dtype is not None and y.dtype.is_floating_point()
