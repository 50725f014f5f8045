"""The similarity of an embedding to a reference that is given when the file runs: CLIP, face recognition, search."""

from __future__ import annotations

__all__ = ["SimilarityScore", "similarity_score"]

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx_ir as ir
from onnxscript import OpBuilder

from onnxcam.contract import SCORE, SCORE_REFERENCE, ScoreInfo
from onnxcam.errors import ExportError
from onnxcam.exporter.layout import shape_text
from onnxcam.exporter.scores.protocol import Score, Seed, Subject

_LEAST: Final = 1e-12
"""Length below which an embedding counts as this long, as in torch's cosine_similarity."""


def similarity_score(output: ir.Value) -> SimilarityScore:
    """The cosine similarity of ``output`` [N, D] to a reference. Raises `ExportError` for another shape."""
    shape = output.shape
    if shape is None or len(shape) != 2 or not isinstance(shape[1], int) or shape[1] < 2:
        raise ExportError(
            f"the output '{output.name}' has the shape {shape_text(shape)}, and an embedding's is [N, numbers]: choose "
            "another with --output"
        )
    return SimilarityScore(
        info=ScoreInfo(kind="similarity", output=output.name or "", activation="identity", classes=0),
        value=output,
        stepped_over=None,
        length=shape[1],
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SimilarityScore(Score):
    """y = e · r / (|e| |r|), of an embedding e of ``length`` numbers and a reference r."""

    info: ScoreInfo
    value: ir.Value
    stepped_over: str | None
    length: int

    def subjects(self, op: OpBuilder) -> Sequence[Subject]:
        """The similarity to the input `SCORE_REFERENCE`."""
        reference = ir.Value(
            name=SCORE_REFERENCE,
            type=ir.TensorType(ir.DataType.FLOAT),
            shape=ir.Shape([f"{SCORE_REFERENCE}_size", self.length]),
        )
        op.builder.graph.inputs.append(reference)
        embedding = op.Cast(self.value, to=ir.DataType.FLOAT)
        size = op.Max(op.ReduceL2(embedding, [1]), _LEAST)
        return [_Similarity(self, _unit(op, reference), op.Div(embedding, size), size)]

    def outputs(self, op: OpBuilder, subjects: Sequence[Subject]) -> dict[str, ir.Value]:
        (subject,) = subjects
        assert isinstance(subject, _Similarity)
        found = op.Squeeze(subject.cosine(op), [1])
        assert self.value.shape is not None
        found.dtype, found.shape = ir.DataType.FLOAT, ir.Shape(self.value.shape[:1])
        return {SCORE: found}

    def trial(self, batch: int) -> dict[str, np.ndarray]:
        """A reference for each image, drawn at random."""
        return {SCORE_REFERENCE: np.random.default_rng(0).standard_normal((batch, self.length)).astype(np.float32)}

    def adjoints(self, feed: Mapping[str, np.ndarray], got: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """dy/de = (r/|r| - y e/|e|) / |e|."""
        embedding = got[self.info.output].astype(np.float64)
        reference = feed[SCORE_REFERENCE].astype(np.float64)
        size = np.maximum(np.linalg.norm(embedding, axis=1, keepdims=True), _LEAST)
        unit, e = reference / np.linalg.norm(reference, axis=1, keepdims=True), embedding / size
        return [(unit - (unit * e).sum(1, keepdims=True) * e) / size]


def _unit(op: OpBuilder, values: ir.Value) -> ir.Value:
    unit: ir.Value = op.Div(values, op.Max(op.ReduceL2(values, [1]), _LEAST))
    return unit


class _Similarity(Subject):
    """The cosine of ``embedding`` and ``reference``, both of length 1; the embedding was divided by its ``size``."""

    def __init__(self, score: SimilarityScore, reference: ir.Value, embedding: ir.Value, size: ir.Value) -> None:
        self.score = score
        self.explained = None
        self._reference, self._embedding, self._size = reference, embedding, size

    def cosine(self, op: OpBuilder) -> ir.Value:
        """y, float32 [N, 1]."""
        found: ir.Value = op.ReduceSum(op.Mul(self._embedding, self._reference), [1])
        return found

    def seed(self, op: OpBuilder, of: ir.Value | None = None) -> Seed:
        value = self.score.value
        assert value.dtype is not None
        across = op.Sub(self._reference, op.Mul(self.cosine(op), self._embedding))
        adjoint = op.Cast(op.Div(across, self._size), to=value.dtype)
        adjoint.dtype, adjoint.shape = value.dtype, value.shape
        return Seed(value=value, adjoint=adjoint)

    def reading(self, op: OpBuilder, of: ir.Value | None = None) -> Seed:
        """The reference: the cosine is no sum of the embedding, but of the embedding over its length."""
        value = self.score.value
        reference = op.Expand(self._reference, op.Shape(value))
        reference.dtype, reference.shape = ir.DataType.FLOAT, value.shape
        return Seed(value=value, adjoint=reference, unit=True)
