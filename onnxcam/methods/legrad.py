"""LeGrad: what the score of each layer would gain by attending more."""

from __future__ import annotations

from functools import reduce
from typing import TYPE_CHECKING

from onnxcam.methods.registry import Site, method

if TYPE_CHECKING:
    import onnx_ir as ir


@method(
    "legrad",
    equation="mean_l mean_heads mean_rows ReLU(∂yᶜ_l/∂A_l), y_l the score read off the tokens behind layer l",
    paper="Bousselham et al., LeGrad: An Explainability Method for Vision Transformers via Feature Formation "
    "Sensitivity, arXiv 2404.03214, 2024, section 3",
    needs="attention gradients",
    cost="a short backward pass for each layer: about an inference more",
    target="attention",
)
def legrad(at: Site) -> ir.Value:
    """The places that the class's score, read behind each layer, would gain by being attended to more.

    The score of a layer is what the model's own last steps (norm, class token or mean, linear layer) make of its
    tokens. All layers count alike.
    """
    assert at.attention is not None
    op, attention = at.op, at.attention
    gains = [op.ReduceMean(op.Relu(g), [1, 2], keepdims=0) for g in attention.gradients]
    mean = op.Mul(reduce(op.Add, gains), 1 / len(gains))
    return attention.places(op, mean)
