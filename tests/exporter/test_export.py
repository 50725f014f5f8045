"""A PyTorch model becomes an artifact: equal to autograd, complete, and never half-written."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import nn

import onnxcam
from onnxcam.contract import METADATA_KEY, ArtifactInfo, Preprocess
from onnxcam.errors import ExportError, LayerError, MethodError, OutputError, VerificationError
from onnxcam.exporter import comparison

SIZE = (3, 13, 10)


class Net(nn.Module):
    """A residual net whose layers are changed in place by what follows them."""

    def __init__(self, *, squash: nn.Module | None = None) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.act = nn.ReLU(inplace=True)
        self.block = nn.Conv2d(4, 4, 3, padding=1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(4, 5)
        self.unused = nn.Conv2d(3, 2, 1)
        self.squash = squash or nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.unused(x)
        x = self.act(self.stem(x))
        out = self.block(x)
        out += x
        return self.squash(self.fc(self.pool(self.act(out)).flatten(1)))


@pytest.fixture
def example() -> torch.Tensor:
    return torch.randn(2, *SIZE, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    return Net().eval()


def run(path: Path, image: torch.Tensor, class_index: list[int] | None = None) -> dict[str, np.ndarray]:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    feed = {"image": image.numpy()}
    if class_index is not None:
        feed["class_index"] = np.array(class_index, dtype=np.int64)
    return dict(zip(names, session.run(names, feed), strict=True))


def expected(net: Net, image: torch.Tensor, classes: list[int], *, layer: str) -> tuple[np.ndarray, np.ndarray]:
    """A and dy^c/dA of ``Net``, written out without hooks."""
    stem = net.stem(image)
    act = torch.relu(stem)
    block = net.block(act)
    total = torch.relu(block + act)
    scores = net.fc(total.mean((2, 3)))
    caught = {"stem": stem, "block": block}[layer]
    (gradient,) = torch.autograd.grad(scores[torch.arange(len(classes)), classes].sum(), caught)
    return caught.detach().numpy(), gradient.numpy()


@pytest.mark.parametrize("layer", ["stem", "block"])
def test_equals_autograd_where_the_layer_is_changed_in_place_afterwards(net, example, tmp_path, layer):
    report = onnxcam.export(net, example, tmp_path / "n.cam.onnx", layer=layer)
    assert max(report.errors.values()) < 1e-5
    got = run(tmp_path / "n.cam.onnx", example, [3, 1])
    A, g = expected(net, example, [3, 1], layer=layer)
    np.testing.assert_allclose(got["activations"], A, atol=1e-6)
    np.testing.assert_allclose(got["gradients"], g, atol=1e-7)
    assert (A < 0).any(), "the map is the one before the in-place ReLU"
    cam = np.maximum((g.mean((2, 3), keepdims=True) * A).sum(1), 0)
    np.testing.assert_allclose(got["cam"], cam, atol=1e-6)
    np.testing.assert_allclose(got["logits"], net(example).detach().numpy(), atol=1e-6)


def test_class_index_takes_ranks_indices_and_one_for_all(net, example, tmp_path):
    path = onnxcam.export(net, example, tmp_path / "n.cam.onnx", layer="block").path
    order = np.argsort(-net(example).detach().numpy(), axis=1)
    assert run(path, example)["explained_class"].tolist() == order[:, 0].tolist()
    assert run(path, example, [-2, -5])["explained_class"].tolist() == [order[0, 1], order[1, 4]]
    assert run(path, example, [-1, 4])["explained_class"].tolist() == [order[0, 0], 4]
    assert run(path, example, [2])["explained_class"].tolist() == [2, 2]
    assert run(path, torch.cat([example] * 3), [-1])["cam"].shape == (6, 7, 5)


@pytest.mark.parametrize(
    ("squash", "operator", "activation"),
    [
        (nn.Softmax(dim=1), "Softmax", "identity"),
        (nn.LogSoftmax(dim=1), "LogSoftmax", "softmax"),
        (nn.Sigmoid(), "Sigmoid", "identity"),
    ],
)
def test_a_final_softmax_is_stepped_over(example, tmp_path, squash, operator, activation):
    torch.manual_seed(0)
    net = Net(squash=squash).eval()
    report = onnxcam.export(net, example, tmp_path / "n.cam.onnx", layer="block")
    _, g = expected(net, example, [0, 4], layer="block")
    got = run(report.path, example, [0, 4])
    np.testing.assert_allclose(got["gradients"], g, atol=1e-7)
    np.testing.assert_allclose(got["logits"], net(example).detach().numpy(), atol=1e-6)
    assert report.info.score.activation == activation
    assert report.info.extra["stepped_over"] == operator


def test_several_layers_and_methods_are_named_by_the_contract(net, example, tmp_path):
    report = onnxcam.export(net, example, tmp_path / "n.cam.onnx", layer=["act", "block"], method=["gradcam"])
    got = run(report.path, example)
    assert list(got) == [
        *("logits", "cam", "activations", "gradients"),
        *("cam.1", "activations.1", "gradients.1", "explained_class"),
    ]
    both = onnxcam.export(Plain(), example, tmp_path / "p.cam.onnx", layer="conv", method=["gradcam", "cam"])
    got = run(both.path, example)
    assert list(got)[1:3] == ["cam", "cam.cam"]
    np.testing.assert_allclose(got["cam"] * 7 * 5, np.maximum(got["cam.cam"], 0), rtol=1e-4, atol=1e-6)


class Plain(nn.Module):
    """Conv, pool, linear: the head of the CAM paper. Without ``linear``, channel k is class k."""

    def __init__(self, *, linear: bool = True) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.conv = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.ReLU())
        self.fc = nn.Linear(6, 5) if linear else nn.Identity()
        self.eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.conv(x).mean((2, 3)))


def test_cam_weighs_channels_by_the_linear_layer(example, tmp_path):
    net = Plain()
    path = onnxcam.export(net, example, tmp_path / "p.cam.onnx", layer="conv", method="cam", outputs="cam").path
    A = net.conv(example)
    wanted = torch.einsum("nc,nchw->nhw", net.fc.weight[[4, 0]], A).detach().numpy()
    np.testing.assert_allclose(run(path, example, [4, 0])["cam"], wanted, atol=1e-6)
    assert not any(node.name.startswith("gradient/") for node in onnx.load(path).graph.node), "no backward pass"


def test_cam_without_a_linear_layer_is_the_channel_of_the_class(example, tmp_path):
    net = Plain(linear=False)
    path = onnxcam.export(net, example, tmp_path / "p.cam.onnx", layer="conv", method="cam").path
    got = run(path, example, [4, 2])
    wanted = torch.stack([net.conv(example)[0, 4], net.conv(example)[1, 2]]).detach().numpy()
    np.testing.assert_allclose(got["cam"], wanted, atol=1e-6)


def test_cam_on_another_head_is_refused_and_says_what_to_take(net, example, tmp_path):
    with pytest.raises(MethodError, match=r"global average pooling .* take 'gradcam'"):
        onnxcam.export(net, example, tmp_path / "n.cam.onnx", layer="stem", method="cam")
    assert list(tmp_path.iterdir()) == []


def test_the_default_layer_is_the_last_with_spatial_extent(net, example, tmp_path):
    report = onnxcam.export(net, example, tmp_path / "n.cam.onnx")
    assert report.info.layers[0].name == "act"
    assert report.info.layers[0].shape == (None, 4, 7, 5)


class Wrapped(nn.Module):
    """Returns a dictionary, as the encoders of Hugging Face do."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"hidden": self.inner(x)}


