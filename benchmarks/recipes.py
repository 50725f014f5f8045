"""Every recipe of export_scripts/ with random weights: what is exported, how exactly, and that it explains a picture.

    pip install ".[cpu,torch]" timm torchvision transformers ultralytics open_clip_torch
    python benchmarks/recipes.py [RECIPE ...] [--json FILE]

Errors are max|graph - torch| / max|torch|, as `onnxcam.export` finds them. A library that is not installed is left out.
"""

from __future__ import annotations

import argparse
import json
import os
import runpy
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from models import lively  # before what imports torchvision

# isort: split

import cv2
import numpy as np
import torch

import onnxcam

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "models" / "samples" / "cat_and_coffee.jpg"


def script(name: str) -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "export_scripts" / f"{name}.py"))


def timm_model(path: str) -> Any:
    return script("timm_model")["export_model"](lively("resnet18"), path)


def torchvision_model(path: str) -> Any:
    import torchvision

    weights = torchvision.models.get_model_weights("mobilenet_v3_small").DEFAULT
    return script("torchvision_model")["export_model"](torchvision.models.mobilenet_v3_small(), weights, path)


def torchvision_segmentation(path: str) -> Any:
    import torchvision

    model = torchvision.models.segmentation.lraspp_mobilenet_v3_large(weights=None, weights_backbone=None)
    return script("torchvision_segmentation")["export_model"](model, path, side=256)


def yolo(name: str, side: int, path: str) -> Any:
    from ultralytics import YOLO

    return script("ultralytics_yolo")["export_model"](YOLO(name, verbose=False), path, side=side)


def hugging_face(kind: str, path: str) -> Any:
    import transformers

    small = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 3, "intermediate_size": 96}
    swin = {"image_size": 224, "embed_dim": 24, "depths": [1, 1, 2, 1], "num_heads": [1, 2, 4, 8]}
    config = {"ViT": small, "Swin": swin}[kind]
    model = getattr(transformers, f"{kind}ForImageClassification")(getattr(transformers, f"{kind}Config")(**config))
    processor = transformers.ViTImageProcessor(size={"height": 224, "width": 224})
    return script("hugging_face")["export_model"](model, processor, path)


def open_clip_image(path: str) -> Any:
    import open_clip

    return script("open_clip_image")["export_model"](open_clip.create_model("ViT-B-32", pretrained=None), path)


def your_own_model(path: str) -> Any:
    found = script("your_own_model")
    size = (2, 3, found["PREPROCESS"].height, found["PREPROCESS"].width)
    return onnxcam.export(
        found["make_model"]().eval(), torch.randn(size), path, preprocess=found["PREPROCESS"], labels=found["LABELS"]
    )


RECIPES: dict[str, Callable[[str], Any]] = {
    "timm_model: resnet18": timm_model,
    "torchvision_model: mobilenet_v3_small": torchvision_model,
    "torchvision_segmentation: lraspp_mobilenet_v3_large": torchvision_segmentation,
    "ultralytics_yolo: yolo11n": lambda path: yolo("yolo11n.yaml", 320, path),
    "ultralytics_yolo: yolo11n-cls": lambda path: yolo("yolo11n-cls.yaml", 224, path),
    "hugging_face: ViT": lambda path: hugging_face("ViT", path),
    "hugging_face: Swin": lambda path: hugging_face("Swin", path),
    "open_clip_image: ViT-B-32": open_clip_image,
    "your_own_model": your_own_model,
}


def measure(name: str, path: str) -> dict[str, Any]:
    """What the recipe made, and that its map of a picture is finite."""
    torch.manual_seed(0)
    start = time.perf_counter()
    report = RECIPES[name](path)
    seconds = time.perf_counter() - start
    with onnxcam.load(path) as model:
        image = cv2.imread(str(PICTURE))
        kind = report.info.score.kind
        upside_down = model.embedding(np.ascontiguousarray(image[::-1])) if kind == "similarity" else None
        explanation = model.explain(image, reference=upside_down)
    layer = report.info.layers[0]
    return {
        "recipe": name,
        "score": kind,
        "layer": layer.name,
        "layout": layer.layout_text,
        "map": list(explanation.cam.shape),
        "outputs": report.errors["outputs"],
        "gradients": report.errors["gradients"],
        "any_batch": report.dynamic_batch,
        "seconds": seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("recipes", nargs="*", help="parts of their names")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    os.environ.setdefault("YOLO_VERBOSE", "false")
    rows = []
    print("| recipe | score | layer | layout | map | outputs | gradients | any batch | time |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name in RECIPES:
        if arguments.recipes and not any(part in name for part in arguments.recipes):
            continue
        with tempfile.TemporaryDirectory() as folder:
            try:
                row = measure(name, str(Path(folder) / "m.cam.onnx"))
            except ImportError as error:
                print(f"| {name} | not installed: {error.name} |", flush=True)
                continue
        rows.append(row)
        size = "×".join(map(str, row["map"]))
        print(
            f"| {name} | {row['score']} | `{row['layer']}` | {row['layout']} | {size} | {row['outputs']:.1e} "
            f"| {row['gradients']:.1e} | {'yes' if row['any_batch'] else 'no'} | {row['seconds']:.0f} s |",
            flush=True,
        )
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
