"""The check of an artifact: its gradients against finite differences of its own forward half."""

from __future__ import annotations

__all__ = ["Comparison", "VerificationReport", "verify"]

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

from onnxcam.contract import ACTIVATIONS, EXPLAINED_CLASS, GRADIENTS, METADATA_KEY, ArtifactInfo, layer_output
from onnxcam.errors import ArtifactError, ExportError
from onnxcam.exporter.artifact import cpu_session
from onnxcam.exporter.score import find_class_score

TOLERANCE = 1e-2
"""Relative error let through: what float32 differences of a network with kinks can resolve."""
_STEPS = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One directional derivative: ``got`` from the gradients, ``expected`` from finite differences.

    error: their difference relative to the gradient's norm.
    """

    layer: str
    direction: str
    expected: float
    got: float
    error: float

    @property
    def passed(self) -> bool:
        return self.error <= TOLERANCE


@dataclass(frozen=True, slots=True, kw_only=True)
class VerificationReport:
    """Everything that was compared in one artifact, on a seeded random picture."""

    path: Path
    explained_class: int
    comparisons: tuple[Comparison, ...]

    @property
    def passed(self) -> bool:
        return all(comparison.passed for comparison in self.comparisons)


def verify(path: str | Path, *, directions: int = 3, seed: int = 0) -> VerificationReport:
    """Compare the gradients in the artifact ``path`` with central differences of its own forward half.

    The part of the graph behind the feature map A runs at A ± εv in ONNX Runtime (float32), for v along the
    gradient and along ``directions`` random unit vectors, with the step that agrees best; the slope of the
    explained score is compared with ⟨g, v⟩, relative to ‖g‖.

    Raises `ArtifactError` where the file is no artifact, or was made without its gradients (``--outputs cam``).
    """
    path = Path(path)
    model = _load(path)
    info = ArtifactInfo.from_json(model.metadata_props[METADATA_KEY])
    outputs = {output.name or "": output for output in model.graph.outputs}
    if GRADIENTS not in outputs:
        raise ArtifactError(f"'{path}' was made without its gradients: export it again with --outputs all")
    rng = np.random.default_rng(seed)
    feed = {x.name or "": _random(x, info, rng) for x in model.graph.inputs if x.const_value is None}
    names = list(outputs)
    got = dict(zip(names, cpu_session(model).run(names, feed), strict=True))
    explained = int(got[EXPLAINED_CLASS][0])
    score = find_class_score(outputs[info.score.output]).value
    comparisons: list[Comparison] = []
    for k, layer in enumerate(info.layers):
        activations, gradient = got[layer_output(ACTIVATIONS, k)], got[layer_output(GRADIENTS, k)]
        head = _Head(model, _source(outputs[layer_output(ACTIVATIONS, k)]), score, feed, explained)
        vectors = {"along the gradient": gradient}
        vectors |= {f"random {i + 1}": rng.standard_normal(gradient.shape) for i in range(directions)}
        for name, vector in vectors.items():
            comparisons.append(head.compare(layer.name, name, activations, gradient, vector))
    return VerificationReport(path=path, explained_class=explained, comparisons=tuple(comparisons))


class _Head:
    """The part of the graph behind the feature map, run on its own."""

    def __init__(
        self, model: ir.Model, target: ir.Value, score: ir.Value, feed: dict[str, np.ndarray], explained: int
    ) -> None:
        inputs = [x for x in model.graph.inputs if x.const_value is None and x is not target]
        graph = ir.convenience.extract(model.graph, [*inputs, target], [score])
        self._session = cpu_session(ir.Model(graph, ir_version=model.ir_version))
        known = {x.name for x in self._session.get_inputs()}
        self._feed = {name: value for name, value in feed.items() if name in known}
        self._target = target.name or ""
        self._explained = explained

    def score(self, activations: np.ndarray) -> float:
        (scores,) = self._session.run(None, {**self._feed, self._target: activations})
        return float(scores[0, self._explained])

    def compare(
        self, layer: str, name: str, activations: np.ndarray, gradient: np.ndarray, vector: np.ndarray
    ) -> Comparison:
        """The slope along ``vector``: one central difference for each step, the one that agrees best counts."""
        unit = vector.astype(np.float64)
        unit /= max(float(np.linalg.norm(unit)), 1e-30)
        got = float((gradient.astype(np.float64) * unit).sum())
        norm = max(float(np.linalg.norm(gradient)), 1e-30)
        size = max(float(np.linalg.norm(activations)), 1e-6)
        slopes = []
        for step in _STEPS:
            ahead, behind = ((activations + sign * step * size * unit).astype(np.float32) for sign in (1, -1))
            slopes.append((self.score(ahead) - self.score(behind)) / (2 * step * size))
        expected = min(slopes, key=lambda slope: abs(slope - got))
        return Comparison(layer=layer, direction=name, expected=expected, got=got, error=abs(expected - got) / norm)


def _load(path: Path) -> ir.Model:
    try:
        model = ir.load(path)
    except FileNotFoundError:
        raise ArtifactError(f"'{path}' does not exist: check the path") from None
    except Exception as error:  # protobuf and onnx-ir raise what they like on a damaged file
        raise ArtifactError(f"'{path}' is not an ONNX file that can be read ({type(error).__name__})") from error
    if not model.graph.outputs:
        raise ArtifactError(f"'{path}' is not an ONNX file: it has no outputs")
    if METADATA_KEY not in model.metadata_props:
        raise ArtifactError(f"'{path}' is a plain ONNX file: make an artifact with 'onnxcam export'")
    return model


def _source(output: ir.Value) -> ir.Value:
    """The feature map itself behind an output that only repeats it."""
    producer = output.producer()
    if producer is not None and producer.op_type == "Identity" and producer.inputs[0] is not None:
        return producer.inputs[0]
    return output


def _random(x: ir.Value, info: ArtifactInfo, rng: np.random.Generator) -> np.ndarray:
    """A seeded standard normal input of batch 1; dynamic axes take the preprocessing's size."""
    if x.shape is None:
        raise ExportError(f"the shape of input '{x.name}' is unknown: it cannot be verified")
    known = info.preprocess
    sizes = dict(zip((0, 2, 3), (1, known.height, known.width) if known else (1,), strict=False))
    shape = [dim if isinstance(dim, int) else sizes.get(axis) for axis, dim in enumerate(x.shape)]
    if None in shape:
        raise ExportError(f"axis {shape.index(None)} of input '{x.name}' is dynamic, and its size is not known here")
    return rng.standard_normal([dim for dim in shape if dim is not None]).astype(np.float32)
