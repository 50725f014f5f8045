"""Maps with the target at the picture, by hand and against torch's autograd with hooks."""

from __future__ import annotations

import cv2
import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import nn
from torch.nn import functional

import onnxcam
from onnxcam.errors import LayerError, MethodError
from onnxcam.exporter.files import read_model

from .graphs import cnn, model, save
from .networks import torchscript

OF_THE_PICTURE = ["saliency", "input-x-gradient", "guided-backprop", "deconvolution"]
ALL = [*OF_THE_PICTURE, "guided-gradcam"]


def run(path, pictures, classes, **more) -> dict[str, np.ndarray]:
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    feed = {"image": pictures, "class_index": np.asarray(classes, np.int64)}
    return dict(zip(names, session.run(names, feed | more), strict=True))


def maps(path, pictures, classes, **more) -> dict[str, np.ndarray]:
    """The maps by method."""
    got = run(path, pictures, classes, **more)
    first = onnxcam.contract.ArtifactInfo.from_json(read_model(path).metadata_props["onnxcam"]).methods[0]
    return {name.removeprefix("cam.") if name != "cam" else first: x for name, x in got.items() if name[:3] == "cam"}


TWO_LAYERS = """net (float[N,1,1,3] image) => (float[N,2] y) {
  a = Conv (image, w1)
  h = Relu (a)
  b = Conv (h, w2)
  k = Relu (b)
  pooled = GlobalAveragePool (k)
  flat = Flatten (pooled)
  y = Gemm <transB=1> (flat, fc)
}"""
WEIGHTS = {
    "w1": np.float32([1, -3]).reshape(2, 1, 1, 1),
    "w2": np.float32([[1, 2], [-1, 1]]).reshape(2, 2, 1, 1),
    "fc": np.float32([[3, -6], [0, 0]]),
}


@pytest.mark.parametrize(
    ("explain", "expected"),
    [
        # Place by place, h = ReLU(x, -3x), k = ReLU(h_0 + 2 h_1, h_1 - h_0), and y = Σ k_0 - 2 Σ k_1, so dk = (1, -2).
        #   x = 1: h = (1, 0), k = (1, 0); x = -1: h = (0, 3), k = (6, 3); x = 2 is as x = 1, with k = (2, 0).
        # gradient       x = 1: dk (1, 0), dh (1, 2) -> (1, 0), dx = 1      x = -1: dk (1, -2), dh (3, 0) -> (0, 0), 0
        # guided         x = 1: dk (1, 0), dh (1, 2) -> (1, 0), dx = 1      x = -1: dk (1, 0), dh (1, 2) -> (0, 2), -6
        # deconvolution  dk (1, 0), dh (1, 2), dx = 1 - 3·2 = -5, whatever x
        # Grad-CAM at k is ReLU(k_0 - 2 k_1) = (1, 0, 2).
        (
            "class",
            {
                "saliency": [1, 0, 1],
                "input-x-gradient": [1, 0, 2],
                "guided-backprop": [1, 6, 1],
                "deconvolution": [5, 5, 5],
                "guided-gradcam": [1, 0, 2],
            },
        ),
        # dk = (-1, 2)
        # guided         x = 1: dk (0, 2) -> (0, 0), dx = 0      x = -1: dk (0, 2), dh (-2, 2) -> (0, 2), dx = -6
        # deconvolution  dk (0, 2), dh (-2, 2) -> (0, 2), dx = -6, whatever x
        # Grad-CAM is ReLU(2 k_1 - k_0) = (0, 0, 0), as 6 - 6 = 0
        (
            "counterfactual",
            {
                "saliency": [1, 0, 1],
                "input-x-gradient": [-1, 0, -2],
                "guided-backprop": [0, 6, 0],
                "deconvolution": [6, 6, 6],
                "guided-gradcam": [0, 0, 0],
            },
        ),
    ],
)
def test_two_layers_by_hand(tmp_path, explain, expected):
    path = save(tmp_path / "m.onnx", model(TWO_LAYERS, **WEIGHTS))
    report = onnxcam.attach(path, layer="k", method=ALL, explain=explain)
    got = maps(report.path, np.float32([1, -1, 2]).reshape(1, 1, 1, 3), [0])
    assert {name: x.reshape(-1).tolist() for name, x in got.items()} == expected


