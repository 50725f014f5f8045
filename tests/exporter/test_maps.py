"""Maps in the file: of every method, layout and score, alone and in a batch, apart and fused."""

from __future__ import annotations

import cv2
import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import nn

import onnxcam
from onnxcam.errors import ExportError, LayerError, MethodError, UnsupportedOperatorError
from onnxcam.exporter.files import read_model
from onnxcam.methods import graph_methods

from .graphs import cnn, save
from .networks import torchscript

ONE_LAYER = [
    name
    for name, method in graph_methods().items()
    if not method.fusion and method.needs != "head" and method.target == "layer"
]


class Net(nn.Module):
    """A convolution, an activation whose places lie as ``layout`` says, and a head of two convolutions."""

    def __init__(self, layout: str = "NCHW") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layout = layout
        self.stem = nn.Conv2d(3, 6, 4, 4)
        self.act = nn.GELU()
        self.block = nn.Sequential(nn.Conv2d(6, 5, 3, 2, 1), nn.ReLU())
        self.fc = nn.Linear(5, 7)
        with torch.no_grad():
            self.fc.weight.mul_(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        if self.layout == "NCHW":
            x = self.act(x)
        elif self.layout == "NHWC":
            x = self.act(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        else:
            n, c, h, w = x.shape
            x = self.act(x.flatten(2).transpose(1, 2)).transpose(1, 2).reshape(n, c, h, w)
        return self.fc(self.block(x).mean((2, 3)))


PICTURES = np.random.default_rng(1).standard_normal((3, 3, 20, 12)).astype(np.float32)
CLASSES = np.array([4, 0, 6])


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The plain file of `Net` by layout."""
    made = {}

    def get(layout: str = "NCHW"):
        if layout not in made:
            made[layout] = torchscript(Net(layout), tmp_path_factory.mktemp("maps") / f"{layout}.onnx", opset=18)
        return made[layout]

    return get


def run(path, pictures=PICTURES, classes=CLASSES, **more) -> dict[str, np.ndarray]:
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    feed = {"image": pictures, "class_index": np.asarray(classes, np.int64)}
    return dict(zip(names, session.run(names, feed | more), strict=True))


@pytest.fixture(scope="module")
def everything(plain, tmp_path_factory):
    """What every method makes of the same net in each layout."""
    folder, found = tmp_path_factory.mktemp("layouts"), {}
    for layout in ("NCHW", "NHWC", "tokens"):
        report = onnxcam.attach(plain(layout), folder / f"{layout}.cam.onnx", layer="act", method=ONE_LAYER)
        assert report.info.layers[0].layout == layout
        found[layout] = report.path
    return found


@pytest.mark.parametrize("layout", ["NHWC", "tokens"])
def test_the_layout_makes_no_difference(everything, layout):
    expected, got = run(everything["NCHW"]), run(everything[layout])
    assert [name for name in got if name.startswith("cam")] == ["cam", *(f"cam.{name}" for name in ONE_LAYER[1:])]
    for name in got:
        if name.startswith("cam"):
            assert got[name].shape == (3, 5, 3)
            scale = np.abs(expected[name]).max()
            np.testing.assert_allclose(got[name], expected[name], atol=2e-4 * scale, err_msg=name)


def test_a_batch_is_each_alone(everything):
    together = run(everything["NCHW"])
    for i in range(3):
        alone = run(everything["NCHW"], PICTURES[i : i + 1], CLASSES[i : i + 1])
        for name in together:
            scale = np.abs(together[name][i]).max()
            np.testing.assert_allclose(alone[name][0], together[name][i], atol=2e-4 * scale, err_msg=name)


class Pooled(nn.Module):
    """An activation whose places lie as ``layout`` says, the mean over them, and one linear layer."""

    def __init__(self, layout: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layout = layout
        self.stem, self.act, self.fc = nn.Conv2d(3, 6, 4, 4), nn.GELU(), nn.Linear(6, 7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        if self.layout == "NCHW":
            return self.fc(self.act(x).mean((2, 3)))
        if self.layout == "NHWC":
            return self.fc(self.act(x.permute(0, 2, 3, 1)).mean((1, 2)))
        return self.fc(self.act(x.flatten(2).transpose(1, 2)).mean(1))


@pytest.mark.parametrize("layout", ["NCHW", "NHWC", "tokens"])
def test_behind_pooling_and_a_linear_layer_four_methods_are_one(tmp_path, layout):
    path = torchscript(Pooled(layout), tmp_path / "m.onnx", opset=18)
    names = ["cam", "gradcam", "xgradcam", "hirescam"]
    got = run(onnxcam.attach(path, tmp_path / "m.cam.onnx", layer="act", method=names).path)
    net = Pooled("NCHW")
    A = net.act(net.stem(torch.from_numpy(PICTURES)))
    expected = torch.einsum("nc,nchw->nhw", net.fc.weight[CLASSES], A).detach().numpy()
    np.testing.assert_allclose(got["cam"], expected, atol=1e-5)
    np.testing.assert_allclose(got["cam.hirescam"] * 15, expected, atol=1e-5)
    np.testing.assert_allclose(got["cam.gradcam"] * 15, np.maximum(expected, 0), atol=1e-5)
    np.testing.assert_allclose(got["cam.xgradcam"] * 15, np.maximum(expected, 0), atol=1e-4)


def gradient_of(score) -> tuple[np.ndarray, np.ndarray]:
    """A and its gradient where ``score(logits)`` is one number a picture, by autograd."""
    net = Net().eval()
    A = net.act(net.stem(torch.from_numpy(PICTURES)))
    y = net.fc(net.block(A).mean((2, 3)))
    (g,) = torch.autograd.grad(score(y).sum(), A)
    return A.detach().numpy(), g.numpy()


def gradcam(A: np.ndarray, g: np.ndarray) -> np.ndarray:
    return np.maximum((g.mean((2, 3), keepdims=True) * A).sum(1), 0)


ROWS = torch.arange(3)


def explained(y):
    return y[ROWS, torch.from_numpy(CLASSES)]


def rivals(y, rank: int = 1):
    """The class of that rank among the others."""
    order = (-y).argsort(1)
    return torch.stack([row[row != c][rank - 1] for row, c in zip(order, CLASSES, strict=True)])


def test_a_counterfactual_shows_what_speaks_against_the_class(plain, tmp_path):
    how = {"layer": "act", "method": ["gradcam", "hirescam"], "explain": "counterfactual"}
    report = onnxcam.attach(plain(), tmp_path / "x.cam.onnx", **how)
    got = run(report.path)
    A, g = gradient_of(explained)
    np.testing.assert_allclose(got["cam"], gradcam(A, -g), atol=1e-6)
    np.testing.assert_allclose(got["cam.hirescam"], -(A * g).sum(1), atol=1e-6)
    np.testing.assert_allclose(got["gradients"], g, atol=1e-6, err_msg="that of the class, as the contract says")
    assert report.info.explain == "counterfactual"
    assert onnxcam.verify(report.path).passed


def test_a_contrast_is_with_the_likeliest_other_class_or_the_one_chosen(plain, tmp_path):
    path = onnxcam.attach(plain(), tmp_path / "x.cam.onnx", layer="act", explain="contrast").path
    got = run(path)
    expected = gradcam(*gradient_of(lambda y: explained(y) - y[ROWS, rivals(y)]))
    np.testing.assert_allclose(got["cam"], expected, atol=1e-6)
    second = run(path, against_index=np.array([-2, -2, 4]))
    y = torch.from_numpy(second["logits"])
    assert got["against_class"].tolist() == rivals(y).tolist()
    assert second["against_class"].tolist() == [*rivals(y, 2).tolist()[:2], 4]
    others = torch.tensor(second["against_class"])
    expected = gradcam(*gradient_of(lambda y: explained(y) - y[ROWS, others]))
    np.testing.assert_allclose(second["cam"], expected, atol=1e-6)
    same = run(path, against_index=CLASSES)
    assert not same["cam"].any(), "nothing speaks for a class rather than for itself"
    assert onnxcam.verify(path).passed


def test_the_class_of_each_frame_may_be_set_apart_when_the_file_runs(plain, tmp_path):
    preprocess = onnxcam.Preprocess(height=20, width=12)
    labels = ["a", "b", "c", "d, dd", "e", "f", "g"]
    path = tmp_path / "x.cam.onnx"
    onnxcam.attach(plain(), path, layer="act", explain="contrast", preprocess=preprocess, labels=labels)
    with onnxcam.load(path) as cam:
        picture = np.random.default_rng(0).integers(0, 255, (20, 12, 3), np.uint8)
        ex = cam.explain([picture, picture], class_index=["b", 2], against=["d", -6])
    assert (ex[0].class_index, ex[0].against) == (1, 3)
    assert ex[0].caption.endswith("b, not d")
    assert ex[1].against == int(np.argmin(np.where(np.arange(7) == 2, np.inf, ex[1].scores)))


def test_finercam_sets_a_class_apart_from_the_three_nearest(plain, tmp_path):
    path = onnxcam.attach(plain(), tmp_path / "x.cam.onnx", layer="act", method=["gradcam", "finercam"]).path

    def finer(y):
        values = []
        for row, c in zip(y, CLASSES, strict=True):
            near = [k for k in (row - row[c]).abs().argsort().tolist() if k != c][:3]
            p = row.softmax(0)[near]
            values.append((p * (row[c] - row[near])).sum() / p.sum())
        return torch.stack(values)

    got = run(path)
    np.testing.assert_allclose(got["cam.finercam"], gradcam(*gradient_of(finer)), atol=1e-6)
    np.testing.assert_allclose(got["cam"], gradcam(*gradient_of(explained)), atol=1e-6)


def minmax(cam: np.ndarray) -> np.ndarray:
    raised = np.maximum(cam, 0)
    raised = raised - raised.min((1, 2), keepdims=True)
    return raised / raised.max((1, 2), keepdims=True)


def test_layers_are_fused_and_refined(plain, tmp_path):
    both = {"layer": ["block", "act"], "method": ["gradcam", "refinecam"]}
    apart = run(
        onnxcam.attach(plain(), tmp_path / "a.cam.onnx", layer=both["layer"], method=["gradcam", "gradcam++"]).path
    )
    assert (apart["cam"].shape, apart["cam.1"].shape) == ((3, 3, 2), (3, 5, 3))
    for fuse, joined in (("mean", lambda a, b: (a + b) / 2), ("max", np.maximum)):
        report = onnxcam.attach(plain(), tmp_path / f"{fuse}.cam.onnx", fuse=fuse, **both)
        got = run(report.path)
        assert [name for name in got if name.startswith("cam")] == ["cam", "cam.refinecam"]
        small = np.stack([cv2.resize(cam, (3, 5)) for cam in minmax(apart["cam"])])
        np.testing.assert_allclose(got["cam"], joined(small, minmax(apart["cam.1"])), atol=1e-5)
        small = np.stack([cv2.resize(cam, (3, 5)) for cam in minmax(apart["cam.gradcam++"])])
        np.testing.assert_allclose(got["cam.refinecam"], small * minmax(apart["cam.gradcam++.1"]), atol=1e-5)
        assert (report.info.fuse, len(report.info.layers)) == (fuse, 2)


def test_a_map_is_chosen_by_method_and_layer(plain, tmp_path):
    path = tmp_path / "x.cam.onnx"
    how = {"layer": ["block", "act"], "method": ["gradcam", "layercam", "refinecam"]}
    onnxcam.attach(plain(), path, preprocess=onnxcam.Preprocess(height=20, width=12), **how)
    picture = np.random.default_rng(0).integers(0, 255, (20, 12, 3), np.uint8)
    with onnxcam.load(path) as cam:
        assert (cam.methods, cam.layers) == (("gradcam", "layercam", "refinecam"), ("block", "act"))
        first, second = cam.explain(picture), cam.explain(picture, method="layercam", layer="act")
        assert (first.method, first.layer, second.method, second.layer) == ("gradcam", "block", "layercam", "act")
        expected = np.maximum((np.maximum(second.gradients, 0) * second.activations).sum(0), 0)
        np.testing.assert_allclose(second.cam, expected, atol=1e-6)
        assert first.activations.shape == (5, 3, 2)
        assert {name: values.shape for name, values in first.cams.items()} == {
            "gradcam": (3, 2), "layercam": (3, 2), "refinecam": (5, 3)
        }  # fmt: skip
        with pytest.raises(MethodError, match=r"no map by 'layercm', only by .*; did you mean 'layercam'"):
            cam.explain(picture, method="layercm")
        with pytest.raises(LayerError, match="no map at 'stem', only at block, act"):
            cam.explain(picture, layer="stem")
        with pytest.raises(LayerError, match="joins all its layers: leave the layer out"):
            cam.explain(picture, method="refinecam", layer="act")
        with pytest.raises(onnxcam.errors.ClassError, match="make it with --explain contrast"):
            cam.explain(picture, against=2)


def backward(path) -> list[str]:
    return [node.name for node in onnx.load(path).graph.node if node.name.startswith("gradient")]


def test_without_gradients_nothing_is_differentiated(plain, tmp_path):
    names = ["eigencam", "kpcacam", "fem", "random"]
    path = onnxcam.attach(plain(), tmp_path / "x.cam.onnx", layer="act", method=names, outputs="cam").path
    assert backward(path) == []
    assert list(run(path)) == ["logits", "cam", "cam.kpcacam", "cam.fem", "cam.random", "explained_class"]
    path = onnxcam.attach(plain(), tmp_path / "y.cam.onnx", layer="act", method=names).path
    assert backward(path), "the gradient is an output"
    report = onnxcam.export(
        Net(), torch.from_numpy(PICTURES[:2]), tmp_path / "z.cam.onnx", layer="act", method="eigencam", outputs="cam"
    )
    assert backward(report.path) == []
    assert list(report.errors) == ["outputs", "activations"]


def test_a_model_that_cannot_be_differentiated_shows_its_principal_component(tmp_path):
    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 18]>
        g (float[N,3,6,6] image) => (float[N,3] logits) {
            a = Abs (image)
            logits = Det (a)
        }
    """)
    onnx.save(model, tmp_path / "det.onnx")
    with pytest.raises(UnsupportedOperatorError, match="Det"):
        onnxcam.attach(tmp_path / "det.onnx", tmp_path / "x.cam.onnx", layer="a")
    path = onnxcam.attach(
        tmp_path / "det.onnx", tmp_path / "x.cam.onnx", layer="a", method="eigencam", outputs="cam"
    ).path
    assert run(path, np.random.default_rng(0).standard_normal((2, 3, 6, 6)).astype(np.float32), [-1])["cam"].any()


def test_a_renewed_contrast_leaves_nothing_behind(plain, tmp_path):
    path = tmp_path / "x.cam.onnx"
    onnxcam.attach(plain(), path, layer="act", explain="contrast", method=["gradcam", "layercam"])
    onnxcam.attach(path, layer="act", replace=True)
    model = read_model(path)
    assert [x.name for x in model.graph.inputs] == ["image", "class_index"]
    assert [y.name for y in model.graph.outputs] == ["logits", "cam", "activations", "gradients", "explained_class"]


def test_half_precision_loses_no_more_than_its_digits(tmp_path):
    names = [name for name, entry in graph_methods().items() if not entry.fusion and entry.target != "attention"]
    narrow = cnn()
    for weight in narrow.graph.initializer:
        array = onnx.numpy_helper.to_array(weight)
        if array.dtype == np.float32:
            weight.CopyFrom(onnx.numpy_helper.from_array(array.astype(np.float16), weight.name))
    for value in (*narrow.graph.input, *narrow.graph.output):
        value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    picture = np.random.default_rng(0).standard_normal((2, 3, 13, 10)).astype(np.float16)
    found = []
    for name, model, dtype in (("wide", cnn(), np.float32), ("narrow", narrow, np.float16)):
        path = onnxcam.attach(save(tmp_path / f"{name}.onnx", model), layer="last", method=names).path
        found.append(run(path, picture.astype(dtype), [1, 4]))
    for name, values in found[0].items():
        if name.startswith("cam"):
            assert found[1][name].dtype == np.float32
            np.testing.assert_allclose(found[1][name], values, atol=0.02 * np.abs(values).max(), err_msg=name)


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        ({"method": "refinecam"}, MethodError, "'refinecam' joins the maps of several layers: name two"),
        ({"fuse": "mean"}, LayerError, "name two or more with --layer"),
        ({"method": "eigencam", "explain": "contrast"}, MethodError, "tells nothing of a contrast: take 'gradcam'"),
        ({"method": "finercam", "explain": "counterfactual"}, MethodError, "sets classes apart already"),
        ({"method": "eigencam", "eigen_smooth": True}, MethodError, "is a principal component itself"),
        ({"method": "layer-cam"}, MethodError, "did you mean 'layercam'"),
        ({"method": ["fem", "fem"]}, MethodError, "named twice"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_written(plain, tmp_path, how, error, message):
    with pytest.raises(error, match=message):
        onnxcam.attach(plain(), tmp_path / "x.cam.onnx", layer="act", **how)
    assert list(tmp_path.iterdir()) == []


def test_one_class_cannot_be_set_apart(tmp_path):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 1))
    path = torchscript(net, tmp_path / "one.onnx", opset=18)
    for how in ({"explain": "contrast"}, {"method": "finercam"}):
        with pytest.raises(ExportError, match="one class only"):
            onnxcam.attach(path, tmp_path / "x.cam.onnx", layer="1", **how)