def test_the_default_layer_is_none_that_returns_no_tensor(example, tmp_path):
    class Encoded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.fc = Wrapped(), nn.Linear(4, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(self.encoder(x)["hidden"].amax((2, 3)))

    info = onnxcam.export(Encoded().eval(), example, tmp_path / "n.cam.onnx").info
    assert info.layers[0].name == "encoder.inner"


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("blok", "no layer 'blok'; did you mean 'block'"),
        ("unused", "'unused' is not on the way"),
        ("fc", "no spatial extent"),
        ("pool", "no spatial extent"),
    ],
)
def test_a_layer_that_cannot_be_explained_is_refused_by_name(net, example, tmp_path, layer, message):
    with pytest.raises((LayerError, onnxcam.errors.AutodiffError), match=message):
        onnxcam.export(net, example, tmp_path / "n.cam.onnx", layer=layer)
    assert list(tmp_path.iterdir()) == []


class MaskedAttention(nn.Module):
    """As in Swin and BEiT: torch fuses it in a way that it cannot take apart again."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, 4)
        self.qkv = nn.Linear(8, 24)
        self.fc = nn.Linear(8, 5)
        self.bias = nn.Parameter(torch.randn(1, 2, 6, 6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        batch, tokens, channels = x.shape
        q, k, v = self.qkv(x).reshape(batch, tokens, 3, 2, channels // 2).permute(2, 0, 3, 1, 4).unbind(0)
        mask = self.bias.expand(batch, -1, -1, -1)
        y = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.fc(y.transpose(1, 2).contiguous().view(batch, tokens, channels).mean(1))


def test_attention_under_a_mask_is_exported(tmp_path):
    torch.manual_seed(0)
    report = onnxcam.export(MaskedAttention().eval(), torch.randn(2, 3, *SIZE[1:]), tmp_path / "m.cam.onnx")
    assert report.dynamic_batch
    assert max(report.errors.values()) < 1e-5


def off_by_one_in_fifty(monkeypatch, *, examples: int) -> None:
    """Let the gradient seem 0.02 off on the first ``examples`` that are compared."""
    right, compared = comparison._errors, []

    def errors(*arguments: object) -> dict[str, float]:
        found = right(*arguments)
        compared.append(arguments[5])
        assert all(not torch.equal(compared[-1], before) for before in compared[:-1])
        return found | {"gradients": 0.02} if len(compared) <= examples else found

    monkeypatch.setattr(comparison, "_errors", errors)


def test_a_gradient_that_is_off_at_a_kink_of_one_example_is_compared_on_another(net, example, tmp_path, monkeypatch):
    off_by_one_in_fifty(monkeypatch, examples=2)
    assert onnxcam.export(net, example, tmp_path / "n.cam.onnx", layer="block").errors["gradients"] < 1e-5


def test_a_wrong_gradient_is_never_written(net, example, tmp_path, monkeypatch):
    path = tmp_path / "n.cam.onnx"
    path.write_bytes(b"older")
    off_by_one_in_fifty(monkeypatch, examples=100)
    with pytest.raises(VerificationError, match=r"gradients .* differ from torch's by 2.0e-02"):
        onnxcam.export(net, example, path, layer="block")
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [b"older"]


def test_half_precision_storage_halves_the_weights_and_keeps_the_answers(example, tmp_path):
    torch.manual_seed(0)
    wide = nn.Sequential(nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 3), nn.ReLU()).eval()
    net = nn.Sequential(wide, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 7)).eval()
    full = onnxcam.export(net, example, tmp_path / "full.cam.onnx")
    half = onnxcam.export(net, example, tmp_path / "half.cam.onnx", storage="float16")
    assert half.path.stat().st_size < 0.6 * full.path.stat().st_size
    a, b = run(full.path, example), run(half.path, example)
    np.testing.assert_allclose(a["logits"], b["logits"], atol=1e-3)
    assert b["gradients"].dtype == np.float32
    assert 0 < half.errors["stored outputs"] < 1e-2


def test_the_file_carries_all_it_needs_and_nothing_of_the_machine(net, example, tmp_path):
    preprocess = Preprocess(height=13, width=10, mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 3.0))
    labels = ["a", "b", "c", "ü", "e"]
    report = onnxcam.export(
        net, example, tmp_path / "n.cam.onnx", layer="block", preprocess=preprocess, labels=labels, source="here"
    )
    model = onnx.load(report.path)
    onnx.checker.check_model(model, full_check=True)
    (text,) = [p.value for p in model.metadata_props if p.key == METADATA_KEY]
    info = ArtifactInfo.from_json(text)
    assert (info.preprocess, info.labels, info.source) == (preprocess, tuple(labels), "here")
    assert json.loads(text)["nodes"] == {"forward": info.nodes["forward"], "backward": info.nodes["backward"]}
    assert info.nodes["forward"] + info.nodes["backward"] == len(model.graph.node)
    assert {node.domain for node in model.graph.node} == {""}
    assert [o.version for o in model.opset_import if not o.domain] == [18]
    assert str(Path(__file__).parent).encode() not in report.path.read_bytes()


def test_bad_arguments_are_refused_before_anything_is_written(net, example, tmp_path):
    with pytest.raises(ExportError, match=r"3 labels .* 5 classes"):
        onnxcam.export(net, example, tmp_path / "n.cam.onnx", labels=["a", "b", "c"])
    with pytest.raises(ExportError, match="is a folder"):
        onnxcam.export(net, example, tmp_path)
    with pytest.raises(ExportError, match="does not exist"):
        onnxcam.export(net, example, tmp_path / "no" / "n.cam.onnx")
    with pytest.raises(MethodError, match="did you mean 'gradcam'"):
        onnxcam.export(net, example, tmp_path / "n.cam.onnx", method="grad-cam")
    with pytest.raises(ExportError, match=r"shape \[batch, 4, 7, 5\]"):
        onnxcam.export(nn.Sequential(net.stem), example, tmp_path / "n.cam.onnx", layer="0")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_nothing(net, example, tmp_path, monkeypatch):
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("onnxcam.exporter.files.os.replace", fail)
    with pytest.raises(OutputError, match="No space left"):
        onnxcam.export(net, example, tmp_path / "n.cam.onnx", layer="block")
    assert list(tmp_path.iterdir()) == []


def test_training_mode_is_left_as_it_was(net, example, tmp_path):
    net.train()
    net.block.eval()
    onnxcam.export(net, example, tmp_path / "n.cam.onnx", layer="block")
    assert (net.training, net.block.training, net.fc.training) == (True, False, True)
