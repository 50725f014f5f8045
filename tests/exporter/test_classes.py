"""Several classes of each image explained in one run: each as if it were alone."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

import onnxcam
from onnxcam.errors import ClassError, ExportError
from onnxcam.methods import graph_methods

from .graphs import cnn, save
from .networks import Plain, Transformer, torchscript

PICTURES = np.random.default_rng(1).standard_normal((3, 3, 20, 12)).astype(np.float32)
CLASSES = np.array([[4, 0], [2, 2], [1, 3]])
ALL = [
    name
    for name, method in graph_methods().items()
    if not method.fusion and method.needs != "head" and method.target != "attention"
]


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return torchscript(Plain(), tmp_path_factory.mktemp("classes") / "plain.onnx", opset=18)


@pytest.fixture(scope="module")
def pair(plain, tmp_path_factory):
    """The same net explained for one class, and for two, by every method."""
    folder = tmp_path_factory.mktemp("classes")
    how = {"layer": "stage", "method": ALL, "preprocess": onnxcam.Preprocess(height=20, width=12)}
    one = onnxcam.attach(plain, folder / "one.cam.onnx", **how).path
    two = onnxcam.attach(plain, folder / "two.cam.onnx", classes=2, labels=["a", "b, bb", "c", "d", "e"], **how)
    assert (two.info.score.kind, two.info.score.explained) == ("class", 2)
    return one, two.path


def run(path, pictures=PICTURES, **more) -> dict[str, np.ndarray]:
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"image": pictures} | more), strict=True))


@pytest.mark.parametrize("layer", ["stage", "stem"])
def test_gradients_and_maps_are_those_of_autograd(plain, tmp_path, layer):
    path = onnxcam.attach(plain, tmp_path / "x.cam.onnx", layer=layer, classes=2).path
    got = run(path, class_index=CLASSES)
    net = Plain().eval()
    A = net.stem(torch.from_numpy(PICTURES))
    if layer == "stage":
        A = net.stage(A)
    A = A.detach().requires_grad_()
    y = net.fc(net.pool(A if layer == "stage" else net.stage(A)).flatten(1))
    for k in range(2):
        (g,) = torch.autograd.grad(y[torch.arange(3), torch.from_numpy(CLASSES[:, k])].sum(), A, retain_graph=True)
        np.testing.assert_allclose(got["gradients"][:, k], g.numpy(), atol=1e-6)
        cam = torch.relu((g.mean((2, 3), keepdim=True) * A).sum(1)).detach().numpy()
        np.testing.assert_allclose(got["cam"][:, k], cam, atol=1e-6)
    assert got["explained_class"].tolist() == CLASSES.tolist()
    assert onnxcam.verify(path).passed


def test_each_class_of_each_image_is_as_if_alone(pair):
    one, two = pair
    got = run(two, class_index=CLASSES)
    for i in range(3):
        for k in range(2):
            alone = run(one, PICTURES[i : i + 1], class_index=CLASSES[i, k : k + 1])
            for name in alone:
                if name.startswith(("cam", "gradients", "explained")):
                    scale = max(np.abs(alone[name]).max(), 1e-6)
                    np.testing.assert_allclose(got[name][i, k], alone[name][0], atol=2e-4 * scale, err_msg=name)
                elif name == "activations":
                    np.testing.assert_allclose(got[name][i], alone[name][0], atol=1e-6)


def test_by_default_it_is_the_top_classes_and_one_row_goes_for_all_images(pair):
    _, two = pair
    got = run(two)
    assert got["explained_class"].tolist() == np.argsort(-got["logits"], 1)[:, :2].tolist()
    mixed = run(two, class_index=np.array([[-3, 1]]))["explained_class"]
    assert mixed.tolist() == [[int(np.argsort(-row)[2]), 1] for row in got["logits"]]


def test_the_trunk_runs_once_and_what_the_classes_share_stands_once(plain, tmp_path):
    counts = {}
    for layer in ("stage", "stem"):
        for k in (1, 2, 5):
            path = onnxcam.attach(plain, tmp_path / f"{k}.cam.onnx", layer=layer, classes=k).path
            nodes = onnx.load(path).graph.node
            # beyond the forward's: from the second stage on, one a class
            counts[layer, k] = sum(node.op_type in ("Conv", "ConvTranspose") for node in nodes)
            assert sum(node.op_type == "Gemm" for node in nodes) == 1
    assert [counts["stage", k] for k in (1, 2, 5)] == [2, 2, 2]
    assert [counts["stem", k] - 2 for k in (1, 2, 5)] == [1, 2, 5]


def test_weights_are_shared_by_the_classes(plain, tmp_path):
    one = onnxcam.attach(plain, tmp_path / "1.cam.onnx", layer="stem").path
    five = onnxcam.attach(plain, tmp_path / "5.cam.onnx", layer="stem", classes=5).path
    sizes = [sum(np.prod(t.dims) for t in onnx.load(path).graph.initializer) for path in (one, five)]
    assert sizes[1] - sizes[0] < 30, "a few numbers more: indices of the classes"


@pytest.mark.parametrize("explain", ["counterfactual", "contrast"])
def test_what_speaks_against_and_apart_is_of_each_class(plain, tmp_path, explain):
    one = run(onnxcam.attach(plain, tmp_path / "1.cam.onnx", layer="stem", explain=explain).path)
    two = run(onnxcam.attach(plain, tmp_path / "2.cam.onnx", layer="stem", explain=explain, classes=2).path)
    np.testing.assert_allclose(two["cam"][:, 0], one["cam"], atol=1e-6)
    if explain == "contrast":
        assert two["against_class"].shape == (3, 2)
        assert (two["against_class"][:, 1] == two["explained_class"][:, 0]).all()


def test_fused_layers_and_tokens(tmp_path):
    path = torchscript(Transformer(), tmp_path / "m.onnx", opset=18)
    layers = ["blocks.0", "blocks.0.norm2"]
    one = run(onnxcam.attach(path, tmp_path / "1.cam.onnx", layer=layers, fuse="mean").path, class_index=CLASSES[:, 1])
    two = run(onnxcam.attach(path, tmp_path / "2.cam.onnx", layer=layers, fuse="mean", classes=2).path,
              class_index=CLASSES)  # fmt: skip
    np.testing.assert_allclose(two["cam"][:, 1], one["cam"], atol=1e-4)
    np.testing.assert_allclose(two["gradients.1"][:, 1], one["gradients.1"], atol=1e-6)


def test_an_export_is_compared_with_torch_for_every_class(tmp_path):
    report = onnxcam.export(Plain(), torch.from_numpy(PICTURES), tmp_path / "x.cam.onnx", layer="stem", classes=3)
    assert max(report.errors.values()) < 1e-4
    assert run(report.path)["gradients"].shape == (3, 3, 4, 10, 6)
    assert onnxcam.verify(report.path, model=Plain()).passed


def test_a_wrong_gradient_of_the_second_class_is_found(plain, tmp_path):
    path = onnxcam.attach(plain, tmp_path / "x.cam.onnx", layer="stem", classes=2).path
    model = onnx.load(path)
    (joined,) = [node for node in model.graph.node if "gradients" in node.output]
    joined.input[1] = joined.input[0]
    onnx.save(model, path)
    assert not onnxcam.verify(path).passed


def test_more_classes_than_there_are_is_refused(plain, tmp_path):
    with pytest.raises(ExportError, match="6 classes of each image cannot be explained: the model has 5"):
        onnxcam.attach(plain, tmp_path / "x.cam.onnx", classes=6)


def test_a_picture_has_an_explanation_of_each_class(pair):
    _, path = pair
    picture = np.random.default_rng(0).integers(0, 255, (20, 12, 3), np.uint8)
    with onnxcam.load(path) as cam:
        assert cam.explained == 2
        top = cam.explain(picture)
        ex = cam.explain(picture, class_index=["bb", 4])
        assert [each.class_index for each in ex.classes] == [1, 4]
        assert ex.classes[0] is ex
        assert ex.of("e") is ex.of(4) is ex.classes[1]
        assert ex.of(4).score == pytest.approx(ex.scores[4])
        assert [each.class_index for each in top.classes] == np.argsort(-top.scores)[:2].tolist()
        again = cam.explain([picture, picture], class_index=[[0, 1], ["c", "bb"]])
        assert [[each.class_index for each in ex.classes] for ex in again] == [[0, 1], [2, 1]]
        np.testing.assert_allclose(again[1].of(1).cam, ex.cam, atol=1e-6)
        assert again[1].of(1).cams.keys() == ex.cams.keys()
        both = cam.explain([picture, picture], class_index=["a", -1])
        assert [each.class_index for ex in both for each in ex.classes] == [0, top.class_index] * 2
        for choice, message in (
            (3, "explains 2 classes of each image at once, and 1 was given: give 2"),
            ([1, 2, 3], "and 3 were given: give 2"),
            ([[1, 2], [1]], "and 1 was given"),
            ([[1, 2]], "2 images and classes for 1"),
            ([[1, 2], 1], "mixed"),
        ):
            with pytest.raises(ClassError, match=message):
                cam.explain([picture, picture], class_index=choice)
        with pytest.raises(ClassError, match="'a' was not explained in this picture, only b, e"):
            ex.of("a")


@pytest.mark.parametrize("batch", [1, 2])
def test_a_fixed_batch_takes_the_classes_of_each_picture(tmp_path, batch):
    model = cnn()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = batch
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_value = batch
    preprocess = onnxcam.Preprocess(height=13, width=10)
    path = tmp_path / "m.cam.onnx"
    onnxcam.attach(save(tmp_path / "m.onnx", model), path, classes=2, preprocess=preprocess)
    pictures = list(np.random.default_rng(0).integers(0, 255, (3, 13, 10, 3), np.uint8))
    with onnxcam.load(path) as cam:
        got = cam.explain(pictures, class_index=[[0, 1], [2, 3], [4, -1]])
        alone = cam.explain(pictures[2], class_index=[4, -1])
    assert [each.classes[0].class_index for each in got] == [0, 2, 4]
    np.testing.assert_allclose(got[2].cam, alone.cam, atol=1e-6)


def test_random_weights_are_the_same_in_layers_and_classes_of_as_many_channels(plain, tmp_path):
    layers = ["stage", "stage.0"]
    got = run(onnxcam.attach(plain, tmp_path / "x.cam.onnx", layer=layers, method="random", classes=2).path)
    assert got["cam"].shape == got["cam.1"].shape == (3, 2, 10, 6)
    np.testing.assert_array_equal(got["cam"][:, 0], got["cam"][:, 1])
