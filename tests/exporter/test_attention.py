"""Maps of the attention in all layers, against attention and gradients computed by torch."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import nn

import onnxcam
from onnxcam.errors import LayerError, MethodError

from .graphs import cnn, model, needs_onnxruntime, save
from .networks import Transformer, Windows, dynamo, torchscript

PICTURES = np.random.default_rng(3).standard_normal((3, 3, 20, 12)).astype(np.float32)
CLASSES = np.array([4, 0, 2])


def run(path, pictures=PICTURES, classes=CLASSES, **more) -> dict[str, np.ndarray]:
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    feed = {"image": pictures, "class_index": np.asarray(classes, np.int64)}
    return dict(zip(names, session.run(names, feed | more), strict=True))


def near(got: np.ndarray, expected: np.ndarray, tolerance: float = 1e-5) -> None:
    assert np.abs(expected).max() > 0
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() <= tolerance * np.abs(expected).max()


def lively(net: nn.Module) -> nn.Module:
    """``net`` with attention that is far from even."""
    for block in net.blocks:
        block.attn.qkv.weight.data.mul_(5)
    return net.eval()


def attention(net: nn.Module) -> list[torch.Tensor]:
    """The attention of each block behind softmax, in float64: [N, 2, T, T]."""
    found = []

    def keep(module, args, y):
        n, tokens, channels = args[0].shape
        q, k, _ = module.qkv(args[0]).reshape(n, tokens, 3, 2, channels // 2).permute(2, 0, 3, 1, 4)
        found.append((q @ k.transpose(-2, -1) * 0.5).softmax(-1).detach())

    hooks = [block.attn.register_forward_hook(keep) for block in net.double().blocks]
    net(torch.from_numpy(PICTURES).double())
    for hook in hooks:
        hook.remove()
    return found


def rolled_out(net: nn.Module, extra: int, read: list[int]) -> np.ndarray:
    """The product of all layers, the first on the right."""
    layers = attention(net)
    eye = torch.eye(15 + extra, dtype=torch.float64)
    rollout = eye
    for weights in layers:
        rollout = (weights.mean(1) + eye) / 2 @ rollout
    return rollout[:, read].mean(1)[:, extra:].reshape(3, 5, 3).numpy()


class Distilled(Transformer):
    """The scores of two tokens are averaged."""

    def __init__(self) -> None:
        super().__init__(extra=2)
        self.second = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.extra.expand(x.shape[0], -1, -1), x], 1)
        x = self.norm(self.blocks(x + self.position))
        return (self.head(x[:, 0]) + self.second(x[:, 1])) / 2


NETWORKS = {
    "class token": (Transformer, 1, [0]),
    "class token and registers": (lambda: Transformer(extra=4), 4, [0]),
    "distilled": (Distilled, 2, [0, 1]),
    "mean": (lambda: Transformer(extra=0, mean=True), 0, list(range(15))),
    "registers and mean": (lambda: Transformer(extra=3, mean=True), 3, list(range(3, 18))),
}


@pytest.mark.parametrize("exporter", [torchscript, dynamo])
@pytest.mark.parametrize("kind", NETWORKS)
def test_rollout_is_the_product_of_all_layers(tmp_path, kind, exporter):
    make, extra, read = NETWORKS[kind]
    net = lively(make())
    path = exporter(net, tmp_path / "m.onnx", opset=18)
    report = onnxcam.attach(path, method="rollout")
    assert report.info.attention_methods == ("rollout",)
    got = run(report.path)["cam"]
    near(got, rolled_out(net, extra, read))
    near(run(report.path, PICTURES[1:2], CLASSES[1:2])["cam"], got[1:2])


def test_rollout_stands_beside_other_maps_and_is_the_same_for_every_class(tmp_path):
    net = lively(Transformer())
    path = torchscript(net, tmp_path / "m.onnx", opset=18)
    how = {"method": ["gradcam", "rollout"], "layer": ["blocks.0", "blocks.0.norm2"], "classes": 2}
    got = run(onnxcam.attach(path, **how).path, classes=np.array([[4, 1], [0, 2], [1, 3]]))
    assert [name for name in got if name[:3] == "cam"] == ["cam", "cam.rollout", "cam.1"]
    for k in range(2):
        near(got["cam.rollout"][:, k], rolled_out(net, 1, [0]))


def test_rollout_alone_takes_no_backward_pass(tmp_path):
    path = torchscript(lively(Transformer()), tmp_path / "m.onnx", opset=18)
    info = onnxcam.attach(path, method="rollout", outputs="cam").info
    assert info.nodes["backward"] < 30


def legrad(net: nn.Module, extra: int, score) -> np.ndarray:
    """By autograd: for each block the score read off its output, differentiated at its attention."""
    kept = []

    def attend(module):
        def forward(x):
            n, tokens, channels = x.shape
            q, k, v = module.qkv(x).reshape(n, tokens, 3, 2, channels // 2).permute(2, 0, 3, 1, 4)
            weights = (q @ k.transpose(-2, -1) * 0.5).softmax(-1)
            kept.append(weights)
            return module.proj((weights @ v).transpose(1, 2).reshape(n, tokens, channels))

        return forward

    handed = []
    for block in net.double().blocks:
        block.attn.forward = attend(block.attn)
        block.register_forward_hook(lambda module, args, y: handed.append(y))
    net(torch.from_numpy(PICTURES).double())
    found = 0
    for weights, z in zip(kept, handed, strict=True):
        z = net.norm(z)
        y = net.head(z[:, net.skipped :].mean(1) if net.mean else z[:, 0])
        (g,) = torch.autograd.grad(score(y).sum(), weights, retain_graph=True)
        found = found + g.clamp(min=0).mean((1, 2))[:, extra:] / len(kept)
    return found.reshape(3, 5, 3).numpy()


def own(y: torch.Tensor) -> torch.Tensor:
    return y[torch.arange(3), CLASSES]


def against(y: torch.Tensor) -> torch.Tensor:
    return own(y) - y[torch.arange(3), [1, 2, 3]]


@pytest.mark.parametrize("exporter", [torchscript, dynamo])
@pytest.mark.parametrize("kind", ["class token", "class token and registers", "mean", "registers and mean"])
def test_legrad_is_that_of_autograd_at_every_layer(tmp_path, kind, exporter):
    make, extra, _ = NETWORKS[kind]
    net = lively(make())
    report = onnxcam.attach(exporter(net, tmp_path / "m.onnx", opset=18), method=["legrad", "rollout"])
    assert report.info.attention_methods == ("legrad", "rollout")
    got = run(report.path)
    near(got["cam"], legrad(net, extra, own))
    near(run(report.path, PICTURES[1:2], CLASSES[1:2])["cam"], got["cam"][1:2])


@pytest.mark.parametrize(("explain", "score"), [("counterfactual", lambda y: -own(y)), ("contrast", against)])
def test_legrad_of_what_speaks_against_and_apart(tmp_path, explain, score):
    net = lively(Transformer())
    path = onnxcam.attach(torchscript(net, tmp_path / "m.onnx", opset=18), method="legrad", explain=explain).path
    more = {"against_index": np.array([1, 2, 3])} if explain == "contrast" else {}
    near(run(path, **more)["cam"], legrad(net, 1, score))


def test_legrad_of_each_class_is_as_if_alone_and_the_file_can_be_renewed(tmp_path):
    path = torchscript(lively(Transformer()), tmp_path / "m.onnx", opset=18)
    one = onnxcam.attach(path, tmp_path / "1.cam.onnx", method="legrad").path
    two = onnxcam.attach(path, tmp_path / "2.cam.onnx", method="legrad", classes=2).path
    chosen = np.array([[4, 1], [0, 2], [1, 3]])
    got = run(two, classes=chosen)["cam"]
    for k in range(2):
        near(got[:, k], run(one, classes=chosen[:, k])["cam"])
    plain = onnxcam.attach(path, tmp_path / "3.cam.onnx").path
    renewed = onnxcam.attach(two, replace=True).path
    assert len(onnx.load(renewed).graph.node) == len(onnx.load(plain).graph.node)


def test_weights_are_shared_by_the_readings(tmp_path):
    path = torchscript(lively(Transformer()), tmp_path / "m.onnx", opset=18)
    sizes = []
    for name in ("gradcam", "legrad"):
        made = onnxcam.attach(path, tmp_path / f"{name}.cam.onnx", method=name).path
        sizes.append(sum(np.prod(t.dims) for t in onnx.load(made).graph.initializer))
    assert abs(sizes[1] - sizes[0]) < 30


class Heads(nn.Module):
    """torch's own transformer layers, whose attention is one operator to torch."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patches, self.token = nn.Conv2d(3, 8, 4, 4), nn.Parameter(torch.randn(1, 1, 8))
        layer = {"nhead": 2, "dim_feedforward": 16, "dropout": 0.0, "batch_first": True, "norm_first": True}
        self.layers = nn.Sequential(*(nn.TransformerEncoderLayer(8, **layer) for _ in range(2)))
        self.fc = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        return self.fc(self.layers(torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1))[:, 0])


