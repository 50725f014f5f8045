"""Methods with the target at the picture: which of its pixels the score hangs on.

The gradient has a channel for each of the picture's. The map has one: of saliency, guided backpropagation and
deconvolution the strongest channel, whatever its sign, since a darker pixel may speak for a class as a brighter one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from onnxcam.methods.fusion import enlarged
from onnxcam.methods.gradcam import gradcam
from onnxcam.methods.registry import Site, method

if TYPE_CHECKING:
    import onnx_ir as ir

_COST: Final = "a backward pass through the whole model: 1.5 to 2.5 inferences more"


@method(
    "saliency",
    equation="max_c |g_c|, g = ∂yᶜ/∂x at the picture x",
    paper="Simonyan et al., Deep Inside Convolutional Networks: Visualising Image Classification Models and Saliency "
    "Maps, ICLR 2014 workshop, section 3.1",
    needs="gradients",
    cost=_COST,
    target="picture",
)
def saliency(at: Site) -> ir.Value:
    """The pixels that move the score most, up or down."""
    return _strongest(at)


@method(
    "input-x-gradient",
    equation="Σ_c x_c · g_c, g = ∂yᶜ/∂x at the picture x",
    paper="Shrikumar et al., Not Just a Black Box: Learning Important Features Through Propagating Activation "
    "Differences, arXiv 1605.01713, 2016, section 3.1",
    needs="gradients",
    cost=_COST,
    target="picture",
)
def input_x_gradient(at: Site) -> ir.Value:
    """What each pixel adds to the score, if that were linear. No ReLU: negative values speak against the class.

    x is what the model takes, preprocessed: a pixel of the mean colour adds nothing.
    """
    total: ir.Value = at.op.ReduceSum(at.op.Mul(at.gradients, at.activations), [1], keepdims=0)
    return total


@method(
    "guided-backprop",
    equation="max_c |g_c|, g at the picture with dx = f'(x) · ReLU(dy) through ReLU and its kin",
    paper="Springenberg et al., Striving for Simplicity: The All Convolutional Net, ICLR 2015 workshop, section 3.4",
    needs="gradients",
    cost=_COST,
    target="picture",
    backward="guided",
)
def guided_backprop(at: Site) -> ir.Value:
    """The pixels that move the score up by exciting every layer on the way. It depends little on the class.

    Needs ReLU or its kin on the way: ReLU6, LeakyRelu, SiLU, GELU and the like.
    """
    return _strongest(at)


@method(
    "deconvolution",
    equation="max_c |g_c|, g at the picture with dx = ReLU(dy) through ReLU and its kin",
    paper="Zeiler and Fergus, Visualizing and Understanding Convolutional Networks, ECCV 2014, section 2.1",
    needs="gradients",
    cost=_COST,
    target="picture",
    backward="deconvolution",
)
def deconvolution(at: Site) -> ir.Value:
    """The picture that a deconvolutional net makes of the score. It depends little on the class.

    Needs ReLU or its kin on the way, as guided-backprop.
    """
    return _strongest(at)


@method(
    "guided-gradcam",
    equation="U(Grad-CAM) · guided-backprop, U enlarges to the picture",
    paper="Selvaraju et al., Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization, "
    "ICCV 2017, section 3.2 and figure 2",
    needs="gradients",
    cost=_COST,
    smooths=True,
    target="layer and picture",
    backward="guided",
)
def guided_gradcam(at: Site) -> ir.Value:
    """The detail of guided-backprop where Grad-CAM at the layer finds the class. U is bilinear.

    As Grad-CAM is nowhere negative, the strongest channel of the product is the product with the strongest channel.
    """
    assert at.picture is not None
    op, picture = at.op, at.picture
    large = enlarged(op, gradcam(at), op.Shape(picture.activations, start=2, end=4))
    product: ir.Value = op.Mul(large, _strongest(picture))
    return product


def _strongest(at: Site) -> ir.Value:
    """The largest absolute gradient of the channels of each place: [N, h, w]."""
    largest: ir.Value = at.op.ReduceMax(at.op.Abs(at.gradients), [1], keepdims=0)
    return largest