class Net(nn.Module):
    """Convolutions with ReLU and ReLU6, one around which a shortcut leads, a maximum pool, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.stem, self.act = nn.Conv2d(3, 6, 3, 2, 1), nn.ReLU()
        self.pool = nn.MaxPool2d(2)
        self.block, self.act6 = nn.Conv2d(6, 6, 3, 1, 1), nn.ReLU6()
        self.last, self.end = nn.Conv2d(6, 8, 3, 1, 1), nn.ReLU()
        self.fc = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool(self.act(self.stem(x)))
        x = x + self.act6(self.block(x) * 4)
        return self.fc(self.end(self.last(x)).mean((2, 3)))


PICTURES = np.random.default_rng(5).standard_normal((3, 3, 28, 20)).astype(np.float32)
CLASSES = [4, 0, 2]
ROWS = torch.arange(3)


def by_torch(backward: str = "gradient", score=None) -> torch.Tensor:
    """What comes back to the pictures of the explained scores, the modules' own backward passes changed by hooks."""
    net = Net().eval()
    hooks = {
        "gradient": lambda module, dx, dy: None,
        "guided": lambda module, dx, dy: (functional.relu(dx[0]),),
        "deconvolution": lambda module, dx, dy: (functional.relu(dy[0]),),
    }
    for module in net.modules():
        if isinstance(module, (nn.ReLU, nn.ReLU6)):
            module.register_full_backward_hook(hooks[backward])
    x = torch.from_numpy(PICTURES.copy()).requires_grad_()
    y = net(x)
    chosen = y[ROWS, CLASSES] if score is None else score(y)
    return torch.autograd.grad(chosen.sum(), x)[0]


def gradcam_by_torch(layer: str) -> torch.Tensor:
    """Grad-CAM at ``layer``, at the picture's size: [N, H, W]."""
    net, caught = Net().eval(), []
    getattr(net, layer).register_forward_hook(lambda module, args, y: caught.append(y))
    (g,) = torch.autograd.grad(net(torch.from_numpy(PICTURES))[ROWS, CLASSES].sum(), caught[0])
    cam = functional.relu((g.mean((2, 3), keepdim=True) * caught[0]).sum(1, keepdim=True))
    return functional.interpolate(cam, PICTURES.shape[2:], mode="bilinear")[:, 0].detach()


def strongest(gradient: torch.Tensor) -> np.ndarray:
    return gradient.abs().amax(1).numpy()


def near(got: np.ndarray, expected: np.ndarray, what: str = "") -> None:
    assert np.abs(expected).max() > 0
    np.testing.assert_allclose(got, expected, atol=1e-5 * np.abs(expected).max(), err_msg=what)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return torchscript(Net(), tmp_path_factory.mktemp("picture") / "net.onnx", opset=18, size=(28, 20))


@pytest.mark.parametrize("path", ["attach", "export"])
def test_every_map_is_that_of_torch_with_hooks(plain, tmp_path, path):
    how = {"layer": "end", "method": ALL}
    if path == "attach":
        report = onnxcam.attach(plain, tmp_path / "x.cam.onnx", **how)
    else:
        report = onnxcam.export(Net(), torch.from_numpy(PICTURES), tmp_path / "x.cam.onnx", **how)
    got = maps(report.path, PICTURES, CLASSES)
    assert list(got) == ALL
    near(got["saliency"], strongest(by_torch()))
    near(got["input-x-gradient"], (by_torch() * torch.from_numpy(PICTURES)).sum(1).numpy())
    near(got["guided-backprop"], strongest(by_torch("guided")))
    near(got["deconvolution"], strongest(by_torch("deconvolution")))
    near(got["guided-gradcam"], strongest(by_torch("guided")) * gradcam_by_torch("end").numpy())
    different = [got[name] / got[name].max() for name in ALL]
    assert all(np.abs(a - b).max() > 0.1 for i, a in enumerate(different) for b in different[:i])
    for i in range(3):
        alone = maps(report.path, PICTURES[i : i + 1], CLASSES[i : i + 1])
        for name in ALL:
            near(alone[name][0], got[name][i], name)


