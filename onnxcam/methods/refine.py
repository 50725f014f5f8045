"""RefineCAM: the maps of several layers, multiplied."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxcam.methods.gradcam import gradcam_plus_plus
from onnxcam.methods.registry import Site, method

if TYPE_CHECKING:
    import onnx_ir as ir


@method(
    "refinecam",
    equation="Π_l U(minmax(Grad-CAM++ at layer l)), U enlarges to the largest layer",
    paper="Domeniconi et al., How to Evaluate and Refine your CAM, arXiv 2605.14641, 2026",
    needs="gradients",
    cost="the backward pass down to the first of the layers",
    smooths=True,
    fusion="product",
)
def refinecam(at: Site) -> ir.Value:
    """Where the Grad-CAM++ of every layer agrees: the detail of an early layer, without what the last does not see.

    Needs two layers or more.
    """
    return gradcam_plus_plus(at)
