"""Methods that run what is behind the layer again: on masked feature maps, a few at a time, whatever stands there."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import onnxcam
from onnxcam.errors import LayerError, MethodError
from onnxcam.exporter import rerun

from .graphs import CNN_WEIGHTS, cnn, model, run, save
from .networks import Plain, Transformer, dynamo, torchscript

PICTURES = np.random.default_rng(1).standard_normal((3, 3, 20, 12)).astype(np.float32)
CLASSES = np.array([4, 0, 2])
BOTH = ["ablationcam", "reciprocam"]
Head = Callable[[torch.Tensor], torch.Tensor]


def scores(head: Head, A: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """The scores of one feature map [C, h, w] under each of ``masks``."""
    with torch.no_grad():
        return torch.stack([head((A * mask)[None])[0] for mask in masks])


def channel_masks(A: torch.Tensor) -> torch.Tensor:
    return 1 - torch.eye(A.shape[0])[:, :, None, None]


def place_masks(A: torch.Tensor) -> torch.Tensor:
    height, width = A.shape[1:]
    return torch.eye(height * width).reshape(-1, 1, height, width)


def expected(head: Head, A: torch.Tensor, y: Callable[[torch.Tensor, int], torch.Tensor]) -> list[np.ndarray]:
    """Ablation-CAM and Recipro-CAM of each of ``A``, one mask at a time; ``y`` takes a picture's score from a table."""
    found = []
    for i, a in enumerate(A):
        whole = y(head(a[None]), i)
        weights = (whole - y(scores(head, a, channel_masks(a)), i)) / whole.abs()
        alone = y(scores(head, a, place_masks(a)), i).reshape(a.shape[1:])
        found.append(((weights[:, None, None] * a).sum(0).relu(), alone - alone.min()))
    return [torch.stack(maps).detach().numpy() for maps in zip(*found, strict=True)]


def of_class(table: torch.Tensor, picture: int) -> torch.Tensor:
    return table[:, CLASSES[picture]]


def close(got: np.ndarray, wanted: np.ndarray) -> None:
    assert np.abs(wanted).max() > 1e-3
    np.testing.assert_allclose(got, wanted, atol=1e-4 * np.abs(wanted).max())


@pytest.fixture
def plain(tmp_path):
    return torchscript(Plain(), tmp_path / "plain.onnx", opset=18)


def behind_stem() -> tuple[torch.Tensor, Head]:
    """The feature maps of `PICTURES` behind the stem of `Plain`, and what makes scores of them."""
    net = Plain().eval()
    A = net.stem(torch.from_numpy(PICTURES)).detach()
    return A, lambda x: net.fc(net.pool(net.stage(x)).flatten(1))


def bodies(path) -> list[onnx.GraphProto]:
    """What each Scan runs."""
    scans = [node for node in onnx.load(path).graph.node if node.op_type == "Scan"]
    return [onnx.helper.get_node_attr_value(node, "body") for node in scans]


def several_at_a_time(path) -> list[bool]:
    """Of each Scan, whether a step takes a row of masks, not one."""
    return [len(body.input[0].type.tensor_type.shape.dim) == 1 for body in bodies(path)]


def attach(path, target, **how):
    return onnxcam.attach(path, target, **({"layer": "stem.2", "method": BOTH} | how)).path


@pytest.mark.parametrize("elements", [1, 1500, 1 << 20])
def test_each_mask_runs_as_if_alone(plain, tmp_path, monkeypatch, elements):
    monkeypatch.setattr(rerun, "_ELEMENTS", elements)  # one copy at a time; 4, and what is left; all at once
    path = attach(plain, tmp_path / "x.cam.onnx")
    A, head = behind_stem()
    ablation, recipro = expected(head, A, of_class)
    got = run(path, image=PICTURES, class_index=CLASSES)
    close(got["cam"], ablation)
    close(got["cam.reciprocam"], recipro)
    counts = [[node.op_type for node in body.node].count("Conv") for body in bodies(path)]
    assert counts == [1, 1], "the nodes are copied once"


