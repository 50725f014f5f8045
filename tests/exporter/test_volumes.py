"""Volumes and clips [N, C, D, H, W]: their maps have a depth too."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import onnxcam
from onnxcam.errors import InputError, LayerError, MethodError

from .graphs import model, random, run, save

VOLUME = """net (float[N,1,D,H,W] scan) => (float[N,5] logits) {
  a = Conv <strides=[1,2,2], pads=[1,1,1,1,1,1]> (scan, w1)
  last = Relu (a)
  pooled = GlobalAveragePool (last)
  flat = Flatten (pooled)
  logits = Gemm <transB=1> (flat, fc)
}"""
WEIGHTS = {"w1": (6, 1, 3, 3, 3), "fc": (5, 6)}


def test_the_map_of_a_volume_has_its_depth(tmp_path):
    plain = save(tmp_path / "scan.onnx", model(VOLUME, **WEIGHTS))
    report = onnxcam.attach(plain, method=["gradcam", "layercam", "eigencam", "cam"])
    assert report.info.layers[0].layout == "NCDHW"
    scan = random(2, 1, 4, 10, 8)
    got = run(report.path, scan=scan, class_index=np.array([3, 1]))
    maps, weights = got["activations"], random(5, 6, seed=sum(map(ord, "fc")))[[3, 1]]
    assert got["cam"].shape == got["cam.layercam"].shape == got["cam.eigencam"].shape == (2, 4, 5, 4)
    weighted = np.einsum("nc,ncdhw->ndhw", weights, maps)  # dy/dA is w over the number of places, at each of them
    np.testing.assert_allclose(got["cam"], np.maximum(weighted, 0) / (4 * 5 * 4), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(got["cam.cam"], weighted, rtol=1e-5, atol=1e-6)
    assert onnxcam.verify(report.path).passed


def test_every_place_of_a_volume_has_its_saliency(tmp_path):
    plain = save(tmp_path / "scan.onnx", model(VOLUME, **WEIGHTS))
    names = ["saliency", "guided-backprop", "deconvolution", "input-x-gradient"]
    report = onnxcam.attach(plain, method=names)
    scan = random(2, 1, 4, 10, 8)
    got = run(report.path, scan=scan, class_index=np.array([3, 1]))
    np.testing.assert_allclose(got["cam"], np.abs(got["gradients"][:, 0]), rtol=1e-6)
    np.testing.assert_allclose(got["cam.input-x-gradient"], got["gradients"][:, 0] * scan[:, 0], rtol=1e-6)
    assert got["cam"].any()
    with pytest.raises(MethodError, match="'guided-gradcam' enlarges no map of a volume"):
        onnxcam.attach(plain, method="guided-gradcam")


def test_a_torch_model_of_volumes_is_exported(tmp_path):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv3d(1, 4, 3, padding=1), nn.SiLU(), nn.MaxPool3d(2), nn.Conv3d(4, 6, 3), nn.GELU(),
        nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(6, 3),
    ).eval()  # fmt: skip
    report = onnxcam.export(net, torch.randn(2, 1, 8, 12, 10), tmp_path / "net.cam.onnx")
    assert report.info.layers[0].layout_text == "NCDHW"
    assert max(report.errors.values()) < 1e-5
    assert run(report.path, **{report.info.image_input: random(3, 1, 8, 12, 10)})["cam"].shape == (3, 2, 4, 3)


def test_layers_of_volumes_are_kept_apart_but_not_fused(tmp_path):
    plain = save(tmp_path / "scan.onnx", model(VOLUME, **WEIGHTS))
    assert onnxcam.attach(plain, tmp_path / "two.cam.onnx", layer=["a", "last"]).info.fuse is None
    with pytest.raises(LayerError, match="maps of volumes are not fused"):
        onnxcam.attach(plain, layer=["a", "last"], fuse="mean")


def test_a_picture_is_refused_in_words(tmp_path):
    plain = save(tmp_path / "scan.onnx", model(VOLUME, **WEIGHTS))
    with (
        onnxcam.load(onnxcam.attach(plain).path) as cam,
        pytest.raises(InputError, match="takes no picture but 'scan' with 5 axes"),
    ):
        cam.explain(np.zeros((10, 8, 3), np.uint8))
