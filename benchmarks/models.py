"""The models that the benchmarks share, with seeded weights under which no branch is zero by accident."""

from __future__ import annotations

import timm
import torch
from torch import nn

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
    """The timm model ``name`` in evaluation mode, seeded; scales that start at zero or nearly so get to matter."""
    torch.manual_seed(seed)
    model = timm.create_model(name, pretrained=False)
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            scales = parameter_name.endswith(("weight", "gamma")) and parameter.ndim == 1
            if scales and parameter.abs().max() < 1e-3:
                parameter.uniform_(0.1, 0.3)
    return model.eval()
