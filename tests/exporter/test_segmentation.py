"""The score of a class in a segmentation, over where it is predicted or over what the user marks."""

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
from onnxcam.cli import main
from onnxcam.errors import ClassError, ExportError, InputError, MethodError

from .graphs import model, save
from .networks import torchscript

RNG = np.random.default_rng(2)
PICTURES = RNG.standard_normal((3, 3, 24, 16)).astype(np.float32)


class Net(nn.Module):
    """A small FCN: scores at an eighth of the size, enlarged bilinearly; ``last`` behind."""

    def __init__(self, last: nn.Module | None = None, classes: int = 4) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Sequential(nn.Conv2d(3, 5, 3, 2, 1), nn.GELU())
        self.block = nn.Sequential(nn.Conv2d(5, 6, 3, 2, 1), nn.GELU())
        self.top = nn.Conv2d(6, classes, 1)
        nn.init.normal_(self.top.weight)
        self.last = last or nn.Identity()

    def dense(self, A: torch.Tensor) -> torch.Tensor:
        return nn.functional.interpolate(self.top(A), scale_factor=2.0, mode="bilinear", align_corners=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.dense(self.block(self.stem(x))))


def run(path, pictures=PICTURES, **more) -> dict[str, np.ndarray]:
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"image": pictures} | more), strict=True))


def attach(tmp_path, net: nn.Module, **how):
    path = torchscript(net.eval(), tmp_path / "m.onnx", opset=18, size=(24, 16))
    return onnxcam.attach(path, tmp_path / "m.cam.onnx", **({"layer": "block", "score": "segmentation"} | how))


def expected(net: Net, weights) -> tuple[np.ndarray, np.ndarray]:
    """Gradient and Grad-CAM of Σ weights(scores) · scores, the weights held."""
    A = net.block(net.stem(torch.from_numpy(PICTURES))).detach().requires_grad_()
    y = net.dense(A)
    (g,) = torch.autograd.grad((y * weights(y.detach())).sum(), A)
    cam = torch.relu((g.mean((2, 3), keepdim=True) * A).sum(1))
    return g.numpy(), cam.detach().numpy()


def own_mask(classes):
    """1 where the class of each image is predicted, at that class."""

    def weights(y: torch.Tensor) -> torch.Tensor:
        hot = nn.functional.one_hot(torch.tensor(classes), y.shape[1])[:, :, None, None]
        return hot * (y.argmax(1, keepdim=True) == torch.tensor(classes)[:, None, None, None])

    return weights


def by_pixels(logits: np.ndarray) -> list[list[int]]:
    """The classes of each image by how many pixels each is predicted in."""
    counts = np.stack([np.bincount(row.argmax(0).ravel(), minlength=len(row)) for row in logits])
    return np.argsort(-counts, axis=1, kind="stable").tolist()


@pytest.mark.parametrize("last", [None, nn.Softmax(1), nn.Sigmoid()])
def test_a_class_is_explained_where_it_is_predicted(tmp_path, last):
    net = Net(last).eval()
    report = attach(tmp_path, net)
    got = run(report.path)
    top = [row[0] for row in by_pixels(got["logits"])]
    assert got["explained_class"].tolist() == top
    g, cam = expected(net, own_mask(top))
    np.testing.assert_allclose(got["gradients"], g, atol=1e-5)
    np.testing.assert_allclose(got["cam"], cam, atol=1e-5)
    classes = [by_pixels(got["logits"])[0][1], 2, 0]
    mixed = run(report.path, class_index=np.array([-2, 2, 0]))
    assert mixed["explained_class"].tolist() == classes
    np.testing.assert_allclose(mixed["cam"], expected(net, own_mask(classes))[1], atol=1e-5)
    for i in range(3):
        alone = run(report.path, PICTURES[i : i + 1], class_index=np.array([classes[i]]))
        np.testing.assert_allclose(alone["cam"][0], mixed["cam"][i], atol=1e-5)
    assert report.info.score.kind == "segmentation"
    assert onnxcam.verify(report.path).passed


