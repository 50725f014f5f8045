"""Methods that weigh each place of each channel by its own gradient."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxcam.methods.registry import Site, method

if TYPE_CHECKING:
    import onnx_ir as ir


@method(
    "hirescam",
    equation="Σ_c g_c · A_c",
    paper="Draelos and Carin, Use HiResCAM instead of Grad-CAM for faithful explanations of convolutional neural "
    "networks, arXiv 2011.08891, 2020",
    needs="gradients",
    smooths=True,
)
def hirescam(at: Site) -> ir.Value:
    """What each place contributes to the score, where one linear layer follows. No ReLU, as in the paper."""
    return at.combine(at.op.Mul(at.gradients, at.activations))


@method(
    "gradcam-elementwise",
    equation="Σ_c ReLU(g_c · A_c)",
    paper="Gildenblat and contributors, pytorch-grad-cam, GradCAMElementWise, 2021",
    needs="gradients",
    smooths=True,
)
def gradcam_elementwise(at: Site) -> ir.Value:
    """Only the contributions that speak for the class."""
    op = at.op
    return at.combine(op.Relu(op.Mul(at.gradients, at.activations)))


@method(
    "layercam",
    equation="ReLU(Σ_c ReLU(g_c) · A_c)",
    paper="Jiang et al., LayerCAM: Exploring Hierarchical Class Activation Maps for Localization, "
    "IEEE Transactions on Image Processing 2021",
    needs="gradients",
    smooths=True,
)
def layercam(at: Site) -> ir.Value:
    """Channels weighted place by place with their positive gradients; made for early layers too."""
    op = at.op
    return at.evidence(op.Mul(op.Relu(at.gradients), at.activations))
