"""FullGrad: the biases it finds, by whether all shares add up to the score, and its map, by torch."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest
import torch
from torch import nn
from torch.nn import functional

import onnxcam
from onnxcam.errors import MethodError
from onnxcam.methods import method, registry

from .graphs import model, save
from .networks import dynamo, torchscript

PICTURES = np.random.default_rng(3).standard_normal((3, 3, 20, 12)).astype(np.float32)
CLASSES = np.array([4, 0, 2])
ROWS = torch.arange(3)


def run(path, pictures=PICTURES, classes=CLASSES, **more) -> dict[str, np.ndarray]:
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    feed = {"image": pictures, "class_index": np.asarray(classes, np.int64)}
    return dict(zip(names, session.run(names, feed | more), strict=True))


def near(got: np.ndarray, expected: np.ndarray, tolerance: float = 1e-5) -> None:
    assert np.abs(expected).max() > 0
    assert np.abs(got - expected).max() <= tolerance * np.abs(expected).max()


@pytest.fixture
def shares(monkeypatch):
    """Registers the method ``shares``: Σ x · g, then Σ b · g of each bias, [N, 1, 1 + biases]."""
    monkeypatch.setattr(registry, "_methods", dict(registry._methods))

    @method("shares", equation="Σ b · g", paper="none", needs="biases", target="picture")
    def build(at):
        """What the picture and each bias add to the score."""
        terms = [at.op.Mul(at.activations, at.gradients), *at.biases]
        return at.op.Concat(*(at.op.ReduceSum(at.op.ReduceSum(x, [3], keepdims=0), [1, 2]) for x in terms), axis=2)


BIASES = """net (float[N,1,1,2] image) => (float[N,2] y) {
  centred = Sub (image, means)
  a = Conv (centred, w1, b1)
  h = Relu (a)
  b = Conv (h, w2)
  n = BatchNormalization <epsilon=0.0> (b, gamma, beta, mean, variance)
  k = Relu (n)
  shifted = Add (shift, k)
  three = Add (shifted, number)
  pooled = GlobalAveragePool (three)
  flat = Flatten (pooled)
  y = Gemm <transB=1> (flat, fc, last)
}"""
WEIGHTS = {
    "means": np.float32([1]).reshape(1, 1, 1),
    "w1": np.float32([2]).reshape(1, 1, 1, 1),
    "b1": np.float32([3]),
    "w2": np.float32([1, -1]).reshape(2, 1, 1, 1),
    "gamma": np.float32([4, 2]),
    "beta": np.float32([1, 50]),
    "mean": np.float32([3, 0]),
    "variance": np.float32([4, 1]),
    "shift": np.float32([5, 6]).reshape(1, 2, 1, 1),
    "number": np.float32(7),
    "fc": np.float32([[2, 0], [0, 4]]),
    "last": np.float32([8, 9]),
}


def test_the_shares_of_the_score_by_hand(tmp_path, shares):
    # Place by place: c = x - 1, h = ReLU(2c + 3), n_0 = 2 (h - 3) + 1 = 2h - 5 and n_1 = -2h + 50.
    # x = (2, -3): c = (1, -4), h = (5, 0), n_0 = (5, -5), k_0 = (5, 0). Class 0 scores 2 · mean(k_0 + 5 + 7) + 8 = 37.
    # Backward: 1 at each place of k_0, so (1, 0) at n_0, (2, 0) at h and a, (4, 0) at c and x.
    #   x · g = 2 · 4; -1 of the mean · 4; b1 = 3 · 2; of the batch norm -5 · 1; shift = 5 · 1 at two places: 10.
    # 8 - 4 + 6 - 5 + 10 = 15. The number 7 is no bias of a channel, it and the 8 are what is left: 15 + 14 + 8 = 37.
    path = save(tmp_path / "m.onnx", model(BIASES, **WEIGHTS))
    image = np.float32([2, -3]).reshape(1, 1, 1, 2)
    for explain, sign in (("class", 1), ("counterfactual", -1)):
        report = onnxcam.attach(path, tmp_path / "x.cam.onnx", method="shares", explain=explain)
        got = run(report.path, image, [0])
        assert got["y"][0, 0] == 37
        np.testing.assert_allclose(got["cam"][0, 0] * sign, [8, -4, 6, -5, 10], rtol=1e-6)
    # class 1 against class 0: k_1 = (40, 50), 4 of 2 places each: 2 at n_1, -4 at h, (-4, 0) at a, (-8, 0) at c.
    #   -8 · 2, -8 · -1, -4 · 3, 50 · (2 + 2), 6 · 4 less those of class 0
    path = onnxcam.attach(path, tmp_path / "x.cam.onnx", method="shares", explain="contrast").path
    got = run(path, image, [1], against_index=np.array([0]))
    np.testing.assert_allclose(got["cam"][0, 0], [-16 - 8, 8 + 4, -12 - 6, 200 + 5, 24 - 10], rtol=1e-6)


class Relus(nn.Module):
    """A network of convolutions, batch norms, ReLU, a shortcut, both kinds of pooling, and one linear layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.stem, self.norm = nn.Conv2d(3, 6, 3, 2, 1), nn.BatchNorm2d(6)
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.block, self.norm2 = nn.Conv2d(6, 6, 3, 1, 1, groups=2, bias=False), nn.BatchNorm2d(6)
        self.last, self.fc = nn.Conv2d(6, 8, (3, 1)), nn.Linear(8, 5)
        for norm in (self.norm, self.norm2):
            for values in (norm.weight, norm.bias, norm.running_mean):
                nn.init.normal_(values)
            nn.init.uniform_(norm.running_var, 0.5, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool(torch.relu(self.norm(self.stem(x))))
        x = x + torch.relu(self.norm2(self.block(x)))
        return self.fc(torch.relu(self.last(x)).mean((2, 3)))


class Rows(nn.Module):
    """As tokens: an embedding and two linear layers with ReLU, their mean, and one more."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(6)
        self.patches = nn.Conv2d(3, 8, 4, 4)
        self.mlp = nn.Sequential(nn.Linear(8, 9), nn.ReLU(), nn.Linear(9, 6), nn.ReLU())
        self.fc = nn.Linear(6, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.mlp(self.patches(x).flatten(2).transpose(1, 2)).mean(1))


@pytest.mark.parametrize("exporter", [torchscript, dynamo])
@pytest.mark.parametrize("net", [Relus, Rows])
def test_of_a_network_of_relu_the_shares_add_up_to_the_score(tmp_path, shares, exporter, net):
    path = exporter(net(), tmp_path / "net.onnx", opset=18)
    got = run(onnxcam.attach(path, method="shares").path)
    y = got["logits"][ROWS, CLASSES]
    last = net().fc.bias.detach().numpy()[CLASSES]
    relative = np.abs(got["cam"].sum((1, 2)) + last - y) / np.abs(y)
    assert relative.max() < 1e-5  # 3e-7 when this was written
    assert np.abs(got["cam"][:, 0, 1:]).min() > 1e-3, "every bias has its share"


def scaled(x: torch.Tensor) -> torch.Tensor:
    """Each channel of |x| at 0-1, enlarged to the picture, and all added up."""
    x = x.abs()
    x = x - x.amin((2, 3), keepdim=True)
    x = x / x.amax((2, 3), keepdim=True).clamp(min=1e-30)
    return functional.interpolate(x, PICTURES.shape[2:], mode="bilinear").sum(1)


def by_torch() -> np.ndarray:
    """FullGrad by hooks on the modules that have biases."""
    net, kept = Relus().eval(), []
    for module in (net.stem, net.norm, net.norm2, net.last):
        module.register_forward_hook(lambda module, args, y: kept.append((module, y)))
    x = torch.from_numpy(PICTURES).requires_grad_()
    score = net(x)[ROWS, CLASSES].sum()
    g, *gradients = torch.autograd.grad(score, [x, *(y for _, y in kept)])
    found = scaled(g * x)
    for (module, _), gradient in zip(kept, gradients, strict=True):
        bias = module.bias
        if isinstance(module, nn.BatchNorm2d):
            bias = bias - module.running_mean * module.weight / (module.running_var + module.eps).sqrt()
            if module is net.norm:  # folded into the convolution with a bias of its own
                bias = bias + net.stem.bias * module.weight / (module.running_var + module.eps).sqrt()
        if module is not net.stem:
            found = found + scaled(gradient * bias[:, None, None])
    found = found.detach().numpy()
    return found - found.min((1, 2), keepdims=True)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return torchscript(Relus(), tmp_path_factory.mktemp("relus") / "net.onnx", opset=18)


def test_the_map_is_that_of_torch_and_a_batch_is_each_alone(plain, tmp_path):
    report = onnxcam.attach(plain, tmp_path / "x.cam.onnx", method="fullgrad")
    assert report.info.picture_methods == ("fullgrad",)
    got = run(report.path)["cam"]
    assert got.shape == (3, 20, 12)
    near(got, by_torch())
    for i in range(3):
        near(run(report.path, PICTURES[i : i + 1], CLASSES[i : i + 1])["cam"][0], got[i])


def test_it_stands_beside_maps_of_layers_and_each_class_is_as_if_alone(plain, tmp_path):
    names = ["gradcam", "fullgrad", "saliency"]
    layers = ["pool", "last"]
    one = onnxcam.attach(plain, tmp_path / "1.cam.onnx", layer=layers, method=names).path
    two = onnxcam.attach(plain, tmp_path / "2.cam.onnx", layer=layers, method=names, classes=2).path
    chosen = np.array([[1, 4], [3, 0], [0, 2]])
    got, alone = run(two, classes=chosen), run(one, classes=chosen[:, 1])
    near(alone["cam.fullgrad"], by_torch())
    for name in ("cam", "cam.1", "cam.fullgrad", "cam.saliency"):
        near(got[name][:, 1], alone[name])
    np.testing.assert_allclose(got["cam.fullgrad"][:, 0], run(one, classes=chosen[:, 0])["cam.fullgrad"], atol=1e-4)


def test_a_contrast_is_of_the_difference_of_scores(plain, tmp_path):
    contrast = onnxcam.attach(plain, tmp_path / "1.cam.onnx", method="fullgrad", explain="contrast").path
    got = run(contrast, against_index=np.array([1, 2, 3]))["cam"]
    weights = np.zeros((3, 5), np.float32)
    weights[ROWS, CLASSES], weights[ROWS, [1, 2, 3]] = 1, -1
    weighted = onnxcam.attach(plain, tmp_path / "2.cam.onnx", method="fullgrad", score="weights").path
    session = ort.InferenceSession(str(weighted), providers=["CPUExecutionProvider"])
    near(got, session.run(["cam"], {"image": PICTURES, "score_weights": weights})[0])


def test_biases_inside_fused_operators_are_refused(tmp_path):
    text = """net (float[N,3,6,6] image) => (float[N,5] y) {
      h = com.microsoft.FusedConv <activation="Relu"> (image, w, b)
      m = ReduceMean <keepdims=0> (h, axes)
      y = MatMul (m, fc)
    }"""
    net = model(text, w=(4, 3, 3, 3), b=(4,), fc=(4, 5), axes=[2, 3], domains={"com.microsoft": 1})
    with pytest.raises(MethodError, match=r"'fullgrad' needs every bias .* com.microsoft.FusedConv.* are inside"):
        onnxcam.attach(save(tmp_path / "m.onnx", net), method="fullgrad")


def test_volumes_are_refused(tmp_path):
    text = """net (float[N,3,6,6,5] image) => (float[N,5] y) {
      h = Conv (image, w, b)
      m = ReduceMean <keepdims=0> (h, axes)
      y = MatMul (m, fc)
    }"""
    net = model(text, w=(4, 3, 3, 3, 3), b=(4,), fc=(4, 5), axes=[2, 3, 4])
    with pytest.raises(MethodError, match="'fullgrad' enlarges no map of a volume"):
        onnxcam.attach(save(tmp_path / "m.onnx", net), method="fullgrad")
