"""Finer-CAM: what sets the class apart from those that look like it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxcam.methods.gradcam import gradcam
from onnxcam.methods.registry import Site, method

if TYPE_CHECKING:
    import onnx_ir as ir


@method(
    "finercam",
    equation="Grad-CAM of y_c - Σ_d p_d · y_d / Σ_d p_d, d the 3 classes whose scores are nearest to y_c",
    paper="Zhang et al., Finer-CAM: Spotting the Difference Reveals Finer Details for Visual Explanation, CVPR 2025",
    needs="gradients",
    cost="a backward pass of its own",
    smooths=True,
    score="finer",
)
def finercam(at: Site) -> ir.Value:
    """What sets the class apart from the three that are nearest to it in score, weighted by their probabilities.

    As in the authors' code the weights are differentiated too; the comparison strength is 1.
    """
    return gradcam(at)
