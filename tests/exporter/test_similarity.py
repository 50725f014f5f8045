"""How similar an embedding is to a reference that is given when the file runs."""

from __future__ import annotations

import json

import cv2
import numpy as np
import onnxruntime as ort
import pytest
import torch
from click.testing import CliRunner
from torch import nn

import onnxcam
from onnxcam import Perturbation
from onnxcam.cli import main
from onnxcam.errors import ClassError, ExportError, InputError, MethodError

from ..runtime.clips import write_clip  # noqa: TID252 tests are no package
from .networks import torchscript

LENGTH = 7
RNG = np.random.default_rng(3)
PICTURES = RNG.standard_normal((3, 3, 20, 12)).astype(np.float32)
REFERENCES = RNG.standard_normal((3, LENGTH)).astype(np.float32)
PREPROCESS = onnxcam.Preprocess(height=20, width=12, resize="stretch", mean=(0.0,) * 3, std=(1.0,) * 3)


class Tower(nn.Module):
    """An embedding [N, 7], of length 1 where ``unit``."""

    def __init__(self, *, unit: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.unit = unit
        self.block = nn.Sequential(nn.Conv2d(3, 5, 3, 2, 1), nn.GELU(), nn.Conv2d(5, 6, 3, 1, 1), nn.GELU())
        self.project = nn.Linear(6, LENGTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.block(x))

    def head(self, features: torch.Tensor) -> torch.Tensor:
        e = self.project(features.mean((2, 3)))
        return e / e.norm(dim=1, keepdim=True) if self.unit else e


@pytest.fixture
def tower(tmp_path):
    path = torchscript(Tower(unit=False).eval(), tmp_path / "m.onnx", opset=18)
    return onnxcam.attach(path, layer="block", score="similarity", preprocess=PREPROCESS).path


def run(path, **feed) -> dict[str, np.ndarray]:
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feed), strict=True))


@pytest.mark.parametrize("unit", [False, True])
@pytest.mark.parametrize("rows", [1, 3])
def test_the_gradient_is_torchs_of_cosine_similarity(tmp_path, unit, rows):
    net = Tower(unit=unit).eval()
    path = tmp_path / "m.cam.onnx"
    report = onnxcam.export(net, torch.from_numpy(PICTURES), path, layer="block", score="similarity")
    assert max(report.errors.values()) < 1e-5
    got = run(path, image=PICTURES, score_reference=REFERENCES[:rows])
    features = net.block(torch.from_numpy(PICTURES)).detach().requires_grad_()
    y = nn.functional.cosine_similarity(net.head(features), torch.from_numpy(REFERENCES[:rows]))
    (gradient,) = torch.autograd.grad(y.sum(), features)
    np.testing.assert_allclose(got["score"], y.detach().numpy(), atol=1e-6)
    assert np.abs(got["gradients"] - gradient.numpy()).max() < 1e-5 * float(gradient.abs().max())
    assert onnxcam.verify(path).passed


def test_a_picture_is_most_similar_to_itself(tower):
    images = [RNG.integers(0, 255, (20, 12, 3)).astype(np.uint8) for _ in range(2)]
    with onnxcam.load(tower) as cam:
        both = np.stack([cam.embedding(image) for image in images])
        assert both.shape == (2, LENGTH)
        own = cam.explain(images, reference=both)
        assert [ex.score for ex in own] == pytest.approx([1, 1])
        assert np.abs(own[0].cam).max() < 1e-4  # nothing makes it more similar
        other = REFERENCES[0]
        towards = cam.explain(images[0], reference=other)
        cosine = both[0] @ other / np.linalg.norm(both[0]) / np.linalg.norm(other)
        assert towards.score == pytest.approx(float(cosine), abs=1e-6)
        assert np.abs(towards.gradients).max() > 100 * np.abs(own[0].gradients).max()
        occluded = cam.explain(images[0], reference=other, method="occlusion", perturbation=Perturbation(window=6))
        assert occluded.cam.max() > occluded.cam.min()


