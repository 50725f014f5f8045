"""Your own model as an artifact: change `make_model`, and the two lines that say how its pictures are prepared.

pip install "onnxcam[cpu,torch]"
python export_scripts/your_own_model.py
onnxcam export export_scripts/your_own_model.py:make_model -o mine.cam.onnx    # the same from the command line
"""

from __future__ import annotations

import torch
from torch import nn

import onnxcam

PREPROCESS = onnxcam.Preprocess(height=64, width=96, resize="letterbox", mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
LABELS = ["no cat", "cat"]


def make_model() -> nn.Module:
    """A small untrained network; load your weights here."""
    features = nn.Sequential(
        *(nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.ReLU(inplace=True)),
        *(nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU(inplace=True)),
    )
    return nn.Sequential(features, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, len(LABELS)))


def main() -> None:
    example = torch.randn(2, 3, PREPROCESS.height, PREPROCESS.width)
    report = onnxcam.export(make_model().eval(), example, "mine.cam.onnx", preprocess=PREPROCESS, labels=LABELS)
    print(report.path, report.errors)


if __name__ == "__main__":
    main()
