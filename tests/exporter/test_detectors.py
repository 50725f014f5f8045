"""The score of a class at a detector's boxes, in each form that detectors give them."""

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
from onnxcam import BoxInfo
from onnxcam.cli import main
from onnxcam.errors import ExportError, InputError
from onnxcam.exporter.files import read_model
from onnxcam.runtime.detections import distinct

from ..runtime.clips import pictures, write_clip  # noqa: TID252 tests are no package
from .networks import Plain, dynamo, torchscript

RNG = np.random.default_rng(2)
PICTURES = RNG.standard_normal((3, 3, 24, 16)).astype(np.float32)
CLASSES = 5


class Detector(nn.Module):
    """A box for each place of two maps, as YOLO has them; ``form`` says how they are given.

    yolo: [N, 4 + C, boxes]; transposed: [N, boxes, 4 + C]; objectness: [N, boxes, 5 + C]; turned: [N, boxes, 4 + C]
    of parts that lie so already; weighed: as yolo, of classes times objectness.
    """

    def __init__(self, form: str = "yolo") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.form = form
        self.stem = nn.Sequential(nn.Conv2d(3, 5, 3, 2, 1), nn.GELU())
        self.block = nn.Sequential(nn.Conv2d(5, 6, 3, 2, 1), nn.GELU())
        self.down = nn.Conv2d(6, 6, 3, 2, 1)
        self.sides, self.score = nn.Conv2d(6, 4, 1), nn.Conv2d(6, CLASSES, 1)
        self.any = nn.Conv2d(6, 1, 1)
        nn.init.normal_(self.score.weight)

    def raw(self, A: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        maps = (A, self.down(A))
        return tuple(torch.cat([f(x).flatten(2) for x in maps], 2) for f in (self.sides, self.score, self.any))

    def answer(self, A: torch.Tensor):
        sides, score, objectness = self.raw(A)
        if self.form == "objectness":
            return torch.cat([sides.sigmoid() * 10, objectness.sigmoid(), score.sigmoid()], 1).transpose(1, 2)
        if self.form == "turned":
            return torch.cat([sides.sigmoid().transpose(1, 2) * 10, score.transpose(1, 2).sigmoid()], 2)
        likely = score.sigmoid() * objectness.sigmoid() if self.form == "weighed" else score.sigmoid()
        y = torch.cat([sides.sigmoid() * 10, likely], 1)
        return y.transpose(1, 2) if self.form == "transposed" else y

    def forward(self, x: torch.Tensor):
        return self.answer(self.block(self.stem(x)))


class Queries(nn.Module):
    """As DETR: a few queries look at the map; logits [N, 7, C + 1], with ``last`` behind, and boxes [N, 7, 4]."""

    def __init__(self, last: str = "", background: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Sequential(nn.Conv2d(3, 5, 3, 2, 1), nn.GELU())
        self.block = nn.Sequential(nn.Conv2d(5, 6, 3, 2, 1), nn.GELU())
        self.queries = nn.Parameter(torch.randn(7, 6))
        self.score, self.sides = nn.Linear(6, CLASSES + background), nn.Linear(6, 4)
        nn.init.normal_(self.score.weight, std=2)
        self.last = last

    def raw(self, A: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        tokens = A.flatten(2).transpose(1, 2)
        seen = (self.queries @ tokens.transpose(1, 2)).softmax(-1) @ tokens
        return self.score(seen), self.sides(seen).sigmoid()

    def forward(self, x: torch.Tensor):
        logits, boxes = self.raw(self.block(self.stem(x)))
        return {"": logits, "softmax": logits.softmax(-1), "sigmoid": logits.sigmoid()}[self.last], boxes


def run(path, pictures=PICTURES, **more) -> dict[str, np.ndarray]:
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"image": pictures} | more), strict=True))


def attach(tmp_path, net: nn.Module, info: BoxInfo | None = None, **how):
    if isinstance(net, Detector):
        path = dynamo(net.eval(), tmp_path / "m.onnx", size=(24, 16))
    else:
        names = ["logits", "boxes"]
        path = torchscript(net.eval(), tmp_path / "m.onnx", opset=18, size=(24, 16), output_names=names)
    return onnxcam.attach(path, tmp_path / "m.cam.onnx", **({"layer": "block", "score": "boxes", "boxes": info} | how))


def expected(net: nn.Module, y) -> tuple[np.ndarray, np.ndarray]:
    """Gradient and Grad-CAM of the numbers ``y(map)``."""
    A = net.block(net.stem(torch.from_numpy(PICTURES))).detach().requires_grad_()
    (g,) = torch.autograd.grad(y(A).sum(), A)
    return g.numpy(), torch.relu((g.mean((2, 3), keepdim=True) * A).sum(1)).detach().numpy()


