"""PyTorch models of several inputs and outputs, and scores that are functions of what they return."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict, namedtuple

import numpy as np
import onnxruntime as ort
import pytest
import torch
from torch import nn

import onnxcam
from onnxcam.errors import ExportError

PICTURES = torch.from_numpy(np.random.default_rng(1).standard_normal((3, 3, 20, 12)).astype(np.float32))
EXTRA = torch.from_numpy(np.random.default_rng(2).standard_normal((3, 5)).astype(np.float32))


class ModelOutput(OrderedDict):
    """As Hugging Face's: a dictionary of tensors and of what was not asked for."""


@dataclasses.dataclass
class Fields:
    loss: torch.Tensor | None
    logits: torch.Tensor
    states: tuple[torch.Tensor, ...]


Pair = namedtuple("Pair", ["features", "logits"])
FORMS = {
    "dictionary": lambda y, a: {"logits": y, "features": a},
    "model output": lambda y, a: ModelOutput(loss=None, logits=y, states=(a, a * 2)),
    "fields": lambda y, a: Fields(None, y, (a,)),
    "named tuple": lambda y, a: Pair(a, y),
    "tuple": lambda y, a: (a, y),
    "list": lambda y, a: [a, [y]],
}


class Net(nn.Module):
    """A convolution and a head, the answer in the given ``form``; with ``extra``, another input weighs the channels."""

    def __init__(self, form: str = "", extra: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Sequential(nn.Conv2d(3, 5, 3, 2, 1), nn.GELU())
        self.fc = nn.Linear(5, 4)
        self.form, self.extra = form, extra
        self.eval()

    def head(self, A: torch.Tensor, extra: torch.Tensor | None = None) -> torch.Tensor:
        pooled = A.mean((2, 3))
        return self.fc((pooled if extra is None else pooled * extra).tanh())

    def forward(self, picture: torch.Tensor, extra: torch.Tensor | None = None):
        A = self.conv(picture)
        y = self.head(A, extra)
        return FORMS[self.form](y, A) if self.form else y


def run(path, **feed) -> dict[str, np.ndarray]:
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {k: np.asarray(x) for k, x in feed.items()}), strict=True))


def gradient(net: Net, score, extra=None) -> np.ndarray:
    A = net.conv(PICTURES).detach().requires_grad_()
    (g,) = torch.autograd.grad(score(net.head(A, extra), A).sum(), A)
    return g.numpy()


@pytest.mark.parametrize("form", FORMS)
def test_the_class_scores_are_found_in_what_the_model_returns(tmp_path, form):
    report = onnxcam.export(Net(form), PICTURES, tmp_path / "x.cam.onnx", layer="conv")
    got = run(report.path, image=PICTURES, class_index=[3, 0, 1])
    expected = gradient(Net(), lambda y, A: y[torch.arange(3), [3, 0, 1]])
    np.testing.assert_allclose(got["gradients"], expected, atol=1e-6)
    name = {"tuple": "output_1", "list": "output_1_0"}.get(form, "logits")
    assert report.info.score.output == name
    np.testing.assert_allclose(got[name], Net()(PICTURES).detach(), atol=1e-5)
    assert onnxcam.verify(report.path, model=Net(form)).passed


@pytest.mark.parametrize(("form", "output"), [("tuple", 1), ("tuple", "output_1"), ("dictionary", "logits")])
def test_an_output_is_named_by_key_or_position(tmp_path, form, output):
    report = onnxcam.export(Net(form), PICTURES, tmp_path / "x.cam.onnx", output=output)
    assert report.info.score.classes == 4
    for wrong, message in ((7, "no output 7: it has 2"), ("lgits", "no output 'lgits'")):
        with pytest.raises(ExportError, match=message):
            onnxcam.export(Net(form), PICTURES, tmp_path / "y.cam.onnx", layer="conv", output=wrong)


class Two(Net):
    def forward(self, picture: torch.Tensor, extra: torch.Tensor | None = None):
        y = self.head(self.conv(picture))
        return {"main": y, "side": y * 2}


