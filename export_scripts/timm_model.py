"""A timm classifier as an artifact.

pip install "onnxcam[cpu,torch]" timm
python export_scripts/timm_model.py resnet18.a1_in1k layer4
"""

from __future__ import annotations

import sys

import timm
import torch

import onnxcam


def main(name: str = "resnet18.a1_in1k", layer: str | None = None) -> None:
    model = timm.create_model(name, pretrained=True).eval()
    config = model.pretrained_cfg
    channels, height, width = config["input_size"]
    report = onnxcam.export(
        model,
        torch.randn(2, channels, height, width),
        f"{name}.cam.onnx",
        layer=layer,
        preprocess=onnxcam.Preprocess(
            height=height,
            width=width,
            crop_ratio=config["crop_pct"],
            interpolation=config["interpolation"],
            mean=config["mean"],
            std=config["std"],
        ),
        source=f"timm:{name}",
        license=config["license"],
    )
    print(report.path, report.errors)


if __name__ == "__main__":
    main(*sys.argv[1:])