def likelihoods(net: Detector) -> np.ndarray:
    """How likely each class is at each box, [N, C, boxes]."""
    _, score, objectness = net.raw(net.block(net.stem(torch.from_numpy(PICTURES))))
    found = score.sigmoid() * (objectness.sigmoid() if net.form in ("objectness", "weighed") else 1)
    return found.detach().numpy()


def class_scores(net: Detector, A: torch.Tensor) -> torch.Tensor:
    """[N, C, boxes] before the sigmoid; where more than that makes probabilities of them, these."""
    _, score, objectness = net.raw(A)
    return score.sigmoid() * objectness.sigmoid() if net.form == "weighed" else score


def at(net: Detector, classes, boxes):
    """The class score at one box of each image."""
    return lambda A: class_scores(net, A)[torch.arange(3), torch.tensor(classes), torch.tensor(boxes)]


FORMS = ["yolo", "transposed", "objectness", "turned", "weighed"]


@pytest.mark.parametrize("form", FORMS)
def test_a_class_is_explained_at_its_likeliest_box(tmp_path, form):
    net = Detector(form).eval()
    report = attach(tmp_path, net, BoxInfo(objectness=form == "objectness"))
    info = report.info.score
    assert (info.kind, info.classes, info.boxes.axis) == ("boxes", CLASSES, 1 if form in ("yolo", "weighed") else 2)
    assert report.info.extra.get("stepped_over") == (None if form == "weighed" else "Sigmoid")
    got, likely = run(report.path), likelihoods(net)
    classes = likely.max(2).argmax(1).tolist()
    boxes = [int(likely[i, c].argmax()) for i, c in enumerate(classes)]
    assert got["explained_class"].tolist() == classes
    assert [np.flatnonzero(row).tolist() for row in got["explained_boxes"]] == [[b] for b in boxes]
    g, cam = expected(net, at(net, classes, boxes))
    np.testing.assert_allclose(got["gradients"], g, atol=1e-5)
    np.testing.assert_allclose(got["cam"], cam, atol=1e-5)
    second = run(report.path, class_index=np.array([-2, 3, 0]), box_index=np.array([-2, 1, -1]))
    classes = [int(np.argsort(-likely.max(2)[0])[1]), 3, 0]
    boxes = [int(np.argsort(-likely[0, classes[0]])[1]), 1, int(likely[2, 0].argmax())]
    assert second["explained_class"].tolist() == classes
    np.testing.assert_allclose(second["cam"], expected(net, at(net, classes, boxes))[1], atol=1e-5)
    for i in range(3):
        one = {"class_index": np.array(classes[i : i + 1]), "box_index": np.array(boxes[i : i + 1])}
        np.testing.assert_allclose(run(report.path, PICTURES[i : i + 1], **one)["cam"][0], second["cam"][i], atol=1e-5)
    assert onnxcam.verify(report.path).passed


@pytest.mark.parametrize("form", FORMS)
def test_all_likely_boxes_of_a_class_are_explained_together(tmp_path, form):
    net = Detector(form).eval()
    path = attach(tmp_path, net, BoxInfo(every=True, objectness=form == "objectness")).path
    likely = likelihoods(net)
    for threshold in (None, 0.5):
        more = {} if threshold is None else {"box_threshold": np.float32([threshold])}
        got = run(path, class_index=np.array([2, 0, 1]), **more)
        marked = likely[range(3), [2, 0, 1]] > (threshold or 0.25)
        assert (got["explained_boxes"] == marked).all()
        weights = torch.from_numpy(marked.astype(np.float32))
        wanted = expected(net, lambda A, w=weights: (class_scores(net, A)[torch.arange(3), [2, 0, 1]] * w).sum(1))
        np.testing.assert_allclose(got["cam"], wanted[1], atol=1e-5)
    assert onnxcam.verify(path).passed