def test_a_region_takes_the_place_of_the_mask(tmp_path):
    net = Net().eval()
    path = attach(tmp_path, net).path
    regions = RNG.uniform(0, 1, (3, 12, 8)).astype(np.float32)
    classes = [1, 2, 0]
    hot = nn.functional.one_hot(torch.tensor(classes), 4)[:, :, None, None]
    got = run(path, class_index=np.array(classes), score_region=regions)
    np.testing.assert_allclose(
        got["cam"], expected(net, lambda y: hot * torch.from_numpy(regions)[:, None])[1], atol=1e-5
    )
    whole = run(path, class_index=np.array(classes), score_region=np.ones((1, 1, 1), np.float32))
    np.testing.assert_allclose(whole["cam"], expected(net, lambda y: hot * torch.ones_like(y))[1], atol=1e-5)


def test_the_golden_segmentation(tmp_path):
    """Two pixels with the scores (3, 1) and (2, 5): class 0 is predicted in the first, class 1 in the second.

    The map A is the scores, so dy/dA is 1 at class 0 of the first pixel, its mean over both pixels is 1/2, and Grad-CAM
    is ReLU(1/2 · (3, 1)) = (1.5, 0.5). With both classes equally large, the first index is the top one.
    """
    text = "g (float[N,2,1,2] image) => (float[N,2,1,2] out) { a = Identity (image)  out = Identity (a) }"
    path = save(tmp_path / "m.onnx", model(text))
    artifact = onnxcam.attach(path, tmp_path / "m.cam.onnx", layer="a", score="segmentation").path
    got = run(artifact, np.float32([[[[3, 1]], [[2, 5]]]]))
    assert got["explained_class"].tolist() == [0]
    assert got["gradients"].tolist() == [[[[1, 0]], [[0, 0]]]]
    assert got["cam"].tolist() == [[[1.5, 0.5]]]


def test_several_classes_contrasts_and_counterfactuals(tmp_path):
    net = Net().eval()
    got = run(attach(tmp_path, net, classes=2).path, class_index=np.array([[0, 1]]))
    for k in range(2):
        np.testing.assert_allclose(got["cam"][:, k], expected(net, own_mask([k] * 3))[1], atol=1e-5)
    against = run(
        attach(tmp_path, net, explain="contrast").path, class_index=np.array([1]), against_index=np.array([3])
    )

    def apart(y):
        mask = (y.argmax(1, keepdim=True) == 1).float()
        return mask * torch.tensor([0.0, 1.0, 0.0, -1.0])[None, :, None, None]

    np.testing.assert_allclose(against["cam"], expected(net, apart)[1], atol=1e-5)
    less = run(attach(tmp_path, net, explain="counterfactual").path, class_index=np.array([1]))
    np.testing.assert_allclose(less["cam"], expected(net, lambda y: -own_mask([1] * 3)(y))[1], atol=1e-5)


def test_a_class_predicted_nowhere_gives_an_empty_map(tmp_path):
    path = attach(tmp_path, Net().eval()).path
    logits = run(path)["logits"]
    nowhere = [[k for k in range(4) if not (row.argmax(0) == k).any()] for row in logits]
    image = next(i for i, absent in enumerate(nowhere) if absent)
    got = run(path, PICTURES[image : image + 1], class_index=np.array(nowhere[image][:1]))
    assert not got["cam"].any()


def test_of_one_class_alone_the_mask_is_where_it_is_likely(tmp_path):
    net = Net(nn.Sigmoid(), classes=1).eval()
    got = run(attach(tmp_path, net).path)
    np.testing.assert_allclose(got["cam"], expected(net, lambda y: (y > 0).float())[1], atol=1e-5)
    assert onnxcam.verify(tmp_path / "m.cam.onnx").passed


def test_an_export_is_compared_with_torch(tmp_path):
    net = Net(nn.Softmax(1)).eval()
    example = torch.from_numpy(PICTURES)
    report = onnxcam.export(net, example, tmp_path / "m.cam.onnx", layer="block", score="segmentation")
    assert max(report.errors.values()) < 1e-4
    assert onnxcam.verify(report.path, model=net).passed


def test_another_output_is_refused(tmp_path):
    from .networks import Plain

    path = torchscript(Plain(), tmp_path / "m.onnx", opset=18)
    with pytest.raises(ExportError, match=r"a segmentation's is \[N, classes, H, W\]"):
        onnxcam.attach(path, tmp_path / "x.cam.onnx", score="segmentation")


