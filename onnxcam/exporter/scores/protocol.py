"""What every kind of score states, and all that the rest of the exporter knows of it."""

from __future__ import annotations

__all__ = ["Score", "Seed", "Subject"]

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from onnxscript import OpBuilder

from onnxcam.contract import ScoreInfo
from onnxcam.errors import MethodError
from onnxcam.exporter.layers import Target
from onnxcam.methods import Head


@dataclass(frozen=True, slots=True, kw_only=True)
class Seed:
    """Where the backward walk starts: at ``value``, with the adjoint ``adjoint`` of the explained number.

    unit: of one to read y by, whether it is of ``value`` over its length.
    """

    value: ir.Value
    adjoint: ir.Value
    unit: bool = False


class Subject(ABC):
    """What one map of each image explains: y [N].

    score: whose subject it is.
    explained: the class that it is of, int64 [N]; None where there are no classes.
    """

    score: Score
    explained: ir.Value | None

    @abstractmethod
    def seed(self, op: OpBuilder, of: ir.Value | None = None) -> Seed:
        """Where the differentiation of y starts; ``of`` puts other classes [N] in the place of the explained ones."""

    def reading(self, op: OpBuilder, of: ir.Value | None = None) -> Seed:
        """How y is read where ``value`` becomes another: as Σ value · adjoint, up to what does not change with it."""
        return self.seed(op, of)

    def table(self, op: OpBuilder) -> ir.Value:
        """What y would be of every class, float32 [N, classes]. Raises `MethodError` where there are no classes."""
        raise MethodError(
            "this score is not of a class, and there is none to set it apart from: leave contrast and 'finercam' out"
        )

    def head(self, op: OpBuilder, target: Target) -> Head:
        """The classic CAM head between ``target`` and y. Raises `MethodError` where something else lies there."""
        raise MethodError("'cam' needs the score of a class, and this one is none: take 'gradcam'")


class Score(ABC):
    """One kind of score on one model's output.

    info: what the metadata says of it.
    value: where y is read, before a final softmax or sigmoid: y is the sum of ``value`` times the adjoint.
    stepped_over: the squashing operator found behind it, or None.
    """

    info: ScoreInfo
    value: ir.Value
    stepped_over: str | None

    @property
    def start(self) -> ir.Value:
        """Where differentiation starts: ``value``, or what its rounding was given."""
        return self.value

    @abstractmethod
    def subjects(self, op: OpBuilder) -> Sequence[Subject]:
        """Add the inputs that choose what is explained, and give what that is: one subject a map."""

    @abstractmethod
    def outputs(self, op: OpBuilder, subjects: Sequence[Subject]) -> dict[str, ir.Value]:
        """The outputs that say what was explained, by name."""

    @abstractmethod
    def trial(self, batch: int) -> dict[str, np.ndarray]:
        """Values for its inputs that a check of ``batch`` images runs on."""

    @abstractmethod
    def adjoints(self, feed: Mapping[str, np.ndarray], got: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """The reference for `Subject.seed`: dy/d ``value`` of each subject, from what an artifact was given and gave.

        The arrays are shaped as ``value``, the images along the first axis.
        """