def test_contrasts_start_at_the_difference_of_scores(plain, tmp_path):
    path = onnxcam.attach(plain, tmp_path / "x.cam.onnx", method=OF_THE_PICTURE, explain="contrast").path
    got = maps(path, PICTURES, CLASSES, against_index=np.array([1, 2, 3]))
    for name, backward in (("saliency", "gradient"), ("guided-backprop", "guided"), ("deconvolution", "deconvolution")):
        near(got[name], strongest(by_torch(backward, lambda y: y[ROWS, CLASSES] - y[ROWS, [1, 2, 3]])), name)


def test_methods_of_the_picture_need_no_layer(plain, tmp_path):
    path = tmp_path / "x.cam.onnx"
    for report in (
        onnxcam.attach(plain, path, method="saliency"),
        onnxcam.export(Net(), torch.from_numpy(PICTURES), path, method="saliency"),
    ):
        info = report.info
        assert info.layers[0].shape == (None, 3, 28, 20)
        assert info.picture_methods == ("saliency",)
        got = run(path, PICTURES, CLASSES)
        assert list(got) == ["logits", "cam", "activations", "gradients", "explained_class"]
        near(got["gradients"], by_torch().numpy())
        np.testing.assert_array_equal(got["activations"], PICTURES)
        np.testing.assert_allclose(got["cam"], np.abs(got["gradients"]).max(1), rtol=1e-6)
        assert onnxcam.verify(path).passed
    assert onnxcam.verify(path, model=Net()).passed
    only = onnxcam.attach(plain, path, method="saliency", outputs="cam").path
    assert list(run(only, PICTURES, CLASSES)) == ["logits", "cam", "explained_class"]


def test_maps_of_layers_and_of_the_picture_stand_in_one_file(plain, tmp_path):
    path = tmp_path / "x.cam.onnx"
    names = ["gradcam", "guided-gradcam", "saliency"]
    report = onnxcam.attach(plain, path, method=names, layer=["end", "act6"])
    got = run(path, PICTURES, CLASSES)
    assert {name: x.shape[1:] for name, x in got.items() if name[:3] == "cam"} == {
        "cam": (7, 5), "cam.guided-gradcam": (28, 20), "cam.saliency": (28, 20),
        "cam.1": (7, 5), "cam.guided-gradcam.1": (28, 20),
    }  # fmt: skip
    assert got["gradients"].shape == (3, 8, 7, 5)
    guided = strongest(by_torch("guided"))
    near(got["cam.guided-gradcam"], guided * gradcam_by_torch("end").numpy())
    near(got["cam.guided-gradcam.1"], guided * gradcam_by_torch("act6").numpy())
    assert report.info.picture_methods == ("saliency",)
    sizes = len(onnx.load(path).graph.node)
    only = onnxcam.attach(plain, tmp_path / "y.cam.onnx", method="gradcam", layer=["end", "act6"])
    assert len(onnx.load(only.path).graph.node) < sizes
    renewed = onnxcam.attach(path, layer="end", replace=True)
    assert list(run(renewed.path, PICTURES, CLASSES)) == [
        "logits", "cam", "activations", "gradients", "explained_class"
    ]  # fmt: skip
    assert renewed.info.picture_methods == ()


def test_several_classes_of_a_picture_are_each_as_if_alone(plain, tmp_path):
    several = onnxcam.attach(plain, tmp_path / "k.cam.onnx", layer="end", method=ALL, classes=2).path
    alone = onnxcam.attach(plain, tmp_path / "one.cam.onnx", layer="end", method=ALL).path
    chosen = np.array([[4, 1], [0, 2], [3, 0]])
    got = run(several, PICTURES, chosen)
    for k in range(2):
        for name, expected in run(alone, PICTURES, chosen[:, k]).items():
            if name.startswith("cam"):
                near(got[name][:, k], expected, name)