def test_what_is_no_reference_is_refused(tower, tmp_path):
    image = np.zeros((20, 12, 3), np.uint8)
    with onnxcam.load(tower) as cam:
        for wrong, message in [
            (None, "explains how similar its output 'logits' is to a reference: give one"),
            (np.ones(5), r"the reference has the shape \[5\], and the embedding is \[7\]"),
            (np.ones((2, 7)), "for all of 1 images, or one each"),
            (np.zeros(7), "nothing but zeros"),
            (np.full(7, np.nan), "holds NaN"),
            (["a"] * 7, "the reference holds what is no number"),
        ]:
            with pytest.raises(InputError, match=message):
                cam.explain(image, reference=wrong)
        with pytest.raises(ClassError, match="explains no class but the similarity to a reference of its output"):
            cam.explain(image, reference=np.ones(7), class_index=1)
    with onnxcam.load() as cam:
        with pytest.raises(InputError, match="takes no reference: make it with --score similarity"):
            cam.explain(image, reference=np.ones(7))
        with pytest.raises(InputError, match="explains no similarity"):
            cam.embedding(image)
    plain = tmp_path / "m.onnx"
    with pytest.raises(MethodError, match="not of a class"):
        onnxcam.attach(plain, tmp_path / "x.cam.onnx", score="similarity", method="finercam")
    with pytest.raises(ExportError, match="is of no class, and 2 were asked for"):
        onnxcam.attach(plain, tmp_path / "x.cam.onnx", score="similarity", classes=2)


def test_the_length_of_a_reference_does_not_count(tower):
    image = RNG.integers(0, 255, (20, 12, 3)).astype(np.uint8)
    reference = REFERENCES[0].astype(np.float64)
    with onnxcam.load(tower) as cam:
        plain = cam.explain(image, reference=reference)
        assert np.abs(plain.gradients).max() > 0
        for scale in (1e-60, 1e-13, 1e20, 1e60):
            scaled = cam.explain(image, reference=reference * scale)
            assert scaled.score == pytest.approx(plain.score, abs=1e-6)
            np.testing.assert_allclose(scaled.cam, plain.cam, rtol=1e-4, atol=1e-9)


def test_a_reference_is_a_file_or_a_picture(tower, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cv2.imwrite("a.png", RNG.integers(0, 255, (20, 12, 3)).astype(np.uint8))
    with onnxcam.load(tower) as cam:
        np.save("a.npy", cam.embedding(cv2.imread("a.png")))
    for reference in ("a.png", "a.npy"):
        shown = CliRunner().invoke(main, ["image", str(tower), "a.png", "--reference", reference, "--overwrite"])
        assert "score 1 (" in shown.stdout, shown.output
    lacking = CliRunner().invoke(main, ["image", str(tower), "a.png", "--overwrite"])
    assert (lacking.exit_code, lacking.stderr.count("\n")) == (1, 1)


def test_a_video_is_compared_with_a_reference(tower, tmp_path):
    pictures = [np.full((40, 24, 3), color, np.uint8) for color in ((0, 0, 255), (255, 0, 0))]
    clip = write_clip(tmp_path / "clip.mp4", pictures, crf="1")
    cv2.imwrite(str(tmp_path / "red.png"), pictures[0])
    arguments = ["video", str(clip), "-m", str(tower), "--json", "--overwrite"]
    shown = CliRunner().invoke(main, [*arguments, "--reference", str(tmp_path / "red.png")])
    red, blue = (json.loads(line)["score"] for line in shown.stdout.splitlines())
    with onnxcam.load(tower) as cam:
        reference = cam.embedding(pictures[0])
        assert red == pytest.approx(1, abs=1e-3)
        assert blue == pytest.approx(cam.explain(pictures[1], reference=reference).score, abs=0.01)
        assert blue < red - 1e-3
    lacking = CliRunner().invoke(main, arguments)
    assert (lacking.exit_code, lacking.stderr.count("\n")) == (1, 1)
    assert "is to a reference: give one" in lacking.stderr
