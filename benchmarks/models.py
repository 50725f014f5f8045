"""The models that the benchmarks share, with seeded weights under which no branch is zero by accident."""

from __future__ import annotations

import torch
from torch import nn

try:
    import torchvision  # noqa: F401
except RuntimeError:  # its wheel is built for CUDA: beside a CPU build of torch it misses two operators
    _library = torch.library.Library("torchvision", "DEF")  # keep the reference: the operators go with it
    for _operator in ("nms", "qnms"):
        _library.define(_operator + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

import timm

USUAL_LAYERS = {
    "resnet18": "layer4",
    "resnet50": "layer4",
    "mobilenetv2_100": "bn2",
    "mobilenetv3_small_100": "blocks",
    "tf_efficientnet_lite0": "bn2",
    "densenet121": "features",
    "vgg16_bn": "features",
    "convnext_atto": "stages",
    "vit_tiny_patch16_224": "blocks.10",
}
"""timm models and the layer that Grad-CAM usually takes in each."""


def lively(name: str, *, seed: int = 0) -> nn.Module:
    """The timm model ``name`` in evaluation mode, seeded; what starts at zero or nearly so gets to matter."""
    torch.manual_seed(seed)
    model = timm.create_model(name, pretrained=False)
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if not parameter.is_floating_point() or parameter.abs().max() >= 1e-3:
                continue
            if parameter.ndim == 1 and parameter_name.endswith("bias"):
                continue  # a bias of zero hides nothing
            if parameter.ndim <= 1 or "gamma" in parameter_name or "scale" in parameter_name:
                parameter.uniform_(0.1, 0.3)
            else:
                parameter.normal_(std=0.05)
    return model.eval()