def test_behind_pooling_and_a_linear_layer_ablation_is_each_channel_s_share(tmp_path):
    got = run(
        onnxcam.attach(save(tmp_path / "m.onnx", cnn()), layer="last", method=["ablationcam", "cam"]).path,
        image=np.random.default_rng(0).standard_normal((4, 3, 13, 10)).astype(np.float32),
        class_index=np.array([0, 1, 2, -1]),
    )
    A, k = got["activations"], got["explained_class"]
    weights = onnx.numpy_helper.to_array(next(w for w in cnn().graph.initializer if w.name == "fc"))[k]
    y = np.take_along_axis(got["logits"], k[:, None], 1)
    assert (y < 0).any()
    assert (y > 0).any()
    shares = weights * A.mean((2, 3)) / np.abs(y)
    close(got["cam"], np.maximum((shares[:, :, None, None] * A).sum(1), 0))


@pytest.mark.parametrize("explain", ["counterfactual", "contrast"])
def test_what_is_explained_may_be_against_the_class_or_another(plain, tmp_path, explain):
    path = attach(plain, tmp_path / "x.cam.onnx", explain=explain)
    more = {"against_index": np.array([0, 1, 3])} if explain == "contrast" else {}
    A, head = behind_stem()

    def y(table: torch.Tensor, picture: int) -> torch.Tensor:
        own = of_class(table, picture)
        return own - table[:, [0, 1, 3][picture]] if more else -own

    ablation, recipro = expected(head, A, y)
    got = run(path, image=PICTURES, class_index=CLASSES, **more)
    close(got["cam"], ablation)
    close(got["cam.reciprocam"], recipro)


def test_several_classes_are_each_alone_and_share_the_runs(plain, tmp_path):
    one, two = attach(plain, tmp_path / "one.cam.onnx"), attach(plain, tmp_path / "two.cam.onnx", classes=2)
    together = run(two, image=PICTURES, class_index=np.stack([CLASSES, [1, 1, 3]], axis=1))
    for k, classes in enumerate((CLASSES, np.array([1, 1, 3]))):
        for name, values in run(one, image=PICTURES, class_index=classes).items():
            if name.startswith("cam"):
                close(together[name][:, k], values)
    counts = [[node.op_type for node in onnx.load(path).graph.node].count("Scan") for path in (one, two)]
    assert counts == [2, 2]


def test_a_score_of_no_class_is_run_again_too(plain, tmp_path):
    path = attach(plain, tmp_path / "x.cam.onnx", score="weights")
    weights = np.random.default_rng(2).standard_normal((3, 5)).astype(np.float32)
    A, head = behind_stem()
    ablation, recipro = expected(head, A, lambda table, picture: table @ torch.from_numpy(weights[picture]))
    got = run(path, image=PICTURES, score_weights=weights)
    close(got["cam"], ablation)
    close(got["cam.reciprocam"], recipro)


def test_a_similarity_is_of_the_masked_embedding_over_its_own_length(plain, tmp_path):
    path = attach(plain, tmp_path / "x.cam.onnx", score="similarity")
    reference = np.random.default_rng(2).standard_normal((1, 5)).astype(np.float32)
    A, head = behind_stem()
    ablation, recipro = expected(head, A, lambda e, _: torch.cosine_similarity(e, torch.from_numpy(reference)))
    got = run(path, image=PICTURES, score_reference=reference)
    close(got["cam"], ablation)
    close(got["cam.reciprocam"], recipro)


def test_the_layer_may_be_the_picture(plain, tmp_path):
    path = attach(plain, tmp_path / "x.cam.onnx", layer="image", layout="NCHW")
    ablation, recipro = expected(Plain().eval(), torch.from_numpy(PICTURES), of_class)
    got = run(path, image=PICTURES, class_index=CLASSES)
    close(got["cam"], ablation)
    close(got["cam.reciprocam"], recipro)


