"""The image side of a CLIP model from OpenCLIP as an artifact: where a picture is like a text, or another picture.

pip install "onnxcam[cpu,torch]" open_clip_torch
python export_scripts/open_clip_image.py ViT-B-32 laion2b_s34b_b79k "a photo of a cat"
onnxcam image ViT-B-32.cam.onnx cat.jpg --reference text.npy    # or --reference another.jpg
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch

import onnxcam


class ImageSide(torch.nn.Module):
    """Pictures to embeddings [N, D]."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.visual = model.visual

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.visual(image)


def export_model(model: Any, path: str | Path, layer: str | None = None) -> Any:
    height, width = model.visual.image_size
    return onnxcam.export(
        ImageSide(model).eval(),
        torch.randn(2, 3, height, width),
        path,
        layer=layer,  # None: before the last attention of a ViT
        score="similarity",
        preprocess=onnxcam.Preprocess(
            height=height,
            width=width,
            interpolation="bicubic",
            mean=tuple(open_clip.OPENAI_DATASET_MEAN),
            std=tuple(open_clip.OPENAI_DATASET_STD),
        ),
    )


def main(name: str = "ViT-B-32", pretrained: str = "laion2b_s34b_b79k", text: str = "a photo of a cat") -> None:
    model = open_clip.create_model(name, pretrained=pretrained).eval()
    report = export_model(model, f"{name}.cam.onnx")
    with torch.no_grad():
        np.save("text.npy", model.encode_text(open_clip.get_tokenizer(name)([text]))[0].numpy())
    print(report.path, report.info.layers[0].name, report.errors)


if __name__ == "__main__":
    main(*sys.argv[1:])
