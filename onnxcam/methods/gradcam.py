"""Grad-CAM: channels weighted by their mean gradient."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxcam.methods.registry import Site, method

if TYPE_CHECKING:
    import onnx_ir as ir


@method(
    "gradcam",
    equation="ReLU(Σ_c mean_s(g_c) · A_c)",
    paper="Selvaraju et al., Grad-CAM, ICCV 2017, eq. 1 and 2",
    needs="gradients",
)
def gradcam(at: Site) -> ir.Value:
    """Channels weighted by the mean gradient of the class score; only what speaks for the class.

    α_c = 1/Z Σ_s g_c(s); L = ReLU(Σ_c α_c A_c).
    """
    op = at.op
    weights = op.ReduceMean(at.gradients, [2, 3], keepdims=1)
    cam: ir.Value = op.Relu(op.ReduceSum(op.Mul(weights, at.activations), [1], keepdims=0))
    return cam