def test_of_two_tables_one_is_to_be_chosen(tmp_path):
    with pytest.raises(ExportError, match=r"several outputs may be the class scores, 'main', 'side': choose one"):
        onnxcam.export(Two(), PICTURES, tmp_path / "x.cam.onnx", layer="conv")
    path = onnxcam.export(Two(), PICTURES, tmp_path / "x.cam.onnx", layer="conv", output="side").path
    got = run(path, image=PICTURES, class_index=[0])
    np.testing.assert_allclose(got["gradients"], gradient(Net(), lambda y, A: 2 * y[:, 0]), atol=1e-6)


@pytest.mark.parametrize("example", [(PICTURES, EXTRA), {"extra": EXTRA, "picture": PICTURES}])
def test_a_model_takes_several_inputs(tmp_path, example):
    net = Net(extra=True)
    report = onnxcam.export(net, example, tmp_path / "x.cam.onnx", layer="conv")
    assert report.info.image_input == "picture"
    assert report.dynamic_batch
    got = run(report.path, picture=PICTURES, extra=EXTRA, class_index=[3, 0, 1])
    expected = gradient(net, lambda y, A: y[torch.arange(3), [3, 0, 1]], EXTRA)
    np.testing.assert_allclose(got["gradients"], expected, atol=1e-6)
    alone = run(report.path, picture=PICTURES[1:2], extra=EXTRA[1:2], class_index=[0])
    np.testing.assert_allclose(alone["cam"][0], got["cam"][1], atol=1e-6)
    assert onnxcam.verify(report.path, model=net).passed


def margin(output):
    """Of the outputs as the model returns them: a nonlinear number an image."""
    top = output["logits"].topk(2).values
    return (top[:, 0] - top[:, 1]) ** 2 + output["features"].abs().mean((1, 2, 3)).log()


@pytest.mark.parametrize("explain", ["class", "counterfactual"])
def test_a_score_is_any_function_of_the_outputs(tmp_path, explain):
    net = Net("dictionary")
    path = tmp_path / "x.cam.onnx"
    report = onnxcam.export(net, PICTURES, path, layer="conv", score=margin, explain=explain)
    got = run(path, image=PICTURES)
    g = gradient(net, lambda y, A: margin({"logits": y, "features": A}))
    np.testing.assert_allclose(got["gradients"], g, atol=1e-5)
    A = net.conv(PICTURES).detach().numpy()
    sign = -1 if explain == "counterfactual" else 1
    np.testing.assert_allclose(got["cam"], np.maximum((sign * g.mean((2, 3), keepdims=True) * A).sum(1), 0), atol=1e-5)
    np.testing.assert_allclose(got["score"], margin(net(PICTURES)).detach(), rtol=1e-5)
    assert (report.info.score.kind, report.info.score.output) == ("number", "score")
    assert {"logits", "features"} <= set(got)
    assert "explained_class" not in got
    for i in range(3):
        np.testing.assert_allclose(run(path, image=PICTURES[i : i + 1])["cam"][0], got["cam"][i], atol=1e-5)
    assert onnxcam.verify(path, model=net, score=margin).passed


def test_a_score_finds_its_layer_and_is_told_in_python(tmp_path):
    path = tmp_path / "x.cam.onnx"
    preprocess = onnxcam.Preprocess(height=20, width=12)
    report = onnxcam.export(Net(), PICTURES, path, score=lambda y: y[:, 0] - y[:, 1], preprocess=preprocess)
    assert report.info.layers[0].name in ("conv", "conv.1")
    picture = np.random.default_rng(0).integers(0, 255, (20, 12, 3), np.uint8)
    with onnxcam.load(path) as cam:
        ex = cam.explain(picture)
    logits = Net()(torch.from_numpy(cam.prepare(picture).tensor[None]))[0].detach()
    assert ex.score == pytest.approx(float(logits[0] - logits[1]), rel=1e-3)
    assert (ex.class_index, ex.name) == (None, "score")


@pytest.mark.parametrize(
    ("score", "message"),
    [
        (lambda y: y, r"the score returns shape \[3, 4\], and one real number an image is \[3\]"),
        (lambda y: y.sum(), r"shape \[\]"),
        (lambda y: y.argmax(1), "one real number"),
        (lambda y: 1.0, "a float"),
    ],
)
def test_a_score_that_is_no_number_an_image_is_refused(tmp_path, score, message):
    with pytest.raises(ExportError, match=message):
        onnxcam.export(Net(), PICTURES, tmp_path / "x.cam.onnx", layer="conv", score=score)
    assert not list(tmp_path.iterdir())