@pytest.mark.parametrize(("last", "background"), [("", True), ("softmax", True), ("", False), ("sigmoid", False)])
def test_detr_is_explained_before_its_softmax(tmp_path, last, background):
    net = Queries(last, background).eval()
    report = attach(tmp_path, net, BoxInfo(background=background))
    assert (report.info.score.classes, report.info.score.boxes.output) == (CLASSES, "boxes")
    assert report.info.extra.get("stepped_over") == (last.capitalize() or None)
    logits = net.raw(net.block(net.stem(torch.from_numpy(PICTURES))))[0]
    likely = (logits.softmax(-1) if background else logits.sigmoid())[..., :CLASSES].detach().numpy()
    classes = likely.max(1).argmax(1)
    boxes = likely[range(3), :, classes].argmax(1)
    got = run(report.path)
    assert got["explained_class"].tolist() == classes.tolist()
    assert got["explained_boxes"].argmax(1).tolist() == boxes.tolist()
    g, cam = expected(net, lambda A: net.raw(A)[0][torch.arange(3), torch.tensor(boxes), torch.tensor(classes)])
    np.testing.assert_allclose(got["gradients"], g, atol=1e-5)
    np.testing.assert_allclose(got["cam"], cam, atol=1e-5)
    assert onnxcam.verify(report.path).passed


def test_several_classes_and_contrasts(tmp_path):
    net = Detector().eval()
    likely = likelihoods(net)
    got = run(attach(tmp_path, net, classes=2).path, class_index=np.array([[0, 3]]))
    for k, c in enumerate((0, 3)):
        boxes = likely[:, c].argmax(1)
        np.testing.assert_allclose(got["cam"][:, k], expected(net, at(net, [c] * 3, boxes))[1], atol=1e-5)
    path = attach(tmp_path, net, explain="contrast").path
    apart = run(path, class_index=np.array([0]), against_index=np.array([3]))
    boxes = likely[:, 0].argmax(1)
    wanted = expected(net, lambda A: at(net, [0] * 3, boxes)(A) - at(net, [3] * 3, boxes)(A))
    np.testing.assert_allclose(apart["cam"], wanted[1], atol=1e-5)
    others = run(path, class_index=np.array([0]))["against_class"]
    assert others.tolist() == [1 + int(likely[i, 1:, b].argmax()) for i, b in enumerate(boxes)]


@pytest.mark.parametrize(
    ("net", "info"),
    [
        *((Detector(form), None) for form in ("transposed", "weighed")),
        (Detector(), BoxInfo(every=True)),
        (Queries(), BoxInfo(background=True)),
    ],
    ids=["transposed", "weighed", "all", "detr"],
)
def test_an_export_is_compared_with_torch(tmp_path, net, info):
    path = tmp_path / "m.cam.onnx"
    output = "output_0" if isinstance(net, Queries) else None
    how = {"layer": "block", "score": "boxes", "boxes": info, "output": output}
    report = onnxcam.export(net.eval(), torch.from_numpy(PICTURES), path, **how)
    assert max(report.errors.values()) < 1e-4
    assert onnxcam.verify(path, model=net).passed


def test_a_detector_that_torch_joins_otherwise_is_refused(tmp_path):
    class Once(Detector):
        def answer(self, A: torch.Tensor):
            return super().answer(A) * 1  # the graph does without

    how = {"layer": "block", "score": "boxes"}
    with pytest.raises(ExportError, match=r"export it with torch.onnx and take onnxcam.attach"):
        onnxcam.export(Once().eval(), torch.from_numpy(PICTURES), tmp_path / "m.cam.onnx", **how)


def test_a_renewed_detector_leaves_nothing_behind(tmp_path):
    path = attach(tmp_path, Queries().eval(), BoxInfo(every=True, background=True)).path
    onnxcam.attach(path, layer="block", replace=True, score="boxes")
    graph = read_model(path).graph
    assert [x.name for x in graph.inputs] == ["image", "class_index", "box_index"]
    assert [y.name for y in graph.outputs] == [
        *("logits", "boxes", "cam", "activations", "gradients", "explained_class", "explained_boxes"),
    ]


def test_what_is_no_detector_is_refused(tmp_path):
    path = torchscript(Plain(), tmp_path / "m.onnx", opset=18)
    with pytest.raises(ExportError, match=r"a detector's output is .* the outputs here are 'logits' \[N, 5\]"):
        onnxcam.attach(path, tmp_path / "x.cam.onnx", score="boxes")
    with pytest.raises(ExportError, match="6 classes of each image cannot be explained: the model has 5"):
        attach(tmp_path, Detector().eval(), classes=6)


def test_boxes_that_were_chosen_already_are_refused(tmp_path):
    class Chosen(Detector):
        def answer(self, A: torch.Tensor):
            sides, score, _ = self.raw(A)
            best, number = score.sigmoid().max(1, keepdim=True)
            return torch.cat([sides, best, number.to(sides.dtype)], 1).transpose(1, 2)

    with pytest.raises(ExportError, match=r"the number of its class for each box, .* without the choice of boxes"):
        attach(tmp_path, Chosen().eval())


