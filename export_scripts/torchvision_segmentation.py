"""A torchvision segmentation model (DeepLabV3, FCN, LR-ASPP) as an artifact.

pip install "onnxcam[cpu,torch]" torchvision
python export_scripts/torchvision_segmentation.py lraspp_mobilenet_v3_large
onnxcam image lraspp_mobilenet_v3_large.cam.onnx cat.jpg --class cat --point 300,200
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
import torchvision

import onnxcam

SIDE = 520
"""What torchvision resizes the shorter side to."""


def export_model(
    model: torch.nn.Module,
    path: str | Path,
    labels: list[str] | None = None,
    side: int = SIDE,
    layer: str | None = None,
) -> Any:
    return onnxcam.export(
        model.eval(),
        torch.randn(2, 3, side, side),
        path,
        layer=layer,  # None: the last feature map that all ways to the classes lead through
        output="out",  # of the dictionary that the model returns
        score="segmentation",  # of a class, where it is predicted, or over a box, a point or a mask
        preprocess=onnxcam.Preprocess(height=side, width=side, resize="stretch"),  # mean and std of ImageNet
        labels=labels,
        license="BSD-3-Clause",
    )


def main(name: str = "lraspp_mobilenet_v3_large", layer: str | None = None) -> None:
    weights = torchvision.models.get_model_weights(name).DEFAULT
    model = torchvision.models.get_model(name, weights=weights)
    report = export_model(model, f"{name}.cam.onnx", weights.meta["categories"], layer=layer)
    print(report.path, report.info.layers[0].name, report.errors)


if __name__ == "__main__":
    main(*sys.argv[1:])
