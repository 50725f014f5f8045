"""A torchvision classifier as an artifact.

pip install "onnxcam[cpu,torch]" torchvision
python export_scripts/torchvision_model.py resnet50 layer4
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
import torchvision

import onnxcam


def export_model(model: torch.nn.Module, weights: Any, path: str | Path, layer: str | None = None) -> Any:
    """``weights`` says how pictures are prepared, and the labels."""
    preset = weights.transforms()
    side = preset.crop_size[0]
    return onnxcam.export(
        model.eval(),
        torch.randn(2, 3, side, side),
        path,
        layer=layer,
        preprocess=onnxcam.Preprocess(
            height=side,
            width=side,
            crop_ratio=side / preset.resize_size[0],
            mean=tuple(preset.mean),
            std=tuple(preset.std),
        ),
        labels=weights.meta["categories"],
        source=f"torchvision:{weights}",
        license="BSD-3-Clause",
    )


def main(name: str = "resnet50", layer: str | None = None) -> None:
    weights = torchvision.models.get_model_weights(name).DEFAULT
    report = export_model(torchvision.models.get_model(name, weights=weights), weights, f"{name}.cam.onnx", layer)
    print(report.path, report.errors)


if __name__ == "__main__":
    main(*sys.argv[1:])
