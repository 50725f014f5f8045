"""A torchvision classifier as an artifact.

pip install "onnxcam[cpu,torch]" torchvision
python export_scripts/torchvision_model.py resnet50 layer4
"""

from __future__ import annotations

import sys

import torch
import torchvision

import onnxcam


def main(name: str = "resnet50", layer: str | None = None) -> None:
    weights = torchvision.models.get_model_weights(name).DEFAULT
    model = torchvision.models.get_model(name, weights=weights).eval()
    preset = weights.transforms()
    side = preset.crop_size[0]
    report = onnxcam.export(
        model,
        torch.randn(2, 3, side, side),
        f"{name}.cam.onnx",
        layer=layer,
        preprocess=onnxcam.Preprocess(
            height=side,
            width=side,
            crop_ratio=side / preset.resize_size[0],
            mean=tuple(preset.mean),
            std=tuple(preset.std),
        ),
        labels=weights.meta["categories"],
        source=f"torchvision:{name}",
        license="BSD-3-Clause",
    )
    print(report.path, report.errors)


if __name__ == "__main__":
    main(*sys.argv[1:])