@pytest.mark.parametrize("exporter", [torchscript, dynamo])
def test_torchs_own_attention_is_found(tmp_path, exporter):
    net = Heads().eval()
    got = run(onnxcam.attach(exporter(net, tmp_path / "m.onnx", opset=18), method="rollout").path)["cam"]
    with torch.no_grad():
        x = net.patches(torch.from_numpy(PICTURES)).flatten(2).transpose(1, 2)
        x, rollout = torch.cat([net.token.expand(3, -1, -1), x], 1), torch.eye(16)
        for layer in net.layers:
            y = layer.norm1(x)
            _, weights = layer.self_attn(y, y, y, need_weights=True)
            rollout = (weights + torch.eye(16)) / 2 @ rollout
            x = layer(x)
    near(got, rollout[:, 0, 1:].reshape(3, 5, 3).numpy())


class Half(Transformer):
    """The heads of the second block's attention are mixed behind softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks[1].attn.forward = self.attend

    def attend(self, x: torch.Tensor) -> torch.Tensor:
        n, tokens, channels = x.shape
        module = self.blocks[1].attn
        q, k, v = module.qkv(x).reshape(n, tokens, 3, 2, channels // 2).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-2, -1) * 0.5).softmax(-1)
        weights = weights * 0.7 + weights.flip(1) * 0.3
        return module.proj((weights @ v).transpose(1, 2).reshape(n, tokens, channels))


class Beside(Transformer):
    """Two attentions on the same tokens, added up."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.extra.expand(x.shape[0], -1, -1), x], 1) + self.position
        return self.head(self.norm(x + self.blocks[0].attn(x) + self.blocks[1].attn(x))[:, 0])


