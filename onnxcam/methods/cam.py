"""CAM: channels weighted by the last linear layer, with no backward pass."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxcam.errors import MethodError
from onnxcam.methods.registry import Site, method

if TYPE_CHECKING:
    import onnx_ir as ir


@method(
    "cam",
    equation="Σ_c w_kc · A_c, or A_k where no linear layer follows",
    paper="Zhou et al., Learning Deep Features for Discriminative Localization, CVPR 2016, eq. 2",
    needs="head",
    smooths=True,
)
def cam(at: Site) -> ir.Value:
    """Channels weighted by the last linear layer's row of the class; needs pooling and at most one linear layer.

    L = Σ_c w_kc A_c; without a linear layer channel k is class k, and L = A_k. No ReLU: negative values speak
    against the class.
    """
    assert at.head is not None
    assert at.explained_class is not None
    op = at.op
    if at.head.weights is None:
        if at.eigen_smooth:
            raise MethodError("'cam' is a single channel in this model, with nothing to smooth: leave eigen-smooth out")
        cam: ir.Value = op.GatherND(at.activations, op.Unsqueeze(at.explained_class, [1]), batch_dims=1)
        return cam
    return at.weigh(op.Unsqueeze(at.head.weights, [2, 3]))