def test_a_weighting_of_the_output_is_explained_at_the_picture(plain, tmp_path):
    path = onnxcam.attach(plain, tmp_path / "x.cam.onnx", method=OF_THE_PICTURE, score="weights").path
    weights = np.random.default_rng(7).standard_normal((3, 5)).astype(np.float32)
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = ["cam", "cam.guided-backprop"]
    got = dict(zip(names, session.run(names, {"image": PICTURES, "score_weights": weights}), strict=True))
    weighted = lambda y: (y * torch.from_numpy(weights)).sum(1)  # noqa: E731
    near(got["cam"], strongest(by_torch("gradient", weighted)))
    near(got["cam.guided-backprop"], strongest(by_torch("guided", weighted)))


def test_gradients_of_layers_are_bitwise_what_they_are_without_the_picture(plain, tmp_path):
    found = []
    for names in (["gradcam"], ["gradcam", "guided-gradcam", "deconvolution"]):
        path = onnxcam.attach(plain, tmp_path / f"{len(names)}.cam.onnx", layer="end", method=names).path
        found.append(run(path, PICTURES, CLASSES))
    for name in found[0]:
        np.testing.assert_array_equal(found[0][name], found[1][name])


@pytest.mark.parametrize("resize", ["letterbox", "crop"])
def test_the_map_is_chosen_and_lies_on_the_picture_when_the_file_runs(plain, tmp_path, resize):
    path = tmp_path / "x.cam.onnx"
    preprocess = onnxcam.Preprocess(height=28, width=20, resize=resize)
    onnxcam.attach(plain, path, method=["gradcam", "saliency"], layer=["end", "act6"], preprocess=preprocess)
    with onnxcam.load(path) as cam:
        picture = np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8)
        ex = cam.explain(picture, method="saliency")
        assert (ex.method, ex.layer, ex.cam.shape) == ("saliency", "image", (28, 20))
        assert sorted(ex.cams) == ["gradcam", "saliency"]
        scaled = (ex.cam / ex.peak).clip(0, 1)
        if resize == "letterbox":  # 80 columns become 20, and 60 rows become 15 of 28, from row 6 on
            np.testing.assert_allclose(ex.heatmap[2:-2], cv2.resize(scaled[6:21], (80, 60))[2:-2], atol=1e-5)
        else:  # 60 rows become 28, and 43 of 80 columns become 20, from column 18 on
            np.testing.assert_allclose(ex.heatmap[:, 18:61], cv2.resize(scaled, (43, 60)), atol=1e-5)
            assert not ex.heatmap[:, :18].any()
            assert not ex.heatmap[:, 61:].any()
        assert cam.explain(picture).layer == "end"
        with pytest.raises(LayerError, match=r"map by 'saliency' in .* is of the picture: leave the layer out"):
            cam.explain(picture, method="saliency", layer="act6")


NHWC = """net (float[N,9,7,3] image) => (float[N,5] y) {
  c = Transpose <perm=[0,3,1,2]> (image)
  a = Conv <pads=[1,1,1,1]> (c, w)
  h = Relu (a)
  m = ReduceMean <keepdims=0> (h, axes)
  y = MatMul (m, fc)
}"""


def test_the_pictures_layout_makes_no_difference(tmp_path):
    weights = {"w": (4, 3, 3, 3), "fc": (4, 5), "axes": [2, 3]}
    last = save(tmp_path / "last.onnx", model(NHWC, **weights))
    text = NHWC.replace("N,9,7,3", "N,3,9,7").replace("c = Transpose <perm=[0,3,1,2]> (image)", "c = Identity (image)")
    second = save(tmp_path / "second.onnx", model(text, **weights))
    picture = np.random.default_rng(0).standard_normal((2, 3, 9, 7)).astype(np.float32)
    found = []
    for path, x in ((second, picture), (last, picture.transpose(0, 2, 3, 1))):
        found.append(maps(onnxcam.attach(path, method=OF_THE_PICTURE).path, x, [1, 4]))
    for name in OF_THE_PICTURE:
        assert found[1][name].shape == (2, 9, 7)
        np.testing.assert_allclose(found[1][name], found[0][name], atol=1e-6)


