"""The models that the benchmarks share, with seeded weights under which nothing is zero by accident."""

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
    """The timm model ``name`` in evaluation mode; norms get scales, shifts and statistics that do something."""
    torch.manual_seed(seed)
    model = timm.create_model(name, pretrained=False)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d | nn.LayerNorm | nn.GroupNorm):
                if module.weight is not None:
                    module.weight.uniform_(0.5, 1.5)
                    module.bias.normal_(0, 0.2)
                if isinstance(module, nn.BatchNorm2d):
                    module.running_mean.normal_(0, 0.2)
                    module.running_var.uniform_(0.5, 1.5)
        for parameter_name, parameter in model.named_parameters():
            if parameter_name.endswith("gamma"):  # ConvNeXt's layer scale starts at 1e-6
                parameter.uniform_(0.2, 1.0)
    return model.eval()