SKIPPING = """net (float[N,3,13,10] image) => (float[N,5] logits) {
  a = Conv <strides=[2,2], pads=[1,1,1,1]> (image, w1, b1)
  first = Relu (a)
  b = Conv <pads=[1,1,1,1]> (first, w2)
  scale = ReduceMax <keepdims=1> (first, axes)
  sizes = Shape (first)
  map = Relu (b)
  scaled = Mul (map, scale)
  pooled = GlobalAveragePool (scaled)
  whole = Sum (pooled, scale)
  batch = Slice (sizes, zero, one)
  shape = Concat <axis=0> (batch, six)
  flat = Reshape (whole, shape)
  logits = Gemm <transB=1> (flat, fc, bias)
}"""
"""A head that reads what goes past the map: the scale of each picture, and the number of pictures."""


def skipping(**more):
    weights = CNN_WEIGHTS | {"axes": np.array([1, 2, 3]), "zero": [0], "one": [1], "six": [6]}
    return model(SKIPPING, **weights | more)


def test_what_goes_past_the_layer_is_each_picture_s_own(tmp_path):
    path = onnxcam.attach(save(tmp_path / "m.onnx", skipping()), layer="map", method=BOTH).path
    pictures = np.random.default_rng(0).standard_normal((3, 3, 13, 10)).astype(np.float32)
    got = run(path, image=pictures, class_index=CLASSES)
    assert several_at_a_time(path) == [True, True]
    stored = {w.name: onnx.numpy_helper.to_array(w) for w in skipping().graph.initializer}
    weights = {name: torch.tensor(array) for name, array in stored.items()}
    x = nn.functional.conv2d(torch.from_numpy(pictures), weights["w1"], weights["b1"], stride=2, padding=1).relu()
    for i, scale in enumerate(x.amax((1, 2, 3))):
        A = torch.from_numpy(got["activations"][i : i + 1])

        def head(a: torch.Tensor, scale: torch.Tensor = scale) -> torch.Tensor:
            return (a * scale).mean((2, 3)).add(scale) @ weights["fc"].T + weights["bias"]

        ablation, recipro = expected(head, A, lambda table, _, i=i: table[:, CLASSES[i]])
        close(got["cam"][i : i + 1], ablation)
        close(got["cam.reciprocam"][i : i + 1], recipro)


FIXED = """net (float[2,3,13,10] image) => (float[2,5] logits) {
  a = Conv <strides=[2,2], pads=[1,1,1,1]> (image, w1, b1)
  first = Relu (a)
  b = Conv <pads=[1,1,1,1]> (first, w2)
  last = Relu (b)
  rows = Reshape (last, shape)
  pooled = ReduceMean <keepdims=0> (rows, axes)
  logits = Gemm <transB=1> (pooled, fc, bias)
}"""


def test_a_number_of_pictures_written_into_the_head_is_kept(tmp_path):
    fixed = model(FIXED, **CNN_WEIGHTS, shape=[2, 6, 35], axes=[2])
    pictures = np.random.default_rng(0).standard_normal((2, 3, 13, 10)).astype(np.float32)
    found = []
    for name, proto in (("fixed", fixed), ("open", cnn())):
        path = onnxcam.attach(save(tmp_path / f"{name}.onnx", proto), layer="last", method=BOTH).path
        found.append(run(path, image=pictures, class_index=CLASSES[:2]))
        assert several_at_a_time(path) == [name == "open"] * 2
    for name in ("cam", "cam.reciprocam"):
        close(found[0][name], found[1][name])


def test_the_file_has_the_weights_once(tmp_path):
    wide = save(tmp_path / "m.onnx", cnn(w2=(600, 4, 3, 3), fc=(5, 600)))
    found = [onnxcam.attach(wide, tmp_path / f"{m}.onnx", layer="first", method=m).path for m in ("gradcam", *BOTH)]
    sizes = [path.stat().st_size for path in found]
    assert max(sizes) - min(sizes) < 600 * 4 * 9 * 4 / 2


CHOOSING = """net (float[N,3,13,10] image) => (float[N,5] logits) {
  a = Conv <strides=[2,2], pads=[1,1,1,1]> (image, w1, b1)
  last = Relu (a)
  level = ReduceMean <keepdims=0> (last)
  bright = Less (zero, level)
  doubled = If (bright) <
    then_branch = then_graph () => (float[N,4,7,5] two) { two = Add (last, last) },
    else_branch = else_graph () => (float[N,4,7,5] none) { none = Identity (last) }>
  pooled = GlobalAveragePool (doubled)
  flat = Flatten (pooled)
  logits = Gemm <transB=1> (flat, fc, bias)
}"""