FUSED = """net (float[N,3,4,6] image) => (float[N,5] y) {
  p = Conv <strides=[2,2]> (image, w)
  r = Reshape (p, tokens)
  t = Transpose <perm=[0,2,1]> (r)
  qkv = MatMul (t, wqkv)
  q, k, v = Split <axis=2, num_outputs=3> (qkv)
  a = com.microsoft.MultiHeadAttention <num_heads=2> (q, k, v)
  m = ReduceMean <keepdims=0> (a, axes)
  y = MatMul (m, fc)
}"""
FUSED_WEIGHTS = {"w": (8, 3, 2, 2), "tokens": [0, 8, -1], "wqkv": (8, 24), "axes": [1], "fc": (8, 5)}


def fused(domain: str):
    if domain:
        return model(FUSED, domains={domain: 1}, **FUSED_WEIGHTS)
    text = FUSED.replace("com.microsoft.MultiHeadAttention <num_heads=2>", "Attention <q_num_heads=2, kv_num_heads=2>")
    return model(text, opset=23, **FUSED_WEIGHTS)


@pytest.mark.parametrize("method", ["rollout", "legrad"])
def test_what_has_no_such_attention_is_refused(tmp_path, method):
    def refused(path, message, error=MethodError, **how):
        with pytest.raises(error, match=message):
            onnxcam.attach(path, tmp_path / "x.cam.onnx", **({"method": method} | how))

    refused(save(tmp_path / "cnn.onnx", cnn()), f"'{method}' is made of attention maps, and this model has none")
    windows = torchscript(Windows(), tmp_path / "windows.onnx", opset=18, size=(18, 8))
    refused(windows, f"'{method}' needs attention among all tokens .*6, 6\\], within windows or from and to different")
    half = torchscript(Half().eval(), tmp_path / "half.onnx", opset=18)
    refused(half, f"'{method}' needs the attention by which the values are weighted, and .* is mixed with")
    beside = torchscript(Beside().eval(), tmp_path / "beside.onnx", opset=18)
    refused(beside, f"'{method}' follows attention from layer to layer, and .* stands beside it")
    plain = torchscript(Transformer(), tmp_path / "plain.onnx", opset=18)
    refused(plain, f"'{method}' is of the attention, not of a layer", eigen_smooth=True)
    refused(plain, f"'{method}' is a map of the attention", layer=["blocks.0", "blocks.0.norm2"], fuse="max")
    assert not (tmp_path / "x.cam.onnx").exists()


