"""Scores of no class: a weighting of the output, given when the file runs, or the output itself."""

from __future__ import annotations

import json

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from click.testing import CliRunner
from torch import nn

import onnxcam
from onnxcam.cli import main
from onnxcam.errors import ClassError, ExportError, InputError, MethodError
from onnxcam.exporter.files import read_model

from .graphs import model, save
from .networks import Plain, torchscript

PICTURES = np.random.default_rng(1).standard_normal((3, 3, 20, 12)).astype(np.float32)
RNG = np.random.default_rng(2)


class Dense(nn.Module):
    """An output with places, [N, 4, 10, 6], by ``last``: of a convolution, or a softmax behind it."""

    def __init__(self, last: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Sequential(nn.Conv2d(3, 5, 3, 2, 1), nn.ReLU())
        self.block = nn.Sequential(nn.Conv2d(5, 6, 3, 1, 1), nn.GELU())
        self.top = nn.Conv2d(6, 4, 3, 1, 1)
        self.last = last

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.top(self.block(self.stem(x))))


def run(path, pictures=PICTURES, **more) -> dict[str, np.ndarray]:
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"image": pictures} | more), strict=True))


@pytest.mark.parametrize("last", [nn.Identity(), nn.Softmax(1), nn.Softmax(3), nn.Sigmoid()])
def test_any_weighting_is_explained_before_a_final_softmax(tmp_path, last):
    net = Dense(last).eval()
    path = torchscript(net, tmp_path / "m.onnx", opset=18)
    report = onnxcam.attach(path, tmp_path / "m.cam.onnx", layer="block", score="weights")
    weights = RNG.standard_normal((3, 4, 10, 6)).astype(np.float32)
    got = run(report.path, score_weights=weights)
    A = net.block(net.stem(torch.from_numpy(PICTURES))).detach().requires_grad_()
    y = (net.top(A) * torch.from_numpy(weights)).sum((1, 2, 3))
    (g,) = torch.autograd.grad(y.sum(), A)
    np.testing.assert_allclose(got["gradients"], g.numpy(), atol=1e-5)
    cam = torch.relu((g.mean((2, 3), keepdim=True) * A).sum(1)).detach().numpy()
    np.testing.assert_allclose(got["cam"], cam, atol=1e-5)
    np.testing.assert_allclose(got["score"], y.detach().numpy(), rtol=1e-4)
    assert list(got) == ["logits", "cam", "activations", "gradients", "score"]
    assert (report.info.score.kind, report.info.score.classes) == ("weights", 0)
    assert report.info.extra.get("stepped_over") == (None if isinstance(last, nn.Identity) else type(last).__name__)
    for i in range(3):
        alone = run(report.path, PICTURES[i : i + 1], score_weights=weights[i : i + 1])
        np.testing.assert_allclose(alone["cam"][0], got["cam"][i], atol=1e-6)
    same = run(report.path, score_weights=weights[:1])
    np.testing.assert_allclose(same["score"][0], got["score"][0], rtol=1e-4)
    assert onnxcam.verify(report.path).passed


def test_the_golden_weighting(tmp_path):
    """A [1, 1, 1, 2] = (3, -1) is doubled: output (6, -2). Weights (5, 7): y = 30 - 14 = 16, dy/dA = (10, 14),
    whose mean is 12, and Grad-CAM is ReLU(12 · (3, -1)) = (36, 0)."""
    text = """g (float[N,1,1,2] image) => (float[N,1,1,2] out) {
        a = Identity (image)
        out = Mul (a, two)
    }"""
    path = save(tmp_path / "m.onnx", model(text, two=[2.0]))
    proto = onnx.load(path)
    onnx.numpy_helper.to_array(proto.graph.initializer[0])
    proto.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(np.float32([2]), "two"))
    onnx.save(proto, path)
    artifact = onnxcam.attach(path, tmp_path / "m.cam.onnx", layer="a", score="weights").path
    got = run(artifact, np.float32([[[[3, -1]]]]), score_weights=np.float32([[[[5, 7]]]]))
    assert got["score"].tolist() == [16]
    assert got["gradients"].tolist() == [[[[10, 14]]]]
    assert got["cam"].tolist() == [[[36, 0]]]


