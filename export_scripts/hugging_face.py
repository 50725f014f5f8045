"""A Hugging Face classifier (ViT, Swin, DINOv2, ConvNeXt, …) as an artifact, by its name on the hub or from a folder.

pip install "onnxcam[cpu,torch]" transformers
python export_scripts/hugging_face.py google/vit-base-patch16-224
onnxcam export huggingface:google/vit-base-patch16-224    # the same from the command line
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from transformers import AutoImageProcessor, AutoModelForImageClassification

import onnxcam

INTERPOLATIONS = {0: "nearest", 2: "bilinear", 3: "bicubic"}
"""By the number that Pillow gives them."""


def export_model(model: torch.nn.Module, processor: Any, path: str | Path, layer: str | None = None) -> Any:
    """``processor`` brings every picture to one size; one that crops says so with crop_size."""
    height, width = processor.size["height"], processor.size["width"]
    return onnxcam.export(
        model.eval(),
        torch.randn(2, 3, height, width),
        path,
        layer=layer,  # None: before the last attention of a ViT, the last feature map of a Swin
        output="logits",  # the field of what the model returns
        preprocess=onnxcam.Preprocess(
            height=height,
            width=width,
            resize="stretch",
            interpolation=INTERPOLATIONS[int(processor.resample)],
            mean=tuple(processor.image_mean),
            std=tuple(processor.image_std),
        ),
        labels=[model.config.id2label[index] for index in range(model.config.num_labels)],
    )


def main(name: str = "google/vit-base-patch16-224", layer: str | None = None) -> None:
    model = AutoModelForImageClassification.from_pretrained(name)
    processor = AutoImageProcessor.from_pretrained(name)
    report = export_model(model, processor, f"{Path(name).name}.cam.onnx", layer)
    print(report.path, report.info.layers[0].name, report.info.layers[0].layout_text, report.errors)


if __name__ == "__main__":
    main(*sys.argv[1:])
