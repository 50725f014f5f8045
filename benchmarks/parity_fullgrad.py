"""FullGrad beside pytorch-grad-cam's: what `parity` shows of it.

Theirs knows `torch.nn.BatchNorm2d` alone and nothing derived from it, so it is given the same network with such ones:
of timm's own it would find no bias at all.
"""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime as ort
import pytorch_grad_cam as theirs
import torch
from pytorch_grad_cam.utils import image as their_image
from torch import nn

import onnxcam


def with_plain_norms(module: nn.Module) -> nn.Module:
    """A copy of ``module`` in which each of timm's batch norms is one of torch's, followed by its activation."""
    return _plain(copy.deepcopy(module)).eval()


def _plain(module: nn.Module) -> nn.Module:
    for name, child in list(module.named_children()):
        if isinstance(child, nn.BatchNorm2d) and type(child) is not nn.BatchNorm2d:
            norm = nn.BatchNorm2d(child.num_features, eps=child.eps)
            norm.load_state_dict(child.state_dict())
            act = copy.deepcopy(child.act)
            act.inplace = False
            setattr(module, name, nn.Sequential(norm, act))
        else:
            _plain(child)
    return module


def artifact(module: nn.Module) -> ort.InferenceSession:
    """``module`` with `fullgrad` as its first map."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.cam.onnx"
        onnxcam.export(module, torch.randn(2, 3, 224, 224), path, method="fullgrad")
        options = ort.SessionOptions()
        options.log_severity_level = 3
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def their_map(module: nn.Module, image: np.ndarray, index: int, *, epsilon: bool) -> np.ndarray:
    """Their sum of all shares, less its smallest value; without ``epsilon``, 1e-7 is left out of what scales them."""
    kept: dict[str, np.ndarray] = {}
    cam = theirs.FullGrad(model=module, target_layers=[])
    inner, scale = cam.compute_cam_per_layer, their_image.scale_cam_image

    def keep(*arguments: Any) -> np.ndarray:
        kept["map"] = inner(*arguments)
        return kept["map"]

    cam.compute_cam_per_layer = keep
    try:
        if not epsilon:
            their_image.scale_cam_image = _scaled
        cam(torch.from_numpy(image), [theirs.utils.model_targets.ClassifierOutputTarget(index)])
    finally:
        their_image.scale_cam_image = scale
    found = kept["map"][0, 0]
    return found - found.min()


def _scaled(maps: np.ndarray, target_size: tuple[int, int]) -> np.ndarray:
    """Each map at 0-1, enlarged; a flat one is 0."""
    raised = [each - each.min() for each in maps]
    return np.float32([cv2.resize(np.float32(x / (x.max() or 1)), target_size) for x in raised])