def test_a_one_hot_weighting_is_the_score_of_the_class(tmp_path):
    path = torchscript(Plain(), tmp_path / "m.onnx", opset=18)
    for explain in ("class", "counterfactual"):
        how = {"layer": "stem", "explain": explain}
        by_class = run(onnxcam.attach(path, tmp_path / "c.cam.onnx", **how).path, class_index=np.array([4, 0, 2]))
        weighted = onnxcam.attach(path, tmp_path / "w.cam.onnx", score="weights", **how).path
        got = run(weighted, score_weights=np.eye(5, dtype=np.float32)[[4, 0, 2]])
        for name in ("cam", "gradients"):
            np.testing.assert_allclose(got[name], by_class[name], atol=1e-6)
        np.testing.assert_allclose(got["score"], by_class["logits"][range(3), [4, 0, 2]], rtol=1e-5)


def test_what_needs_classes_is_refused(tmp_path):
    path = torchscript(Plain(), tmp_path / "m.onnx", opset=18)
    for how, error, message in (
        ({"explain": "contrast"}, MethodError, "not of a class, and there is none to set it apart from"),
        ({"method": "finercam"}, MethodError, "not of a class"),
        ({"method": "cam"}, MethodError, "needs the score of a class"),
        ({"classes": 2}, ExportError, "leave --classes out"),
    ):
        with pytest.raises(error, match=message):
            onnxcam.attach(path, tmp_path / "x.cam.onnx", score="weights", **how)
    with pytest.raises(ExportError, match=r"one number an image is \[N\]"):
        onnxcam.attach(path, tmp_path / "x.cam.onnx", score="number")


class Regression(Plain):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(super().forward(x)[:, :1]) ** 2


@pytest.mark.parametrize("exporter", ["attach", "export"])
def test_a_regression_is_explained_itself(tmp_path, exporter):
    net = Regression().eval()
    if exporter == "attach":
        plain = torchscript(net, tmp_path / "m.onnx", opset=18)
        path = onnxcam.attach(plain, tmp_path / "m.cam.onnx", layer="stem", score="number").path
    else:
        example = torch.from_numpy(PICTURES)
        path = onnxcam.export(net, example, tmp_path / "m.cam.onnx", layer="stem", score="number").path
        assert onnxcam.verify(path, model=net).passed
    got = run(path)
    A = net.stem(torch.from_numpy(PICTURES)).detach().requires_grad_()
    y = torch.sigmoid(net.fc(net.pool(net.stage(A)).flatten(1))[:, 0]) ** 2
    (g,) = torch.autograd.grad(y.sum(), A)
    np.testing.assert_allclose(got["gradients"], g.numpy(), atol=1e-6)
    assert "explained_class" not in got
    assert "score" not in got
    assert onnxcam.verify(path).passed
    assert onnxcam.verify(path).explained_class is None


def test_an_export_with_weights_is_compared_with_torch(tmp_path):
    net = Dense(nn.Softmax(1)).eval()
    report = onnxcam.export(net, torch.from_numpy(PICTURES), tmp_path / "m.cam.onnx", layer="stem", score="weights")
    assert max(report.errors.values()) < 1e-4
    assert report.info.extra["stepped_over"] == "Softmax"
    assert onnxcam.verify(report.path, model=net).passed


def test_a_renewed_weighting_leaves_nothing_behind(tmp_path):
    path = torchscript(Plain(), tmp_path / "m.onnx", opset=18)
    artifact = onnxcam.attach(path, tmp_path / "m.cam.onnx", score="weights").path
    onnxcam.attach(artifact, replace=True)
    graph = read_model(artifact).graph
    assert [x.name for x in graph.inputs] == ["image", "class_index"]
    assert [y.name for y in graph.outputs] == ["logits", "cam", "activations", "gradients", "explained_class"]


@pytest.fixture
def weighted(tmp_path):
    path = torchscript(Plain(), tmp_path / "m.onnx", opset=18)
    preprocess = onnxcam.Preprocess(height=20, width=12)
    return onnxcam.attach(path, tmp_path / "m.cam.onnx", score="weights", preprocess=preprocess).path