def test_a_grey_picture_beside_another_input_has_a_map(tmp_path):
    text = """net (float[N,1,9,7] image, float[N,4] age) => (float[N,5] y) {
      a = Conv (image, w)
      h = Relu (a)
      m = ReduceMean <keepdims=0> (h, axes)
      s = Add (m, age)
      y = MatMul (s, fc)
    }"""
    path = save(tmp_path / "m.onnx", model(text, w=(4, 1, 3, 3), fc=(4, 5), axes=[2, 3]))
    report = onnxcam.attach(path, method=ALL)
    picture = np.random.default_rng(0).standard_normal((2, 1, 9, 7)).astype(np.float32)
    got = maps(report.path, picture, [1, 4], age=np.ones((2, 4), np.float32))
    assert {x.shape for x in got.values()} == {(2, 9, 7)}
    assert report.info.layers[0].name == "h"


def test_open_height_and_width_are_those_of_the_picture(tmp_path):
    net = cnn()
    for axis, name in ((2, "height"), (3, "width")):
        net.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = name
    path = onnxcam.attach(save(tmp_path / "m.onnx", net), method=["gradcam", "guided-gradcam", "saliency"]).path
    picture = np.random.default_rng(0).standard_normal((2, 3, 17, 24)).astype(np.float32)
    assert {name: x.shape for name, x in maps(path, picture, [0, 3]).items()} == {
        "gradcam": (2, 9, 12), "guided-gradcam": (2, 17, 24), "saliency": (2, 17, 24)
    }  # fmt: skip


LINEAR = """net (float[N,3,6,6] image) => (float[N,5] y) {
  a = Conv (image, w)
  h = Tanh (a)
  m = ReduceMean <keepdims=0> (h, axes)
  y = MatMul (m, fc)
}"""
UINT8 = """net (uint8[N,3,6,6] image) => (float[N,5] y) {
  f = Cast <to=1> (image)
  a = Conv (f, w)
  h = Relu (a)
  m = ReduceMean <keepdims=0> (h, axes)
  y = MatMul (m, fc)
}"""
FLAT = """net (float[N,36] image) => (float[N,5] y) {
  r = Reshape (image, shape)
  a = Conv (r, w)
  h = Relu (a)
  m = ReduceMean <keepdims=0> (h, axes)
  y = MatMul (m, fc)
}"""


@pytest.mark.parametrize(
    ("text", "how", "error", "message"),
    [
        (LINEAR, {"method": "guided-backprop"}, MethodError, "'guided-backprop' is made by .* none on the way"),
        (LINEAR, {"method": "guided-gradcam"}, MethodError, "take 'saliency', which is what it would be"),
        (UINT8, {"method": "saliency"}, LayerError, "goes into 'image' as uint8, of which there is no gradient"),
        (UINT8, {"method": ["gradcam", "guided-gradcam"]}, LayerError, "as uint8, of which there is no gradient"),
        (FLAT, {"method": "saliency"}, LayerError, r"'image' as \[N, 36\], in which no height and width"),
        (LINEAR, {"method": "saliency", "layer": ["a", "h"], "fuse": "max"}, MethodError, "no layer to fuse"),
        (LINEAR, {"method": "saliency", "eigen_smooth": True}, MethodError, "'saliency' is of the picture, not of a"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_written(tmp_path, text, how, error, message):
    weights = {"w": (4, 1 if text is FLAT else 3, 3, 3), "fc": (4, 5), "axes": [2, 3]}
    more = {"shape": [-1, 1, 6, 6]} if text is FLAT else {}
    path = save(tmp_path / "m.onnx", model(text, **weights, **more))
    with pytest.raises(error, match=message):
        onnxcam.attach(path, **how)
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]
