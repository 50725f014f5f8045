"""Shapley-CAM: Grad-CAM whose weights see that the score bends."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxcam.methods.registry import Site, method

if TYPE_CHECKING:
    import onnx_ir as ir


@method(
    "shapleycam",
    equation="ReLU(Σ_c mean_s((g - ½ · H · A)_c) · A_c), H = ∂²yᶜ/∂A²",
    paper="Cai, CAMs as Shapley Value-based Explainers, arXiv 2501.06261, 2025",
    needs="curvature",
    cost="as gradcam; where the score bends behind the layer, 3 to 5 times what gradcam adds",
    smooths=True,
)
def shapleycam(at: Site) -> ir.Value:
    """Channels weighted by their shares of the score, in a game in which each place of the map takes part.

    Their Shapley values are those of the score's expansion to second order at A, (g - ½ H A) · A. Where the score does
    not bend, as behind convolutions, ReLU and pooling, H is zero and the map is Grad-CAM. The score is y_c before
    softmax, as of every method here and in pytorch-grad-cam; the paper proposes one of its own, ReST.
    """
    op = at.op
    shares = at.gradients if at.curvature is None else op.Sub(at.gradients, op.Mul(at.curvature, 0.5))
    weights = op.ReduceMean(shares, [2, 3], keepdims=1)
    return op.Relu(at.weigh(weights))  # type: ignore[no-any-return]
