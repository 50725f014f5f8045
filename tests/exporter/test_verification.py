"""`verify` finds a wrong gradient, and passes a right one."""

from __future__ import annotations

import dataclasses

import onnx
import pytest
import torch
from torch import nn

import onnxcam
from onnxcam.autodiff import registry, rules
from onnxcam.contract import Preprocess
from onnxcam.errors import ModelSourceError


@pytest.fixture
def artifact(tmp_path):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Sigmoid(), nn.Flatten(), nn.Linear(4 * 4 * 2, 3)
    )
    example = torch.randn(2, 3, 13, 10)
    return onnxcam.export(
        net.eval(), example, tmp_path / "n.cam.onnx", layer="1", preprocess=Preprocess(height=13, width=10)
    ).path


def test_a_right_gradient_passes(artifact):
    report = onnxcam.verify(artifact)
    assert report.passed
    assert [row.direction for row in report.comparisons] == ["along the gradient", "random 1", "random 2", "random 3"]
    assert max(row.error for row in report.comparisons) < 1e-3
    assert abs(report.comparisons[0].got) > 1e-3


def test_a_wrong_gradient_is_found(artifact):
    model = onnx.load(artifact)
    (node,) = [node for node in model.graph.node if "gradients" in node.output]
    node.output[0] = "right"
    model.graph.node.append(onnx.helper.make_node("Add", ["right", "right"], ["gradients"]))
    onnx.save(model, artifact)
    report = onnxcam.verify(artifact)
    assert not report.passed
    assert report.comparisons[0].error == pytest.approx(0.5, abs=0.01)
    assert "changed" in str(report.culprit)


def test_the_operator_with_the_wrong_rule_is_named(artifact, monkeypatch):
    right = rules()["", "Sigmoid"]
    wrong = dataclasses.replace(right, vjp=lambda at, dy: (lambda: at.op.Mul(dy, at.y[0]),))
    monkeypatch.setitem(registry._rules, ("", "Sigmoid"), wrong)
    report = onnxcam.verify(onnxcam.attach(artifact, replace=True, layer="1").path)
    assert not report.passed
    assert str(report.culprit).startswith("Sigmoid")


def test_torch_is_compared_with_where_it_is_given(tmp_path):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 11 * 8, 3)).eval()
    path = onnxcam.export(
        net, torch.randn(2, 3, 13, 10), tmp_path / "n.cam.onnx", preprocess=Preprocess(height=13, width=10)
    ).path
    report = onnxcam.verify(path, model=net)
    assert report.passed
    assert sorted(report.against_torch) == ["activations", "gradients", "outputs"]
    net[0].weight.data *= 2
    assert not onnxcam.verify(path, model=net).passed


def test_a_file_that_cannot_be_verified_says_why(tmp_path):
    with pytest.raises(ModelSourceError, match="there is no file"):
        onnxcam.verify(tmp_path / "no.onnx")
    (tmp_path / "broken.onnx").write_bytes(b"\x99 nonsense")
    with pytest.raises(ModelSourceError, match="not an ONNX file"):
        onnxcam.verify(tmp_path / "broken.onnx")
