"""docs/methods.md is what the registry says, and its examples run."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import nn

import onnxcam
from onnxcam.methods import registry

DOCS = Path(__file__).parents[2] / "docs"


def test_the_page_is_not_stale():
    spec = importlib.util.spec_from_file_location("methods_page", DOCS / "methods.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert (DOCS / "methods.md").read_text(encoding="utf-8") == script.page(), "run: python docs/methods.py"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where the examples run: with a picture and a plain model, and a registry that forgets what they add."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "_methods", dict(registry._methods))
    cv2.imwrite("cat.jpg", np.random.default_rng(0).integers(0, 255, (40, 30, 3), np.uint8))
    torch.manual_seed(0)
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)]
    net = nn.Sequential(nn.Conv2d(3, 4, 3, stride=4), nn.ReLU(), *head).eval()
    torch.onnx.export(net, (torch.randn(1, 3, 30, 26),), "plain.onnx", dynamo=False, opset_version=18)
    onnxcam.attach("plain.onnx", "any.cam.onnx", preprocess=onnxcam.Preprocess(height=30, width=26))
    return tmp_path


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_examples_run(folder, capsys):
    text = (DOCS / "methods.md").read_text(encoding="utf-8")
    scope = {"preprocess": onnxcam.Preprocess(height=30, width=26)}
    for block in re.findall(r"^```python\n(.*?)^```$", text, re.M | re.S):
        exec(block, scope)
    assert "('gradcam', 'layercam', 'eigencam')" in capsys.readouterr().out
    with onnxcam.load("absolute.cam.onnx") as cam:
        ex = cam.explain(cv2.imread("cat.jpg"))
    np.testing.assert_allclose(ex.cam, np.abs(ex.activations * ex.gradients).sum(0), rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(ex.cam, scope["mine"], rtol=1e-4, atol=1e-8)
    assert {"cat_layercam.png", "cat_mine.png", "cat_rise.png"} <= {path.name for path in folder.iterdir()}
