"""An artifact in ONNX Runtime: its answer, its classes, its refusals."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import onnx
import pytest
from onnx import parser
from onnxruntime.capi import onnxruntime_pybind11_state as engine_errors

from onnxcam.contract import METADATA_KEY, ArtifactInfo, LayerInfo, Preprocess, ScoreInfo
from onnxcam.errors import ArtifactError, ClassError, InputError, ProviderError
from onnxcam.runtime import load
from onnxcam.runtime.preprocess import model_input
from onnxcam.runtime.render import render

# the mean of each channel is its class's score, and the map of a class is its channel
GRAPH = """
<ir_version: 8, opset_import: ["" : 18]>
g (float[N,3,4,6] image, int64[M] class_index)
    => (float[N,3] logits, float[N,4,6] cam, int64[N] explained_class)
    <int64[1] class_index = {-1}, int64[2] space = {2,3}, int64[1] one = {1}, int64[1] zero = {0}, int64[1] all = {3}>
{
    logits = ReduceMean <keepdims = 0> (image, space)
    values, order = TopK (logits, all)
    n = Shape <start = 0, end = 1> (image)
    index = Expand (class_index, n)
    negated = Neg (index)
    rank = Sub (negated, one)
    safe = Max (rank, zero)
    column = Unsqueeze (safe, one)
    ranked = GatherElements <axis = 1> (order, column)
    flat = Squeeze (ranked, one)
    isrank = Less (index, zero)
    explained_class = Where (isrank, flat, index)
    picked = Unsqueeze (explained_class, one)
    cam = GatherND <batch_dims = 1> (image, picked)
}
"""
INFO = ArtifactInfo(
    onnxcam="0",
    image_input="image",
    layers=(LayerInfo(name="image", layout="NCHW", shape=(None, 3, 4, 6)),),
    methods=("cam",),
    score=ScoreInfo(output="logits", classes=3),
    preprocess=Preprocess(height=4, width=6, resize="stretch", scale=1.0, mean=(0.0,) * 3, std=(1.0, 1.0, 2.0)),
    labels=("red thing, rouge", "green thing", "blue thing"),
)


@pytest.fixture
def make(tmp_path):
    def make(text: str | None = INFO.to_json(), batch: str = "N") -> str:
        model = parser.parse_model(GRAPH.replace("[N", f"[{batch}"))
        if text is not None:
            onnx.helper.set_model_props(model, {METADATA_KEY: text})
        onnx.save(model, tmp_path / "m.cam.onnx")
        return str(tmp_path / "m.cam.onnx")

    return make


def picture(height: int, width: int) -> np.ndarray:
    """Blue grows to the right, green is 7, red is 3 but for one pixel block."""
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0] = np.arange(width) * 2
    image[..., 1] = 7
    image[..., 2] = 3
    return image


def test_preprocessing_is_the_arithmetic_that_the_contract_states(make):
    with load(make()) as model:
        prepared = model.prepare(picture(4, 6))
    expected = np.stack([np.full((4, 6), 3.0), np.full((4, 6), 7.0), np.tile(np.arange(6.0), (4, 1))])
    np.testing.assert_allclose(prepared.tensor, expected.astype(np.float32))


def test_layouts_and_letterbox_fill(make):
    with load(
        make(),
        preprocess=Preprocess(
            height=4,
            width=6,
            resize="letterbox",
            fill=255,
            scale=1.0,
            mean=(0.0,) * 3,
            std=(1.0,) * 3,
            color="bgr",
            layout="nhwc",
        ),
    ) as model:
        prepared = model.prepare(np.full((8, 4, 3), 9, np.uint8))  # 4×2 in the middle of 4×6
        tensor = model_input(prepared.picture, prepared.placement, model.preprocess)
    assert tensor[2, :, 1].tolist() == [255, 255, 9, 9, 255, 255]


def test_explain_answers_for_each_picture_of_its_own_class(make):
    with load(make()) as model:
        assert model.classes == 3
        one = model.explain(picture(4, 6))
        assert (one.class_index, one.label) == (1, "green thing")
        np.testing.assert_allclose(one.scores, np.exp([3, 7, 2.5]) / np.exp([3, 7, 2.5]).sum(), rtol=1e-5)
        assert one.score == pytest.approx(one.scores[1])
        many = model.explain([picture(4, 6), picture(8, 12)], class_index=["Rouge", -2])
        assert [each.class_index for each in many] == [0, 2]
        blue = model.explain(picture(4, 6), class_index="blue thing")
        np.testing.assert_allclose(blue.cam, np.tile(np.arange(6.0), (4, 1)))
        np.testing.assert_allclose(blue.heatmap[2], np.arange(6) / 5, atol=1e-6)
        assert [index for index, _, _ in blue.top(2)] == [1, 0]


@pytest.mark.parametrize("batch", ["1", "2", "N"])
def test_a_fixed_batch_size_explains_any_number_of_pictures(make, batch):
    pictures = [np.roll(picture(4, 6), shift, axis=1) for shift in range(3)]
    with load(make(batch=batch)) as model:
        answers = model.explain(pictures, class_index=["blue thing", 0, -1])
        assert model.explain([]) == []
    assert [each.class_index for each in answers] == [2, 0, 1]
    np.testing.assert_allclose(answers[0].cam[0], [0, 1, 2, 3, 4, 5])
    np.testing.assert_array_equal(answers[2].picture, pictures[2])


def test_a_batch_array_gives_a_list(make):
    with load(make()) as model:
        answers = model.explain(np.stack([picture(4, 6)] * 2), class_index=2)
    assert [each.class_index for each in answers] == [2, 2]


def test_a_closed_model_says_so(make):
    with load(make()) as model:
        pass
    with pytest.raises(ArtifactError, match="closed: load it again"):
        model.explain(picture(4, 6))


def test_a_flat_map_shows_no_heat_and_the_picture_as_it_is(make):
    with load(make()) as model:
        flat = model.explain(picture(5, 9), class_index=1)
    assert flat.heatmap.max() == 0
    np.testing.assert_array_equal(flat.overlay(), flat.picture)


def test_the_overlay_is_hot_where_the_map_is(make):
    with load(make()) as model:
        blue = model.explain(picture(40, 60), class_index=2)
    changed = np.abs(blue.overlay(alpha=1.0, colormap="gray").astype(int) - blue.picture).sum(2)
    assert changed[:, -3:].min() > changed[:, 30].max() > changed[:, :3].max()
    assert render(blue, layout="side-by-side").shape == (40, 120, 3)
    assert render(blue, layout="heatmap").shape == (40, 60, 3)
    for height, width in ((8, 8), (32, 40), (900, 1600)):
        small = cv2.resize(blue.picture, (width, height))
        with load(make()) as model:
            assert render(model.explain(small)).shape == (height, width, 3)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ("gren thing", "did you mean 'green thing'"),
        (3, "classes 0 to 2"),
        (-4, "ranks -1 .* to -3"),
        (1.5, "whole number"),
    ],
)
def test_a_class_that_does_not_exist_is_refused(make, choice, message):
    with load(make()) as model, pytest.raises(ClassError, match=message):
        model.explain(picture(4, 6), class_index=choice)


def test_fewer_classes_than_pictures_is_an_error(make):
    with load(make()) as model, pytest.raises(ClassError, match="2 images and 1 classes"):
        model.explain([picture(4, 6)] * 2, class_index=[1])


def test_files_that_are_no_artifact_are_refused(make, tmp_path):
    newer = INFO.to_json().replace('"contract":1', '"contract":9')
    for text, message in ((None, "plain ONNX"), ("{", "damaged"), (newer, "contract version 9")):
        with pytest.raises(ArtifactError, match=message):
            load(make(text))
    (tmp_path / "z.onnx").touch()
    (tmp_path / "t.onnx").write_bytes(b"not a model")
    for name, message in (
        ("none.onnx", "no file"),
        ("z.onnx", "empty"),
        ("t.onnx", "not an ONNX"),
        (".", "not a file"),
    ):
        with pytest.raises(ArtifactError, match=message):
            load(tmp_path / name)


def test_a_provider_that_is_not_installed_is_named_with_those_that_are(make):
    with pytest.raises(ProviderError, match=r"'quantum' is not installed: .*cpu"):
        load(make(), providers="quantum")
    with load(make(), providers=["CPUExecutionProvider"]) as model:
        assert model.providers == ("CPUExecutionProvider",)


def test_without_preprocessing_a_picture_is_refused(make):
    text = replace(INFO, preprocess=None).to_json()
    with load(make(text)) as model, pytest.raises(InputError, match="pass preprocess="):
        model.explain(picture(4, 6))


class Failing:
    """A session on a device that is lost at the first run."""

    def __init__(self, session, error):
        self.session, self.error = session, error

    def run(self, *_):
        raise self.error


def test_a_provider_that_fails_on_the_way_is_replaced_by_the_cpu(make):
    with load(make()) as model:
        expected = model.explain(picture(4, 6))
        engine = model._engine
        engine.providers = ("CUDAExecutionProvider", "CPUExecutionProvider")
        engine._running = Failing(engine._running, engine_errors.EPFail("CUDA failure 700: device lost"))
        with pytest.warns(RuntimeWarning, match=r"CUDAExecutionProvider failed \(.*device lost\), so CPU"):
            explanation = model.explain(picture(4, 6))
        assert model.providers == ("CPUExecutionProvider",)
    np.testing.assert_array_equal(explanation.cam, expected.cam)


def test_an_input_that_does_not_fit_is_no_reason_to_change_the_provider(make):
    with load(make()) as model:
        engine = model._engine
        engine.providers = ("CUDAExecutionProvider", "CPUExecutionProvider")
        engine._running = Failing(engine._running, engine_errors.InvalidArgument("Got invalid dimensions"))
        with pytest.raises(InputError, match="Got invalid dimensions"):
            model.explain(picture(4, 6))
        assert model.providers[0] == "CUDAExecutionProvider"
