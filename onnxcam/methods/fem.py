"""FEM: channels weighted by how often they are much higher than usual."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxcam.methods.registry import Site, method

if TYPE_CHECKING:
    import onnx_ir as ir


@method(
    "fem",
    equation="Σ_c mean_s[A_c > μ_c + 2σ_c] · A_c, μ and σ over the places of a channel",
    paper="Fuad et al., Features Understanding in 3D CNNs for Actions Recognition in Video, IPTA 2020",
    needs="activations",
    smooths=True,
)
def fem(at: Site) -> ir.Value:
    """Channels weighted by the share of their places that stand out, whatever the class. No ReLU."""
    op = at.op
    centred = op.Sub(at.activations, op.ReduceMean(at.activations, [2, 3], keepdims=1))
    deviation = op.Sqrt(op.ReduceMean(op.Mul(centred, centred), [2, 3], keepdims=1))
    rare = op.CastLike(op.Greater(centred, op.Mul(2.0, deviation)), centred)
    return at.weigh(op.ReduceMean(rare, [2, 3], keepdims=1))
