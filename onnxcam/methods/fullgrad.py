"""FullGrad: the score shared out among the picture and every bias of the model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxcam.methods.arithmetic import between_zero_and_one
from onnxcam.methods.fusion import enlarged
from onnxcam.methods.registry import Site, method

if TYPE_CHECKING:
    import onnx_ir as ir


@method(
    "fullgrad",
    equation="S - min S, S = Σ_c ψ(x_c · ∂yᶜ/∂x_c) + Σ_b ψ(b · ∂yᶜ/∂b), ψ = U(s(|·|)), b the bias of a channel",
    paper="Srinivas and Fleuret, Full-Gradient Representation for Neural Network Visualization, NeurIPS 2019, eq. 7",
    needs="biases",
    cost="a backward pass through the whole model: 1.5 to 3.5 inferences more",
    target="picture",
)
def fullgrad(at: Site) -> ir.Value:
    """Where the score comes from: out of the picture, and out of every bias on the way.

    Of a network of ReLU the terms x · ∂y/∂x and b · ∂y/∂b add up to the score. Each channel's is a map; s scales it to
    0-1 by minimum and maximum, so that it counts however small its bias is, and U enlarges it to the picture
    bilinearly. Biases behind the last feature map have no places and no map. The smallest value of the sum is taken
    off: as s takes each channel's, it stands for nothing.
    """
    op = at.op
    size = op.Shape(at.activations, start=2, end=4)
    total = _scaled(at, op.Mul(at.gradients, at.activations))
    by_size: dict[object, list[ir.Value]] = {}
    for bias in at.biases:
        by_size.setdefault(_places(bias), []).append(_scaled(at, bias))
    for same in by_size.values():  # U is linear: of one size the sum is enlarged
        total = op.Add(total, enlarged(op, op.Sum(*same), size))
    above: ir.Value = op.Sub(total, op.ReduceMin(total, [1, 2], keepdims=1))
    return above


def _scaled(at: Site, contributions: ir.Value) -> ir.Value:
    """Σ_c s(|·|): [N, h, w]."""
    total: ir.Value = at.op.ReduceSum(between_zero_and_one(at.op, at.op.Abs(contributions)), [1], keepdims=0)
    return total


def _places(value: ir.Value) -> object:
    """Height and width, or where they are open, ``value`` itself."""
    sizes = tuple((value.shape or ())[2:])
    return sizes if sizes and all(isinstance(size, int) for size in sizes) else value
