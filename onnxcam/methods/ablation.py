"""Ablation-CAM: channels weighted by what the score loses without them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from onnxcam.methods.arithmetic import TINY, quotient
from onnxcam.methods.registry import Masks, Site, method

if TYPE_CHECKING:
    import onnx_ir as ir
    from onnxscript import OpBuilder


def _all_but_one(op: OpBuilder, number: ir.Value, size: ir.Value) -> ir.Value:
    """0 at the channel with each number, 1 elsewhere: [B, C, 1, 1]."""
    kept: ir.Value = op.Unsqueeze(op.OneHot(number, op.Slice(size, [0], [1]), [1.0, 0.0], axis=-1), [2, 3])
    return kept


_WITHOUT: Final = Masks(build=_all_but_one, along="channels")


@method(
    "ablationcam",
    equation="ReLU(Σ_c w_c · A_c), w_c = (y - y without A_c) / |y|",
    paper="Desai and Ramaswamy, Ablation-CAM: Visual Explanations for Deep Convolutional Network via Gradient-free "
    "Localization, WACV 2020, eq. 4 and 5",
    needs="rerun",
    cost="a run of what is behind the layer for each channel: at the last map of EfficientNet-lite0 6 plain inferences",
    smooths=True,
)
def ablationcam(at: Site) -> ir.Value:
    """Channels weighted by the share of the class score that is lost when the channel is 0 everywhere.

    The paper divides by y. Here it is |y|: below 0 the map would show what speaks against the class.
    """
    assert at.rerun is not None
    op = at.op
    score = op.Unsqueeze(at.rerun.score, [1])
    lost = op.Sub(score, at.rerun.scores(_WITHOUT))
    weights = quotient(op, lost, op.Abs(score), TINY)
    return op.Relu(at.weigh(op.Unsqueeze(weights, [2, 3])))  # type: ignore[no-any-return]
