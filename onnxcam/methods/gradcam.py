"""Grad-CAM and its kin: each channel has one weight, which comes from its gradients."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxcam.methods.arithmetic import quotient
from onnxcam.methods.registry import Site, method

if TYPE_CHECKING:
    import onnx_ir as ir


@method(
    "gradcam",
    equation="ReLU(Σ_c mean_s(g_c) · A_c)",
    paper="Selvaraju et al., Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization, "
    "ICCV 2017, eq. 1 and 2",
    needs="gradients",
    smooths=True,
)
def gradcam(at: Site) -> ir.Value:
    """Channels weighted by the mean gradient of the class score; only what speaks for the class.

    α_c = 1/Z Σ_s g_c(s); L = ReLU(Σ_c α_c A_c).
    """
    op = at.op
    weights = op.ReduceMean(at.gradients, [2, 3], keepdims=1)
    return op.Relu(at.weigh(weights))  # type: ignore[no-any-return]


@method(
    "gradcam++",
    equation="ReLU(Σ_c w_c · A_c), w_c = Σ_s α · ReLU(g_c), α = g² / (2g² + g³ · Σ_s A_c)",
    paper="Chattopadhay et al., Grad-CAM++: Generalized Gradient-based Visual Explanations for Deep Convolutional "
    "Networks, WACV 2018, eq. 19",
    needs="gradients",
    smooths=True,
)
def gradcam_plus_plus(at: Site) -> ir.Value:
    """Channels weighted by their positive gradients, each place by how much of the channel it is.

    α = g² / (2g² + g³ Σ_s A) = 1 / (2 + g Σ_s A), which takes no powers of small gradients; where g = 0, ReLU(g) is 0
    as well. Where a channel with negative values makes the divisor vanish, α is 0.
    """
    op = at.op
    divisor = op.Add(2.0, op.Mul(at.gradients, op.ReduceSum(at.activations, [2, 3], keepdims=1)))
    weights = op.ReduceSum(quotient(op, op.Relu(at.gradients), divisor, 1e-6), [2, 3], keepdims=1)
    return op.Relu(at.weigh(weights))  # type: ignore[no-any-return]


@method(
    "xgradcam",
    equation="ReLU(Σ_c w_c · A_c), w_c = Σ_s g_c · A_c / Σ_s A_c",
    paper="Fu et al., Axiom-based Grad-CAM: Towards Accurate Visualization and Explanation of CNNs, BMVC 2020",
    needs="gradients",
    smooths=True,
)
def xgradcam(at: Site) -> ir.Value:
    """Channels weighted by the mean of their gradients where they are active.

    A channel of which the positive and negative values cancel out, up to rounding, has no such mean; its weight is 0.
    """
    op = at.op
    total = op.ReduceSum(at.activations, [2, 3], keepdims=1)
    active = op.ReduceSum(op.Mul(at.gradients, at.activations), [2, 3], keepdims=1)
    rounding = op.Mul(op.ReduceSum(op.Abs(at.activations), [2, 3], keepdims=1), 1e-6)
    return op.Relu(at.weigh(quotient(op, active, total, rounding)))  # type: ignore[no-any-return]
