"""An Ultralytics YOLO, detector or classifier, as an artifact.

pip install "onnxcam[cpu,torch]" ultralytics
python export_scripts/ultralytics_yolo.py yolo11n.pt
python export_scripts/ultralytics_yolo.py yolo11n-cls.pt
onnxcam image yolo11n.cam.onnx street.jpg --class bicycle    # its likeliest box is drawn
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from ultralytics import YOLO

import onnxcam

PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
"""YOLO takes colours in 0-1 as they are."""


def export_model(yolo: Any, path: str | Path, side: int | None = None, layer: str | None = None) -> Any:
    """``side`` is that of the square input, by default what the model was trained on."""
    model, detects = yolo.model.eval(), yolo.task == "detect"
    side = side or (640 if detects else 224)
    if detects:
        model.model[-1].dynamic = True  # else it fixes the batch
    return onnxcam.export(
        model,
        torch.randn(2, 3, side, side),
        path,
        layer=layer,  # None: of a detector, the last feature map before its ways part; "model.22" is a later one
        output=0,  # [N, 4 + classes, boxes], or probabilities [N, classes]
        score="boxes" if detects else "class",
        preprocess=onnxcam.Preprocess(
            height=side, width=side, resize="letterbox" if detects else "crop", antialias=not detects, **PLAIN
        ),
        labels=[model.names[index] for index in sorted(model.names)],
        source=str(getattr(yolo, "ckpt_path", None) or Path(path).name),
        license="AGPL-3.0",
    )


def main(name: str = "yolo11n.pt", layer: str | None = None) -> None:
    report = export_model(YOLO(name), f"{Path(name).stem}.cam.onnx", layer=layer)
    print(report.path, report.info.layers[0].name, report.errors)


if __name__ == "__main__":
    main(*sys.argv[1:])