@pytest.mark.parametrize("method", ["rollout", "legrad"])
@pytest.mark.parametrize(
    ("domain", "name"),
    [
        ("com.microsoft", "com.microsoft.MultiHeadAttention"),
        pytest.param("", "Attention", marks=needs_onnxruntime(1, 23)),
    ],
)
def test_a_fused_operator_that_keeps_its_attention_to_itself_is_refused(tmp_path, method, domain, name):
    path = save(tmp_path / "fused.onnx", fused(domain))
    with pytest.raises(MethodError, match=f"'{method}' needs the attention maps, and {name}.* keeps its own to itself"):
        onnxcam.attach(path, tmp_path / "x.cam.onnx", method=method)


class Bare(Transformer):
    """Attention without a way around it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.extra.expand(x.shape[0], -1, -1), x], 1) + self.position
        return self.head(self.blocks[1].attn(self.blocks[0].attn(x))[:, 0])


def test_legrad_needs_a_sum_behind_each_layer(tmp_path):
    path = torchscript(Bare().eval(), tmp_path / "m.onnx", opset=18)
    with pytest.raises(MethodError, match=r"'legrad' reads a score off what each layer hands on, .* there is no sum"):
        onnxcam.attach(path, method="legrad")


@pytest.mark.parametrize("explain", ["contrast", "counterfactual"])
def test_rollout_knows_no_class(tmp_path, explain):
    path = torchscript(Transformer(), tmp_path / "m.onnx", opset=18)
    with pytest.raises(MethodError, match=f"'rollout' takes no gradients, so it tells nothing of a {explain}"):
        onnxcam.attach(path, method="rollout", explain=explain)


def test_the_map_is_of_the_attention_when_the_file_runs(tmp_path):
    path = torchscript(lively(Transformer()), tmp_path / "m.onnx", opset=18)
    preprocess = onnxcam.Preprocess(height=20, width=12, resize="stretch")
    layers = ["blocks.0", "blocks.0.norm2"]
    path = onnxcam.attach(path, method=["gradcam", "rollout"], layer=layers, preprocess=preprocess).path
    with onnxcam.load(path) as cam:
        picture = np.random.default_rng(0).integers(0, 255, (40, 30, 3), np.uint8)
        ex = cam.explain(picture, method="rollout")
        assert (ex.method, ex.layer, ex.cam.shape, ex.heatmap.shape) == ("rollout", "attention", (5, 3), (40, 30))
        with pytest.raises(LayerError, match="is of the attention in all layers: leave the layer out"):
            cam.explain(picture, method="rollout", layer="blocks.0.norm2")