def test_what_a_subgraph_of_the_head_reads_is_masked(tmp_path):
    weights = {"w1": (4, 3, 3, 3), "b1": (4,), "fc": (5, 4), "bias": (5,), "zero": np.float32(0)}
    path = onnxcam.attach(save(tmp_path / "m.onnx", model(CHOOSING, **weights)), layer="last", method=BOTH).path
    got = run(path, image=PICTURES[:1, :, :13, :10], class_index=CLASSES[:1])
    stored = {w.name: onnx.numpy_helper.to_array(w) for w in model(CHOOSING, **weights).graph.initializer}
    fc, bias = torch.tensor(stored["fc"]), torch.tensor(stored["bias"])
    ablation, recipro = expected(
        lambda a: (2 * a).mean((2, 3)) @ fc.T + bias, torch.from_numpy(got["activations"]), of_class
    )
    close(got["cam"], ablation)
    close(got["cam.reciprocam"], recipro)


class Volumes(nn.Module):
    """Two three-dimensional convolutions, and a linear layer behind the mean."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.stage, self.fc = nn.Conv3d(2, 4, 3, 2), nn.Conv3d(4, 6, 2), nn.Linear(6, 5)

    def behind(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.stage(x.relu()).relu().mean((2, 3, 4)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.behind(self.stem(x))


def test_volumes_are_masked_by_channel_and_by_place(tmp_path):
    net, clips = Volumes().eval(), torch.randn(2, 2, 7, 9, 11)
    path = tmp_path / "v.cam.onnx"
    onnxcam.export(net, clips, path, layer="stem", method=BOTH)
    got = run(path, image=clips.numpy(), class_index=CLASSES[:2])
    A = net.stem(clips).detach()
    for i, a in enumerate(A):
        y = net.behind(a[None])[0, CLASSES[i]].detach()
        left = scores(net.behind, a, channel_masks(a)[..., None])[:, CLASSES[i]]
        close(got["cam"][i], (((y - left) / y.abs())[:, None, None, None] * a).sum(0).relu().numpy())
        alone = scores(net.behind, a, torch.eye(3 * 4 * 5).reshape(-1, 1, 3, 4, 5))[:, CLASSES[i]].reshape(3, 4, 5)
        close(got["cam.reciprocam"][i], (alone - alone.min()).numpy())
    with pytest.raises(MethodError, match="'stem' gives volumes, and 'vitreciprocam' looks at neighbours"):
        onnxcam.export(net, clips, tmp_path / "x.cam.onnx", layer="stem", method="vitreciprocam")


def vit_reciprocam(net: Transformer, picture: np.ndarray, index: int) -> np.ndarray:
    """As OpenVINO XAI: before the last block, its skip connection and its first normalisation are masked alike."""
    first, last = net.blocks
    tokens = net.patches(torch.from_numpy(picture[None])).flatten(2).transpose(1, 2)
    x = first(torch.cat([net.extra, tokens], 1) + net.position)
    kernel = torch.tensor([1, 2, 1]) / 4
    masks = torch.zeros(15, 7, 5)
    for k in range(15):
        i, j = divmod(k, 3)
        masks[k, i : i + 3, j : j + 3] = kernel[:, None] * kernel
    mask = torch.cat([torch.ones(15, net.skipped, 1), masks[:, 1:-1, 1:-1].reshape(15, 15, 1)], 1)
    x = x * mask + last.attn(last.norm1(x) * mask)
    x = x + last.mlp(last.norm2(x))
    x = net.norm(x)
    s = net.head(x[:, net.skipped :].mean(1) if net.mean else x[:, 0])[:, index].reshape(5, 3).detach()
    return (s - s.min()).numpy()


@pytest.mark.parametrize(
    ("export", "opset", "mean"),
    [(dynamo, 18, False), (torchscript, 18, True), (torchscript, 13, True)],
    ids=["class token", "mean of tokens", "normalised by steps"],
)
def test_vit_recipro_cam_masks_both_halves_of_the_block(tmp_path, export, opset, mean):
    net = Transformer(extra=2, mean=mean).eval()
    with torch.no_grad():
        net.blocks[1].attn.qkv.weight.mul_(6)  # places matter to the class token
    path = export(net, tmp_path / "vit.onnx", opset=opset)
    wanted = np.stack([vit_reciprocam(net, picture, c) for picture, c in zip(PICTURES, CLASSES, strict=True)])
    for layer in ("blocks.0", "blocks.1.norm1"):
        attached = onnxcam.attach(path, tmp_path / f"{layer}.cam.onnx", layer=layer, method="vitreciprocam")
        assert attached.info.layers[0].extra_tokens == 2
        close(run(attached.path, image=PICTURES, class_index=CLASSES)["cam"], wanted)


class Bottleneck(nn.Module):
    """A layer with negative values, then ReLU6 behind a convolution."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.stage, self.fc = nn.Conv2d(3, 4, 4, 4), nn.Conv2d(4, 6, 1), nn.Linear(6, 5)

    def behind(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(nn.functional.relu6(self.stage(x)).mean((2, 3)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.behind(self.stem(x))


def test_a_channel_of_a_layer_with_negative_values_becomes_0_too(tmp_path):
    net = Bottleneck().eval()
    path = torchscript(net, tmp_path / "b.onnx", opset=18)
    got = run(attach(path, tmp_path / "x.cam.onnx", layer="stem"), image=PICTURES, class_index=CLASSES)
    A = net.stem(torch.from_numpy(PICTURES)).detach()
    assert (A < 0).any()
    close(got["cam"], expected(net.behind, A, of_class)[0])
    # pytorch-grad-cam sets it to min(A) - 1e7, which leaves each ReLU6 at 0 or 6: whatever the picture is, the scores
    # without a channel are then the same, and its weight tells nothing of what the channel was there
    masks = channel_masks(A[0])
    far = [net.behind(a * masks + (1 - masks) * (a.min() - 1e7)).detach() for a in A]
    near = [net.behind(a * masks).detach() for a in A]
    torch.testing.assert_close(far[0], far[1])
    assert not torch.allclose(near[0], near[1], rtol=0.01)


def test_without_gradients_asked_for_nothing_is_differentiated(plain, tmp_path):
    path = attach(plain, tmp_path / "x.cam.onnx", outputs="cam")
    assert not [node.name for node in onnx.load(path).graph.node if node.name.startswith("gradient")]
    assert onnxcam.verify(attach(plain, tmp_path / "y.cam.onnx")).passed


def test_an_artifact_is_renewed_without_what_was_run_again(plain, tmp_path):
    path = attach(plain, tmp_path / "x.cam.onnx")
    onnxcam.attach(path, layer="stem.2", replace=True)
    assert "Scan" not in [node.op_type for node in onnx.load(path).graph.node]


def test_half_precision_and_eigen_smooth(plain, tmp_path):
    path = attach(plain, tmp_path / "x.cam.onnx", method="ablationcam", eigen_smooth=True)
    assert run(path, image=PICTURES, class_index=CLASSES)["cam"].any()
    with pytest.raises(MethodError, match="'reciprocam' is made of scores, not of channels: leave it or eigen-smooth"):
        attach(plain, tmp_path / "y.cam.onnx", method="reciprocam", eigen_smooth=True)


@pytest.mark.parametrize("kind", ["ablationcam", "reciprocam"])
def test_a_layer_that_the_score_does_not_read_is_refused(tmp_path, kind):
    text = cnn()
    text.graph.node.append(onnx.helper.make_node("Sigmoid", ["last"], ["aside"]))
    text.graph.output.append(onnx.helper.make_tensor_value_info("aside", 1, ["N", 6, 7, 5]))
    with pytest.raises(LayerError, match="'aside'"):
        onnxcam.attach(save(tmp_path / "m.onnx", text), layer="aside", method=kind, output="logits", outputs="cam")