class Bright(nn.Module):
    """Class 1 where the picture is bright, 0 elsewhere: a segmentation whose answer one can see."""

    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Sequential(nn.AvgPool2d(2), nn.Identity())
        self.top = nn.Conv2d(3, 2, 1)
        with torch.no_grad():
            self.top.weight.copy_(torch.tensor([[-1.0] * 3, [1.0] * 3])[:, :, None, None] / 3)
            self.top.bias.copy_(torch.tensor([0.5, -0.5]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.top(self.map(x))


@pytest.fixture
def bright(tmp_path):
    def make(resize: str = "stretch", method: str = "gradcam"):
        plain = torchscript(Bright().eval(), tmp_path / "b.onnx", opset=18, size=(40, 40))
        preprocess = onnxcam.Preprocess(height=40, width=40, resize=resize, mean=(0.0,) * 3, std=(1.0,) * 3, fill=0)
        path = tmp_path / "b.cam.onnx"
        how = {"score": "segmentation", "labels": ["dark", "bright"], "layer": "map", "method": method}
        onnxcam.attach(plain, path, preprocess=preprocess, **how)
        return path

    return make


def picture(height: int = 40, width: int = 80) -> np.ndarray:
    """Dark, with a bright rectangle: columns 40-59, rows 8-23."""
    image = np.full((height, width, 3), 20, np.uint8)
    image[8:24, 40:60] = 235
    return image


@pytest.mark.parametrize("resize", ["stretch", "crop", "letterbox"])
def test_regions_lie_where_they_were_marked(bright, resize):
    mask = np.zeros((40, 80), bool)
    mask[8:24, 40:60] = True
    with onnxcam.load(bright(resize)) as cam:
        own = cam.explain(picture(), class_index="bright")
        assert own.score > 0.5
        marked = cam.explain(picture(), class_index="bright", mask=mask)
        boxed = cam.explain(picture(), class_index="bright", box=(40, 8, 20, 16))
        np.testing.assert_allclose(boxed.region, marked.region, atol=0.1)
        np.testing.assert_array_equal(own.region > 0.5, boxed.region > 0.5)
        assert boxed.score == pytest.approx(own.score, abs=0.05)
        assert boxed.region.sum() == pytest.approx(own.region.sum(), rel=0.3)
        dark = cam.explain(picture(), class_index="bright", point=(39, 30))
        assert dark.score < 0.4
        assert dark.region.sum() == 1
        lit = cam.explain(picture(), class_index="bright", point=(50, 15))
        assert lit.score == pytest.approx(float(own.scores[1]), abs=0.05)
        row, column = np.argwhere(lit.region)[0]
        assert own.region[row, column] == 1
        heat = boxed.heatmap
        assert heat[8:24, 40:60].mean() > 4 * heat[30:].mean()


def test_what_is_not_in_the_picture_is_refused(bright):
    mask = np.zeros((40, 80), bool)
    with onnxcam.load(bright("crop")) as cam:
        for asked, message in (
            ({"box": (70, 0, 20, 10)}, r"the box 70,0,20,10 lies outside the picture: the picture is 80×40"),
            ({"box": (-1, 0, 20, 10)}, "outside the picture"),
            ({"box": (3, 3, 0, 10)}, "has no extent"),
            ({"box": (3, 3, 1)}, "x, y, width and height"),
            ({"point": (80, 0)}, "the point 80,0 lies outside the picture"),
            ({"point": (1, 2, 3)}, "a point is x and y"),
            ({"mask": mask}, "the mask is empty: mark at least one pixel"),
            ({"mask": mask[:3]}, r"the mask has the shape \[3, 80\], and the picture is 40×80"),
            ({"box": (0, 0, 10, 10)}, r"lies where the model does not look: .* columns 20 to 59 and rows 0 to 39"),
            ({"point": (3, 3)}, "where the model does not look"),
            ({"box": (1, 1, 2, 2), "point": (30, 3)}, "box and point were given at once"),
        ):
            with pytest.raises(InputError, match=message):
                cam.explain(picture(), **asked)
        with pytest.raises(ClassError, match="did you mean 'bright'"):
            cam.explain(picture(), class_index="brigt")
        both = cam.explain([picture(), picture()[:, ::-1].copy()], class_index="bright", box=(40, 8, 20, 16))
        assert both[0].score > 0.5 > both[1].score
    with onnxcam.load() as cam, pytest.raises(InputError, match="takes no box: make it with --score segmentation"):
        cam.explain(picture(), box=(1, 1, 2, 2))


def test_a_region_lies_elsewhere_in_a_view(bright):
    image = np.random.default_rng(0).integers(0, 255, (40, 80, 3)).astype(np.uint8)
    mirrored = image[:, ::-1].copy()
    with onnxcam.load(bright("stretch", method="hirescam")) as cam:
        how = {"class_index": "bright", "augment": ["flip"]}
        for here, there in (
            ({"box": (4, 8, 20, 16)}, {"box": (56, 8, 20, 16)}),
            ({"point": (6, 30)}, {"point": (73, 30)}),
            ({}, {}),
        ):
            plain = cam.explain(image, class_index="bright", **here)
            other = cam.explain(mirrored, class_index="bright", **there)
            got = cam.explain(image, **how, **here)
            np.testing.assert_allclose(got.cam, (plain.cam + other.cam[:, ::-1]) / 2, atol=1e-6)
            assert plain.cam.max() > 0
            np.testing.assert_array_equal(got.region, plain.region)
        scaled = cam.explain(image, class_index="bright", augment=["scale"], box=(4, 8, 20, 16)).heatmap
        assert scaled[:, 40:].max() == 0


def test_weights_of_places_are_refused_in_a_view(bright):
    path = bright()
    onnxcam.attach(path, replace=True, score="weights", layer="map")
    with onnxcam.load(path) as cam:
        weights = np.ones((2, 20, 20), np.float32)
        with pytest.raises(InputError, match="weigh others in a picture that is flipped or scaled"):
            cam.explain(picture(), score_weights=weights, augment=["scale"])
        assert cam.explain(picture(), score_weights=weights, augment=["intensity"]).cam.shape == (20, 20)


def test_methods_that_change_pictures_are_refused(bright):
    with onnxcam.load(bright()) as cam, pytest.raises(MethodError, match="kind of score 'segmentation': take a method"):
        cam.explain(picture(), method="rise")


def test_on_the_command_line(bright, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = str(bright())
    cv2.imwrite("a.png", picture())
    mask = np.zeros((40, 80), np.uint8)
    mask[8:24, 40:60] = 255
    cv2.imwrite("mask.png", mask)

    def call(*more: str):
        return CliRunner().invoke(main, ["image", path, "a.png", "--overwrite", *more])

    found = {}
    for asked in ((), ("--box", "40,8,20,16"), ("--point", "50,15"), ("--mask", "mask.png")):
        result = call("--class", "bright", "--json", "--no-caption", "--alpha", "0", *asked)
        found[asked] = json.loads(result.stdout)["score"]
        drawn = cv2.imread("a_cam.png")
        changed = (drawn != picture()).any(2)
        assert changed.any(), "the outline"
        assert not changed[32:].any()
        assert not changed[:, :34].any()
    assert max(found.values()) - min(found.values()) < 0.05
    assert "outside the picture" in call("--box", "70,1,40,3").stderr
    assert call("--box", "a,b").exit_code == 2
    shown = CliRunner().invoke(main, ["inspect", path]).stdout
    assert "segmentation, 2 classes" in shown


def test_an_open_size_is_found_by_running(tmp_path):
    plain = torchscript(
        Bright().eval(), tmp_path / "b.onnx", opset=18, size=(20, 20),
        dynamic_axes={"image": {0: "N", 2: "H", 3: "W"}, "logits": {0: "N", 2: "h", 3: "w"}},
    )  # fmt: skip
    preprocess = onnxcam.Preprocess(height=20, width=20, resize="stretch", mean=(0.0,) * 3, std=(1.0,) * 3)
    path = onnxcam.attach(plain, tmp_path / "b.cam.onnx", score="segmentation", preprocess=preprocess, layer="map").path
    with onnxcam.load(path) as cam:
        ex = cam.explain(picture(), class_index=1, box=(40, 8, 20, 16))
    assert ex.region.shape == (10, 10)
    assert ex.score > 0.5


def test_the_classes_own_map_is_no_default(tmp_path):
    """It would explain each class by itself."""
    path = torchscript(Net().eval(), tmp_path / "m.onnx", opset=18)
    found = onnxcam.attach(path, score="segmentation").info.layers[0]
    assert (found.module, found.shape) == ("block", (None, 6, 5, 3))