def test_pictures_are_explained_by_weights(weighted):
    pictures = list(RNG.integers(0, 255, (2, 20, 12, 3), np.uint8))
    weights = RNG.standard_normal((2, 5)).astype(np.float32)
    with onnxcam.load(weighted) as cam:
        both = cam.explain(pictures, score_weights=weights)
        one = cam.explain(pictures[1], score_weights=weights[1])
        assert (one.class_index, one.label, one.top()) == (None, None, [])
        assert one.score == pytest.approx(float(one.output @ weights[1]), rel=1e-4)
        assert one.caption == f"{one.score:.4g}"
        np.testing.assert_allclose(both[1].cam, one.cam, atol=1e-6)
        assert both[0].score == pytest.approx(float(both[0].output @ weights[0]), rel=1e-4)
        assert one.overlay().shape == (20, 12, 3)
        for weights, message in (
            (None, "a weighting of its output 'logits': give score_weights"),
            (np.zeros(4), r"has the shape \[4\], and the output is \['N', 5\]"),
            (np.zeros((3, 5)), "2 images and score_weights for 3"),
            (np.full(5, np.nan), "no finite numbers"),
            (np.full(5, 1e60), "no finite numbers"),
            (["a"] * 5, "score_weights holds what is no number"),
        ):
            with pytest.raises(InputError, match=message):
                cam.explain(pictures, score_weights=weights)
        with pytest.raises(ClassError, match="explains no class but a weighting of its output 'logits'"):
            cam.explain(pictures, score_weights=np.zeros(5), class_index=1)
        with pytest.raises(InputError, match="needs the input 'score_weights' as well"):
            cam.run([cam.prepare(pictures[0])])
    shipped = onnxcam.load()
    with shipped as cam, pytest.raises(InputError, match="takes no score_weights: make it with --score weights"):
        cam.explain(pictures[0], score_weights=np.zeros(5))


def test_on_the_command_line(weighted, tmp_path, monkeypatch):
    import cv2

    monkeypatch.chdir(tmp_path)
    cv2.imwrite("a.png", RNG.integers(0, 255, (40, 30, 3), np.uint8))
    np.save("w.npy", np.float32([1, 0, 0, 0, -1]))

    def call(*arguments: str):
        return CliRunner().invoke(main, [*arguments])

    result = call("image", str(weighted), "a.png", "--input", "score_weights=w.npy", "--json")
    row = json.loads(result.stdout)
    assert (row["class"], row["label"], row["top"]) == (None, None, [])
    with onnxcam.load(weighted) as cam:
        expected = cam.explain(cv2.imread("a.png"), score_weights=np.float32([1, 0, 0, 0, -1]))
    assert row["score"] == pytest.approx(expected.score)
    text = call("image", str(weighted), "a.png", "--input", "score_weights=w.npy", "--overwrite").stdout
    assert text.startswith("a.png: score ")
    assert "give score_weights" in call("image", str(weighted), "a.png", "--overwrite").stderr
    assert "write NAME=FILE.npy" in call("image", str(weighted), "a.png", "--overwrite", "--input", "w.npy").stderr
    wrong = call("image", str(weighted), "a.png", "--overwrite", "--input", "score_weights=a.png")
    assert "no NumPy file" in wrong.stderr
    assert "logits, a weighting of it" in call("inspect", str(weighted)).stdout
    attached = call("attach", "m.onnx", "-o", "x.cam.onnx", "--score", "weights")
    assert "score          logits, a weighting of it" in attached.stdout, attached.output
    assert call("layers", "m.onnx", "--score", "weights").exit_code == 0
    assert call("verify", str(weighted)).exit_code == 0


def test_a_wrong_gradient_of_a_weighting_is_found(tmp_path):
    path = torchscript(Plain(), tmp_path / "m.onnx", opset=18)
    artifact = onnxcam.attach(path, tmp_path / "m.cam.onnx", layer="stem", score="weights").path
    proto = onnx.load(artifact)
    (reader,) = [node for node in proto.graph.node if "gradients" in node.output]
    inner = f"{reader.output[0]}_right"
    reader.output[0] = inner
    proto.graph.node.append(onnx.helper.make_node("Neg", [inner], ["gradients"]))
    onnx.save(proto, artifact)
    report = onnxcam.verify(artifact)
    assert not report.passed
    assert "the file was changed" in report.culprit
