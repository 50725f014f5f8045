"""A timm classifier as an artifact.

pip install "onnxcam[cpu,torch]" timm
python export_scripts/timm_model.py resnet18.a1_in1k layer4
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import timm
import torch

import onnxcam


def export_model(model: torch.nn.Module, path: str | Path, layer: str | None = None) -> Any:
    config: Any = model.pretrained_cfg
    channels, height, width = config["input_size"]
    return onnxcam.export(
        model.eval(),
        torch.randn(2, channels, height, width),
        path,
        layer=layer,
        preprocess=onnxcam.Preprocess(
            height=height,
            width=width,
            crop_ratio=config["crop_pct"],
            interpolation=config["interpolation"],
            mean=config["mean"],
            std=config["std"],
        ),
        source=f"timm:{config['architecture']}",
        license=config["license"],
    )


def main(name: str = "resnet18.a1_in1k", layer: str | None = None) -> None:
    report = export_model(timm.create_model(name, pretrained=True), f"{name}.cam.onnx", layer)
    print(report.path, report.errors)


if __name__ == "__main__":
    main(*sys.argv[1:])
