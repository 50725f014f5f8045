"""Shapley-CAM, and the second derivatives it is made of, by hand and against torch's double backward."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import nn

import onnxcam
from onnxcam.methods import method, registry

from .graphs import cnn, model, save
from .networks import Transformer, torchscript

PICTURES = np.random.default_rng(2).standard_normal((3, 3, 20, 12)).astype(np.float32)
CLASSES = np.array([4, 0, 2])
ROWS = torch.arange(3)


def run(path, pictures=PICTURES, classes=CLASSES, **more) -> dict[str, np.ndarray]:
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    feed = {"image": pictures, "class_index": np.asarray(classes, np.int64)}
    return dict(zip(names, session.run(names, feed | more), strict=True))


PRODUCTS = """net (float[N,2,1,3] image) => (float[N,2] y) {
  a = Identity (image)
  a0, a1 = Split <axis=1, num_outputs=2> (a)
  product = Mul (a0, a1)
  square = Mul (a0, a0)
  both = Concat <axis=1> (product, square)
  pooled = GlobalAveragePool (both)
  flat = Flatten (pooled)
  y = Gemm <transB=1> (flat, fc)
}"""


def test_products_of_channels_by_hand(tmp_path):
    # y_0 = mean(3 a_0 a_1), y_1 = mean(6 a_0²), over three places, with a_0 = (1, 2, 3) and a_1 = (4, 0, -1)
    path = save(tmp_path / "m.onnx", model(PRODUCTS, fc=np.float32([[3, 0], [0, 6]])))
    path = onnxcam.attach(path, layer="a", method=["shapleycam", "gradcam"]).path
    image = np.float32([1, 2, 3, 4, 0, -1]).reshape(1, 2, 1, 3)
    # class 0: g = (a_1, a_0), and H A = (a_1, a_0) as well: half of g is left, with means 1/2 and 1
    #          ReLU(½ a_0 + 1 a_1) = ReLU(4.5, 1, 0.5)
    # class 1: g = (4 a_0, 0), and H A = (4 a_0, 0): half of g has the means 4 and 0, and the map is 4 a_0
    for k, expected, plain in ((0, [4.5, 1, 0.5], [9, 2, 1]), (1, [4, 8, 12], [8, 16, 24])):
        got = run(path, image, [k])
        np.testing.assert_allclose(got["cam"], [[expected]], rtol=1e-6)
        np.testing.assert_allclose(got["cam.gradcam"], [[plain]], rtol=1e-6)


class Bent(nn.Module):
    """A stem, and behind it what bends: a gate of the channels' means, a layer norm, GELU, a maximum pool."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.stem, self.act = nn.Conv2d(3, 6, 4, 2), nn.SiLU()
        self.squeeze, self.excite = nn.Conv2d(6, 3, 1), nn.Conv2d(3, 6, 1)
        self.norm, self.mlp = nn.LayerNorm(6), nn.Linear(6, 8)
        self.pool, self.last = nn.MaxPool2d(3, 2, 1), nn.Conv2d(8, 8, 3, 1, 1)
        self.fc = nn.Linear(8, 5)

    def behind(self, x: torch.Tensor) -> torch.Tensor:
        x = x * torch.sigmoid(self.excite(torch.relu(self.squeeze(x.mean((2, 3), keepdim=True)))))
        x = nn.functional.gelu(self.mlp(self.norm(x.permute(0, 2, 3, 1)))).permute(0, 3, 1, 2)
        return self.fc(nn.functional.hardswish(self.last(self.pool(x))).mean((2, 3)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.behind(self.act(self.stem(x)))


def by_torch(behind, A: torch.Tensor, score) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A, g and H A in float64, by differentiating twice."""
    A = A.detach().double().requires_grad_()
    (g,) = torch.autograd.grad(score(behind(A)).sum(), A, create_graph=True)
    (h,) = torch.autograd.grad(g, A, grad_outputs=A.detach())
    return A.detach().numpy(), g.detach().numpy(), h.numpy()


def shapley(A: np.ndarray, g: np.ndarray, h: np.ndarray) -> np.ndarray:
    return np.maximum(((g - h / 2).mean((2, 3), keepdims=True) * A).sum(1), 0)


def near(got: np.ndarray, expected: np.ndarray, tolerance: float = 1e-5) -> None:
    assert np.abs(expected).max() > 0
    assert np.abs(got - expected).max() <= tolerance * np.abs(expected).max()


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return torchscript(Bent(), tmp_path_factory.mktemp("bent") / "net.onnx", opset=18)


def own(y: torch.Tensor) -> torch.Tensor:
    return y[ROWS, CLASSES]


@pytest.mark.parametrize(
    ("explain", "score"),
    [
        ("class", own),
        ("counterfactual", lambda y: -own(y)),
        ("contrast", lambda y: own(y) - y[ROWS, [1, 2, 3]]),
    ],
)
def test_second_derivatives_are_those_of_torch(plain, tmp_path, monkeypatch, explain, score):
    monkeypatch.setattr(registry, "_methods", dict(registry._methods))

    @method("bends", equation="H A", paper="none", needs="curvature")
    def bends(at):
        """H A, a channel beside the other."""
        return at.op.Reshape(at.curvature, [0, -1, 5])

    path = onnxcam.attach(plain, tmp_path / "x.cam.onnx", layer="act", method=["shapleycam", "bends"], explain=explain)
    more = {"against_index": np.array([1, 2, 3])} if explain == "contrast" else {}
    got = run(path.path, **more)
    net = Bent().eval().double()
    A, g, h = by_torch(net.behind, net.act(net.stem(torch.from_numpy(PICTURES).double())), score)
    near(got["cam.bends"], h.reshape(3, -1, 5))
    near(got["cam"], shapley(A, g, h))
    difference = np.abs(shapley(A, g, h) - shapley(A, g, 0 * h)).max()
    assert difference > 0.05 * shapley(A, g, h).max(), "the second derivatives are seen in the map"


def test_each_class_of_each_picture_is_as_if_alone(plain, tmp_path):
    one = onnxcam.attach(plain, tmp_path / "1.cam.onnx", layer="act", method="shapleycam").path
    two = onnxcam.attach(plain, tmp_path / "2.cam.onnx", layer="act", method="shapleycam", classes=2).path
    chosen = np.array([[4, 1], [0, 2], [2, 3]])
    got = run(two, classes=chosen)["cam"]
    for i in range(3):
        for k in range(2):
            near(got[i, k], run(one, PICTURES[i : i + 1], chosen[i, k : k + 1])["cam"][0])


def test_attention_bends(tmp_path):
    net = Transformer().eval()
    path = torchscript(net, tmp_path / "net.onnx", opset=18)
    got = run(onnxcam.attach(path, layer="blocks.0", method="shapleycam").path)["cam"]
    kept = {}
    net.double().blocks[0].register_forward_hook(lambda module, args, y: kept.update(A=y))
    net(torch.from_numpy(PICTURES).double())
    behind = lambda A: net.head(net.norm(net.blocks[1](A))[:, 0])  # noqa: E731
    values = [x[:, 1:].transpose(0, 2, 1).reshape(3, 8, 5, 3) for x in by_torch(behind, kept["A"], own)]
    near(got, shapley(*values))
    assert np.abs(got - shapley(values[0], values[1], 0 * values[2])).max() > 0.05 * got.max()


def test_half_precision_keeps_small_second_derivatives(tmp_path):
    net = model(PRODUCTS.replace("float[", "float16["), fc=np.float16([[3e-4, 0], [0, 6e-4]]))
    path = onnxcam.attach(save(tmp_path / "m.onnx", net), layer="a", method="shapleycam").path
    got = run(path, np.float16([1, 2, 3, 4, 0, -1]).reshape(1, 2, 1, 3), [0])["cam"]
    np.testing.assert_allclose(got, [[[4.5e-4, 1e-4, 5e-5]]], rtol=5e-3)


def test_where_the_score_does_not_bend_it_is_gradcam_and_adds_no_pass(tmp_path):
    path = save(tmp_path / "m.onnx", cnn())
    counts = {}
    for name in ("gradcam", "shapleycam"):
        made = onnxcam.attach(path, tmp_path / f"{name}.cam.onnx", layer="first", method=name).path
        counts[name] = len(onnx.load(made).graph.node), run(made, PICTURES[:, :, :13, :10])["cam"]
    np.testing.assert_array_equal(counts["shapleycam"][1], counts["gradcam"][1])
    assert counts["shapleycam"][0] == counts["gradcam"][0]
