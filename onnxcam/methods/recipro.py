"""Recipro-CAM and ViT-Recipro-CAM: the score of each place by itself."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from onnxcam.methods.principal import as_map
from onnxcam.methods.registry import Masks, Site, method

if TYPE_CHECKING:
    import onnx_ir as ir
    from onnxscript import OpBuilder


def _around(op: OpBuilder, number: ir.Value, size: ir.Value, *, reach: int) -> ir.Value:
    """What is left around the place with each number: [B, 1, h, w], 0 from ``reach`` rows or columns on.

    Along each axis (1 - d / reach) / reach at the distance d: 1 for a reach of 1, and ¼, ½, ¼ for one of 2.
    """
    height, width = op.Gather(size, 1), op.Gather(size, 2)

    def along(position: ir.Value, length: ir.Value, axes: list[int]) -> ir.Value:
        distance = op.Abs(op.Sub(op.Range(0, length, 1), op.Unsqueeze(position, [1])))
        near = op.Sub(1 / reach, op.Div(op.Cast(distance, to=1), float(reach**2)))
        return op.Unsqueeze(op.Relu(near), axes)  # type: ignore[no-any-return]

    rows, columns = along(op.Div(number, width), height, [1, 3]), along(op.Mod(number, width), width, [1, 2])
    left: ir.Value = op.Mul(rows, columns)
    return left


_ALONE: Final = Masks(build=partial(_around, reach=1), along="places")
_GAUSSIAN: Final = Masks(build=partial(_around, reach=2), along="places", planar=True, alongside=True)


@method(
    "reciprocam",
    equation="S - min_s S, S_ij the score y of A where all places but ij are 0",
    paper="Byun and Lee, Recipro-CAM: Fast gradient-free visual explanations for convolutional neural networks, "
    "arXiv 2209.14074, 2022",
    needs="rerun",
    cost="a run of what is behind the layer for each place",
)
def reciprocam(at: Site) -> ir.Value:
    """The class score of each place by itself, less the lowest; with no gradients.

    Tokens without a place are kept. y is the score before a softmax, as everywhere.
    """
    return _alone(at, _ALONE)


@method(
    "vitreciprocam",
    equation="S - min_s S, S_ij the score y of A · G_ij, G a 3×3 Gaussian around ij; tokens without a place kept",
    paper="Byun and Lee, ViT-ReciproCAM: Gradient and Attention-Free Visual Explanations for Vision Transformer, "
    "arXiv 2310.02588, 2023",
    needs="rerun",
    cost="a run of what is behind the layer for each place",
)
def vitreciprocam(at: Site) -> ir.Value:
    """The class score of each token with its neighbours and the class token, less the lowest; with no gradients.

    The Gaussian is (¼, ½, ¼) along rows and columns, cut off at the border. In other layouts a place is a token. As in
    OpenVINO XAI, both halves of a residual block are masked: at a block's output the normalisation behind it as well,
    which would undo the Gaussian, and at that normalisation the skip connection past it.
    """
    return _alone(at, _GAUSSIAN)


def _alone(at: Site, masks: Masks) -> ir.Value:
    assert at.rerun is not None
    op = at.op
    scores = at.rerun.scores(masks)
    return as_map(op, op.Sub(scores, op.ReduceMin(scores, [1], keepdims=1)), at.activations)