class Spots(nn.Module):
    """A box of 8×8 pixels at each place of a grid of 5×5, of class 1 as far as it is bright: [N, 4 + 2, 25]."""

    def __init__(self, relative: bool = False, corners: bool = False) -> None:
        super().__init__()
        self.map = nn.Sequential(nn.AvgPool2d(8), nn.Identity())
        self.score = nn.Conv2d(3, 2, 1)
        centre = torch.arange(5) * 8 + 4.0
        y, x = torch.meshgrid(centre, centre, indexing="ij")
        half = torch.full((25,), 4.0)
        rows = [x.flatten() - half, y.flatten() - half, x.flatten() + half, y.flatten() + half]
        sides = torch.stack(rows if corners else [x.flatten(), y.flatten(), 2 * half, 2 * half])
        self.sides = nn.Parameter(sides / (40 if relative else 1))
        with torch.no_grad():
            self.score.weight.copy_(torch.tensor([[-6.0] * 3, [6.0] * 3])[:, :, None, None] / 3)
            self.score.bias.copy_(torch.tensor([3.0, -3.0]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        score = self.score(self.map(x)).flatten(2).sigmoid()
        return torch.cat([self.sides.expand(len(x), -1, -1), score], 1)


@pytest.fixture
def spots(tmp_path):
    def make(info: BoxInfo, resize: str = "letterbox"):
        net = Spots(bool(info.relative), info.corners).eval()
        plain = dynamo(net, tmp_path / "s.onnx", size=(40, 40))
        path = tmp_path / "s.cam.onnx"
        preprocess = onnxcam.Preprocess(height=40, width=40, resize=resize, mean=(0.0,) * 3, std=(1.0,) * 3, fill=0)
        how = {"score": "boxes", "boxes": info, "layer": "map", "labels": ["dark", "bright"]}
        return onnxcam.attach(plain, path, preprocess=preprocess, **how).path

    return make


def picture() -> np.ndarray:
    """80×160, dark but for columns 32-63 of rows 24-55: in a letterbox of 40×40, columns 8-15 of rows 16-23."""
    image = np.full((80, 160, 3), 10, np.uint8)
    image[24:56, 32:64] = 240
    return image


@pytest.mark.parametrize(
    "info", [BoxInfo(), BoxInfo(relative=True), BoxInfo(corners=True), BoxInfo(corners=True, relative=True)]
)
def test_boxes_lie_in_the_picture(spots, info):
    with onnxcam.load(spots(info)) as cam:
        ex = cam.explain(picture(), class_index="bright")
        np.testing.assert_allclose(ex.boxes, [[32, 24, 64, 56]], atol=1e-3)
        assert ex.score == pytest.approx(float(ex.output[5, 11]))
        assert ex.score > 0.8
        assert ex.heatmap[24:56, 32:64].mean() > 3 * ex.heatmap[:, 100:].mean()
        other = cam.explain(picture(), class_index="bright", box_index=12)
        np.testing.assert_allclose(other.boxes, [[64, 24, 96, 56]], atol=1e-3)
        assert other.score < 0.2


def test_all_boxes_of_a_class(spots):
    image = picture()
    image[24:56, 128:160] = 240
    with onnxcam.load(spots(BoxInfo(every=True), "stretch")) as cam:
        lit = cam.explain(image, class_index="bright", box_threshold=0.6)
        assert len(lit.boxes) == 2
        assert lit.box_scores.max() == pytest.approx(lit.score)
        assert lit.box_captions == [f"{score:.0%}  bright" for score in lit.box_scores]
        none = cam.explain(np.zeros_like(image), class_index="bright")
        assert (none.boxes.shape, none.score, none.heatmap.max()) == ((0, 4), 0, 0)
        dark = cam.explain(np.zeros_like(image))
        assert len(dark.boxes) == 25
        for wrong in (float("nan"), -0.1, 25):
            with pytest.raises(InputError, match="it is a probability, 0 to 1"):
                cam.explain(image, box_threshold=wrong)
        with pytest.raises(InputError, match="does not explain one box of a detector: leave box_index out"):
            cam.explain(image, box_index=1)
    with onnxcam.load(spots(BoxInfo())) as cam:
        with pytest.raises(InputError, match="leave box_threshold out"):
            cam.explain(image, box_threshold=0.5)
        with pytest.raises(InputError, match=r"2 images and box_index is \[1, 2, 3\]"):
            cam.explain([image, image], box_index=[1, 2, 3])
        with pytest.raises(InputError, match="box 3 lies elsewhere in a picture that is flipped or scaled"):
            cam.explain(image, box_index=3, augment=["flip"])
        assert cam.explain(image, box_index=-1, augment=["flip"]).boxes.shape == (1, 4)
        assert cam.explain(image, box_index=3, augment=["intensity"]).boxes.shape == (1, 4)
        with pytest.raises(InputError, match="there is no box 25: the detector gives 25, 0 to 24"):
            cam.explain(image, box_index=25)


def test_how_many_boxes_there_are_is_found_by_running(tmp_path):
    open_axes = {"image": {0: "N", 2: "H", 3: "W"}, "logits": {0: "N", 2: "boxes"}}
    plain = torchscript(Detector().eval(), tmp_path / "m.onnx", opset=18, size=(24, 16), dynamic_axes=open_axes)
    preprocess = onnxcam.Preprocess(height=24, width=16, resize="stretch")
    path = onnxcam.attach(plain, score="boxes", layer="block", preprocess=preprocess).path
    with onnxcam.load(path) as cam:
        assert cam.explain(picture(), box_index=-30).boxes.shape == (1, 4)  # 6×4 places, and 3×2
        for wrong in (30, -31):
            with pytest.raises(InputError, match=f"there is no box {wrong}: the detector gives 30, 0 to 29"):
                cam.explain(picture(), box_index=wrong)


def test_on_the_command_line(spots, tmp_path, monkeypatch):
    spots(BoxInfo())
    monkeypatch.chdir(tmp_path)
    cv2.imwrite("a.png", picture())

    def call(*arguments: str):
        return CliRunner().invoke(main, [*arguments])

    how = ("--score", "boxes", "--mean", "0,0,0", "--std", "1,1,1", "--resize", "letterbox", "--layer", "map")
    made = call("attach", "s.onnx", *how, "-o", "x.cam.onnx", "--boxes", "all")
    assert "2 classes at all boxes of a detector" in made.stdout, made.output
    shown = call("image", "x.cam.onnx", "a.png", "--class", "1", "--json", "--box-threshold", "0.7", "--alpha", "0",
                 "--no-caption")  # fmt: skip
    told = json.loads(shown.stdout)
    assert told["boxes"] == [[32, 24, 64, 56]]
    assert told["box_scores"] == [pytest.approx(told["score"])]
    changed = (cv2.imread("a_cam.png") != picture()).any(2)
    rows, columns = np.nonzero(changed)
    assert (rows.min(), columns.min()) >= (21, 29)
    assert (rows.max(), columns.max()) <= (59, 67)
    assert changed[40, 29:35].any()
    assert not changed[36:44, 40:56].any()
    call("image", "x.cam.onnx", "a.png", "--class", "1", "--box-threshold", "0.7", "--alpha", "0", "--overwrite")
    captioned = (cv2.imread("a_cam.png") != picture()).any(2)
    assert captioned[8:21, 32:].any(), "above the box"
    assert not captioned[:, :28].any(), "and not in the corner"
    assert call("attach", "s.onnx", "--boxes", "all", "-o", "y.cam.onnx").exit_code == 1
    both = call("attach", "s.onnx", *how, "-o", "y.cam.onnx", "--box-form", "relative", "--box-form", "pixels")
    assert "not both" in both.stderr


def test_boxes_are_drawn_in_a_video(spots, tmp_path):
    path = spots(BoxInfo(every=True))
    clip = write_clip(tmp_path / "clip.mp4", [picture(), np.full_like(picture(), 10)], crf="1")
    how = ["video", str(clip), "-m", str(path), "--class", "bright", "--no-caption", "--alpha", "0"]
    told = CliRunner().invoke(main, [*how, "--json", "--box-threshold", "0.7"])
    assert [json.loads(line)["score"] > 0.7 for line in told.stdout.splitlines()] == [True, False]
    (with_box, without) = pictures(tmp_path / "clip_cam.mp4")
    white = (with_box > 200).all(2)
    assert white[24, 40:56].all(), "the upper side"
    assert (without < 60).all()
    wrong = CliRunner().invoke(main, [*how, "--box-index", "1", "--overwrite"])
    assert "does not explain one box of a detector" in wrong.stderr


def test_of_boxes_on_each_other_the_likeliest_is_drawn():
    boxes = np.array([[0, 0, 10, 10], [1, 1, 11, 11], [6, 0, 16, 10]], np.float32)  # overlaps 81/119 and 40/160
    assert distinct(boxes, np.array([0.3, 0.9, 0.5], np.float32)).tolist() == [1, 2]
    assert distinct(boxes[:1], np.array([0.3], np.float32)).tolist() == [0]
    assert distinct(boxes[:0], np.zeros(0, np.float32)).tolist() == []
