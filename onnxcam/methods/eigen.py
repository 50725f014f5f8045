"""Methods that show the principal component of the feature map, or of what its gradients make of it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from onnxcam.errors import MethodError
from onnxcam.methods.arithmetic import TINY, sign
from onnxcam.methods.principal import as_map, dominant, first_component
from onnxcam.methods.registry import Site, method

if TYPE_CHECKING:
    import onnx_ir as ir

_COST: Final = "16 products of n × n matrices, n the smaller of channels and places"
_PLACES: Final = 2048
"""A kernel matrix has the square of this many elements."""
_TANH_1: Final = math.tanh(1)


@method(
    "eigencam",
    equation="(v₁ᵀ (A - mean_s A))(s), v₁ the first principal axis of A over its places",
    paper="Muhammad and Yeasin, Eigen-CAM: Class Activation Map using Principal Components, IJCNN 2020",
    needs="activations",
    cost=_COST,
)
def eigencam(at: Site) -> ir.Value:
    """The first principal component of the feature map: what stands out, whatever the class. No ReLU.

    A principal component has no sign of its own. Here it goes with the mean over channels, so that the active places
    are positive.
    """
    return first_component(at.op, at.activations, at.sizes)


@method(
    "eigengradcam",
    equation="(v₁ᵀ (gA - mean_s gA))(s), v₁ the first principal axis of g · A over its places",
    paper="Gildenblat and contributors, pytorch-grad-cam, EigenGradCAM, 2021, after Muhammad and Yeasin 2020",
    needs="gradients",
    cost=_COST,
)
def eigengradcam(at: Site) -> ir.Value:
    """The first principal component of the contributions to the class score. No ReLU.

    Its sign is that of the mean over channels of g · A, so that positive is what speaks for the class.
    """
    return first_component(at.op, at.op.Mul(at.gradients, at.activations), at.sizes)


@method(
    "segeigencam",
    equation="±(v₁ᵀ (|g|A - mean_s |g|A))(s), v₁ the first principal axis of |g| · A over its places",
    paper="Chung and Ying, Seg-Eigen-CAM: Eigen-Value-Based Visual Explanations for Semantic Segmentation Models, "
    "Applied Sciences 15(13) 7562, 2025, eq. 10 to 13",
    needs="gradients",
    cost=_COST,
)
def segeigencam(at: Site) -> ir.Value:
    """The first principal component of the feature map where the score hangs on it, for or against. No ReLU.

    Its sign is the paper's: the value farthest from 0 is positive.
    """
    op = at.op
    cam = first_component(op, op.Mul(op.Abs(at.gradients), at.activations), at.sizes)
    ends = op.Add(op.ReduceMax(cam, [1, 2], keepdims=1), op.ReduceMin(cam, [1, 2], keepdims=1))
    signed: ir.Value = op.Mul(cam, sign(op, ends))
    return signed


@method(
    "kpcacam",
    equation="(√λ₁ · u₁)(s), the first eigenpair of the centred kernel tanh(a_s · a_t / C + 1), a = A - mean_s A",
    paper="Karmani et al., KPCA-CAM: Visual Explainability of Deep Computer Vision Models using Kernel PCA, "
    "arXiv 2410.00267, 2024",
    needs="activations",
    cost=f"16 products of n × n matrices, n the number of places, which may be {_PLACES}",
)
def kpcacam(at: Site) -> ir.Value:
    """The first component of a kernel PCA of the feature map, with pytorch-grad-cam's sigmoid kernel. No ReLU.

    tanh(x + 1) - tanh(1) = t (1 - b²) / (1 + t b) with t = tanh(x), b = tanh(1) is taken for tanh(x + 1): centring
    removes a constant, and small x keep their digits. The kernel may have negative eigenvalues; its Frobenius norm on
    the diagonal puts them below the greatest. The sign is that of `eigencam`.
    """
    op = at.op
    channels, height, width = at.sizes
    if channels is None:
        raise MethodError("'kpcacam' needs to know how many channels the layer has, and this one leaves it open")
    if height is not None and width is not None and height * width > _PLACES:
        raise MethodError(
            f"'kpcacam' compares all places with one another, and this layer has {height * width} of them (at most "
            f"{_PLACES}): choose a later layer, or 'eigencam'"
        )
    columns = op.Transpose(op.Reshape(at.activations, [0, 0, -1]), perm=[0, 2, 1])
    columns = op.Sub(columns, op.ReduceMean(columns, [1], keepdims=1))
    products = op.MatMul(columns, op.Transpose(columns, perm=[0, 2, 1]))
    t = op.Tanh(op.Div(products, float(channels)))
    kernel = op.Div(op.Mul(t, 1 - _TANH_1**2), op.Add(1.0, op.Mul(t, _TANH_1)))
    kernel = op.Sub(kernel, op.ReduceMean(kernel, [1], keepdims=1))
    kernel = op.Sub(kernel, op.ReduceMean(kernel, [2], keepdims=1))
    norm = op.ReduceL2(kernel, [1, 2], keepdims=1)
    diagonal = op.EyeLike(op.Squeeze(op.Slice(kernel, [0], [1], [0]), [0]))
    vector = dominant(op, op.Add(op.Div(kernel, op.Max(norm, TINY)), diagonal))
    value = op.MatMul(op.Transpose(vector, perm=[0, 2, 1]), op.MatMul(kernel, vector))
    found = op.Mul(vector, op.Sqrt(op.Max(value, 0.0)))
    agreement = op.ReduceSum(op.Mul(found, op.ReduceMean(columns, [2], keepdims=1)), [1, 2], keepdims=1)
    return as_map(op, op.Mul(found, sign(op, agreement)), at.activations)
