"""What an exporter reports, and how far a graph is from a reference."""

from __future__ import annotations

__all__ = ["TOLERANCE", "ExportReport", "compare_with_torch", "refuse_not_finite", "relative_error", "torch_tolerance"]

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from onnxcam.contract import ACTIVATIONS, GRADIENTS, ArtifactInfo, layer_output
from onnxcam.errors import VerificationError
from onnxcam.exporter.scores import Score, known_score
from onnxcam.exporter.sessions import cpu_session

if TYPE_CHECKING:
    import onnx_ir as ir
    import onnxruntime as ort

    from onnxcam.exporter.torch import Example, Module

TOLERANCE = 1e-3
"""Relative error (max-norm over max-norm) above which no artifact is written."""
_TRIES: Final = 5
_PICTURE_TOLERANCE: Final = 5e-2
"""The same for gradients at the picture. A deep network has millions of ReLUs behind it, and rounding puts a few of
them on the other side of their kink, in any runtime: that moves the gradient by about 1e-2, a wrong rule by about 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportReport:
    """What was written, and how far it is from a reference: max-norm of the difference over that of the reference.

    dynamic_batch: whether the file takes any number of pictures at a time.
    errors: of ``outputs`` (against torch, or the plain file), and against torch of ``activations`` and ``gradients``.
    """

    path: Path
    info: ArtifactInfo
    dynamic_batch: bool
    errors: dict[str, float]


def torch_tolerance(name: str, *, at_picture: bool) -> float:
    """The relative error from torch up to which ``name`` passes; ``at_picture``: the picture itself is a layer."""
    return _PICTURE_TOLERANCE if at_picture and name == GRADIENTS else TOLERANCE


def compare_with_torch(
    graph: ir.Model,
    info: ArtifactInfo,
    model: Module,
    example: Example,
    names: Sequence[str],
    function: Callable[[Any], Any] | None = None,
) -> dict[str, float]:
    """Relative errors of outputs, activations and gradients against torch, each the worst over images and layers.

    Where rounding falls on the other side of a kink, as of ReLU, gradients are off by any amount: up to `_TRIES`
    examples are then compared, the given one with noise, and the errors of the nearest are given. A wrong rule is
    wrong on all of them.
    """
    from onnxcam.exporter import torch as modules

    session, score = cpu_session(graph), known_score(graph.graph, info.score)
    nearest = _errors(graph, session, score, info, model, example, names, function)
    for seed in range(1, _TRIES):
        if nearest.get(GRADIENTS, 0.0) <= TOLERANCE:
            break
        errors = _errors(graph, session, score, info, model, modules.moved(example, model, seed), names, function)
        nearest = min(nearest, errors, key=lambda found: found[GRADIENTS])
    return nearest


def refuse_not_finite(model: ir.Model, values: Mapping[str, np.ndarray]) -> None:
    """Raise `VerificationError` where one of ``values`` holds NaN or infinity, and name the weights that do."""
    for name, value in values.items():
        if not np.isfinite(value.astype(np.float64)).all():
            holding = [f"'{weight.name}'" for weight in model.graph.initializers.values() if not _is_finite(weight)]
            raise VerificationError(
                f"{name} holds NaN or infinity on a random picture, "
                + (f"and so does the weight {', '.join(holding[:3])}" if holding else "though no weight does")
                + ": nothing was written"
            )


def _is_finite(weight: ir.Value) -> bool:
    array = weight.const_value
    if array is None or not array.dtype.is_floating_point() or not array.size:
        return True
    return bool(np.isfinite(array.numpy().astype(np.float64, copy=False)).all())


def _errors(
    graph: ir.Model,
    session: ort.InferenceSession,
    score: Score,
    info: ArtifactInfo,
    model: Module,
    example: Example,
    names: Sequence[str],
    function: Callable[[Any], Any] | None,
) -> dict[str, float]:
    """The errors on ``example``."""
    from onnxcam.exporter import torch as modules

    produced = [output.name for output in session.get_outputs()]
    own = modules.feed(example, model)
    feed = {**own, **score.trial(len(own[info.image_input]))}
    got = dict(zip(produced, session.run(produced, feed), strict=True))
    gradients = {f"the gradient at layer '{name}'": layer_output(GRADIENTS, k) for k, name in enumerate(names)}
    refuse_not_finite(graph, {what: got[name] for what, name in gradients.items() if name in got})
    expected = modules.reference(
        model,
        example,
        names,
        score.adjoints(feed, got),
        output=info.score.output,
        squashed=score.stepped_over is not None,
        score=function,
    )
    errors = {"outputs": relative_error(got[info.score.output], expected.output)}
    for k in range(len(names)):
        pairs = {
            ACTIVATIONS: expected.activations[k],
            GRADIENTS: _together([layers[k] for layers in expected.gradients]),
        }
        for name, reference in pairs.items():
            if (output := layer_output(name, k)) in got:
                errors[name] = max(errors.get(name, 0.0), relative_error(got[output], reference))
    return errors


def _together(gradients: Sequence[np.ndarray]) -> np.ndarray:
    """The gradients of each y as the contract has them: alone, or along an axis behind the images."""
    return gradients[0] if len(gradients) == 1 else np.stack(gradients, axis=1)


def relative_error(got: np.ndarray, expected: np.ndarray) -> float:
    """max|got - expected| / max|expected| over what is finite; inf where the shapes or the values that are not differ.

    Of what is no number, only whether it is equal counts.
    """
    if got.shape != expected.shape:
        return float("inf")
    if got.dtype.kind not in "fiub" and got.dtype.itemsize != 2:
        return 0.0 if np.array_equal(got, expected) else float("inf")
    wide, known = got.astype(np.float64), expected.astype(np.float64)
    finite = np.isfinite(known)
    if not np.array_equal(wide[~finite], known[~finite], equal_nan=True) or not np.isfinite(wide[finite]).all():
        return float("inf")
    if not finite.any():
        return 0.0
    scale = float(np.abs(known[finite]).max())
    difference = float(np.abs(wide[finite] - known[finite]).max())
    return difference / scale if scale else difference
