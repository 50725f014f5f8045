"""``onnxcam attach`` and ``onnxcam layers`` as a user types them."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result

from onnxcam.cli import main

from ..exporter.graphs import cnn, save  # noqa: TID252 tests are no package


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    save(tmp_path / "m.onnx", cnn())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


def test_a_plain_file_becomes_an_artifact(folder):
    before = (folder / "m.onnx").read_bytes()
    result = call("attach", "m.onnx")
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.stdout.splitlines()]
    assert ["layer", "last", "(found", "by", "itself)", "[N,", "6,", "7,", "5]", "NCHW"] in lines
    assert ["score", "logits,", "5", "classes"] in lines
    assert "relative difference from the plain file's" in result.stdout
    assert "give --mean and --std" in result.stderr
    assert (folder / "m.onnx").read_bytes() == before
    assert sorted(p.name for p in folder.iterdir()) == ["m.cam.onnx", "m.onnx"]
    verified = call("verify", "m.cam.onnx")
    assert verified.exit_code == 0, verified.output
    assert verified.stdout.count("  ok") == 4


def test_what_is_said_of_the_artifact_is_kept_in_it(folder):
    (folder / "names.txt").write_text("a\nb\nc\nd\ne\n", encoding="utf-8")
    more = ["--mean", "0.5,0.5,0.5", "--std", "0.2,0.2,0.2", "--labels", "names.txt", "--license", "MIT"]
    result = call(
        "attach", "m.onnx", "-o", "x.cam.onnx", "--layer", "first", "--layer", "last", "--method", "cam", *more
    )
    assert (result.exit_code, "needs global average pooling" in result.stderr) == (1, True)
    result = call(
        "attach", "m.onnx", "-o", "x.cam.onnx", "--layer", "last", "--method", "cam", "--method", "gradcam", *more
    )
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    info = json.loads(call("inspect", "x.cam.onnx", "--json").stdout)
    assert info["methods"] == ["cam", "gradcam"]
    assert info["labels"] == list("abcde")
    assert info["license"] == "MIT"
    assert (info["preprocess"]["height"], info["preprocess"]["width"]) == (13, 10)


def test_what_is_explained_is_chosen_and_told(folder):
    many = ["--method", "gradcam", "--method", "refinecam", "--layer", "first", "--layer", "last"]
    result = call("attach", "m.onnx", *many, "--explain", "counterfactual", "--fuse", "max", "--eigen-smooth")
    assert result.exit_code == 0, result.output
    told = "gradcam, refinecam (counterfactual, layers fused by max, eigen-smooth)"
    assert f"methods        {told}\n" in result.stdout
    assert f"methods        {told}\n" in call("inspect", "m.cam.onnx").stdout
    info = json.loads(call("inspect", "m.cam.onnx", "--json").stdout)
    assert (info["explain"], info["fuse"], info["eigen_smooth"]) == ("counterfactual", "max", True)


def test_a_picture_is_explained_by_the_method_that_is_named(folder):
    cv2.imwrite("cat.jpg", np.random.default_rng(0).integers(0, 255, (13, 10, 3), np.uint8))
    (folder / "names.txt").write_text("a\nb\nc\nd\ne\n", encoding="utf-8")
    more = ["--mean", "0.5,0.5,0.5", "--std", "0.2,0.2,0.2", "--labels", "names.txt", "--explain", "contrast"]
    many = ["--method", "gradcam", "--method", "layercam", "--layer", "last", "--layer", "first"]
    assert call("attach", "m.onnx", *many, *more).exit_code == 0
    chosen = ["--method", "layercam", "--layer", "first", "--class", "b", "--against", "d"]
    result = call("image", "m.cam.onnx", "cat.jpg", "--json", *chosen)
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    assert [said[key] for key in ("method", "layer", "class", "against")] == ["layercam", "first", 1, 3]
    result = call("image", "m.cam.onnx", "cat.jpg", "--method", "layercan", "--overwrite")
    assert (result.exit_code, "did you mean 'layercam'" in result.stderr) == (1, True)


def test_an_older_file_is_replaced_only_when_asked(folder):
    (folder / "m.cam.onnx").write_bytes(b"older")
    result = call("attach", "m.onnx")
    assert (result.exit_code, result.stderr.startswith("Error: 'm.cam.onnx' exists")) == (1, True)
    assert (folder / "m.cam.onnx").read_bytes() == b"older"
    assert call("attach", "m.onnx", "--overwrite").exit_code == 0


def test_an_artifact_is_renewed_only_when_asked(folder):
    assert call("attach", "m.onnx").exit_code == 0
    result = call("attach", "m.cam.onnx")
    assert (result.exit_code, "renew it with --replace" in result.stderr) == (1, True)
    result = call("attach", "m.cam.onnx", "--replace", "--layer", "first")
    assert result.exit_code == 0, result.output
    assert "layer          first [N, 4, 7, 5] NCHW" in result.stdout
    result = call("attach", "m.onnx", "--replace", "--overwrite")
    assert (result.exit_code, "nothing to renew" in result.stderr) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["none.onnx"], 1, "there is no file 'none.onnx'"),
        (["."], 1, "is not a file"),
        (["text.onnx"], 1, "is not an ONNX file"),
        (["m.onnx", "--layer", "lst"], 1, "did you mean 'last'"),
        (["m.onnx", "--layer", "pooled"], 1, "no height and width are to be seen"),
        (["m.onnx", "--layer", "last", "--layout", "NHCW"], 1, "there is no layout 'NHCW'"),
        (["m.onnx", "--layout", "NHWC"], 1, "give --layer as well"),
        (["m.onnx", "--output", "logit"], 1, "did you mean 'logits'"),
        (["m.onnx", "--image-input", "img"], 1, "its inputs are 'image'"),
        (["m.onnx", "--method", "gradcom"], 1, "did you mean 'gradcam'"),
        (["m.onnx", "--method", "refinecam"], 1, "name two or more with --layer"),
        (["m.onnx", "--explain", "clas"], 2, "'clas' is not one of"),
        (["m.onnx", "--mean", "0.5"], 1, "both --mean and --std"),
        (["m.onnx", "--labels", "none.txt"], 1, "'none.txt' cannot be read"),
        (["m.onnx", "-o", "no/m.cam.onnx"], 1, "the folder 'no' does not exist"),
        (["m.onnx", "-o", "."], 1, "'.' is a folder"),
        (["m.onnx", "-o", "m.onnx", "--overwrite"], 1, "is the source, which is never changed"),
        (["m.onnx", "--outputs", "none"], 2, "'none' is not one of"),
    ],
)
def test_bad_usage_is_one_sentence(folder, arguments, code, message):
    (folder / "text.onnx").write_text("hello", encoding="utf-8")
    result = call("attach", *arguments)
    assert result.exit_code == code
    assert message in result.stderr
    assert "Traceback" not in result.output
    assert code == 2 or result.stderr.count("\n") == 1
    assert sorted(p.name for p in folder.iterdir()) == ["m.onnx", "text.onnx"]


def test_a_wrong_gradient_is_told_with_its_culprit(folder):
    assert call("attach", "m.onnx").exit_code == 0
    proto = onnx.load("m.cam.onnx")
    (node,) = [node for node in proto.graph.node if "gradients" in node.output]
    node.output[0] = "right"
    proto.graph.node.append(onnx.helper.make_node("Neg", ["right"], ["gradients"]))
    onnx.save(proto, "m.cam.onnx")
    result = call("verify", "m.cam.onnx")
    assert result.exit_code == 1
    assert "WRONG" in result.stdout
    assert "the gradients in 'm.cam.onnx' are wrong: the culprit is none" in result.stderr


def test_a_plain_file_cannot_be_verified(folder):
    result = call("verify", "m.onnx")
    assert (result.exit_code, "is a plain ONNX file: make an artifact" in result.stderr) == (1, True)


def test_a_map_of_the_picture_needs_no_layer(folder):
    result = call("attach", "m.onnx", "-o", "x.cam.onnx", "--method", "saliency", "--mean", "0,0,0", "--std", "1,1,1")
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.stdout.splitlines()]
    assert ["layer", "image", "(found", "by", "itself)", "[N,", "3,", "13,", "10]", "NCHW"] in lines
    assert ["methods", "saliency", "of", "the", "picture"] in lines
    assert call("verify", "x.cam.onnx").exit_code == 0
    more = ["--method", "gradcam", "--method", "guided-gradcam", "--method", "saliency", "--replace"]
    assert call("attach", "x.cam.onnx", *more).exit_code == 0
    shown = call("inspect", "x.cam.onnx").stdout
    assert "gradcam, guided-gradcam, saliency of the picture" in shown
    cv2.imwrite("cat.png", np.random.default_rng(0).integers(0, 255, (26, 20, 3), np.uint8))
    row = json.loads(call("image", "x.cam.onnx", "cat.png", "--method", "saliency", "--json").stdout)
    assert (row["method"], row["layer"]) == ("saliency", "image")
    assert cv2.imread("cat_cam.png").shape == (26, 20, 3)
    result = call("attach", "m.onnx", "--method", "saliency", "--method", "gradcam", "--eigen-smooth")
    assert (result.exit_code, "'saliency' is of the picture, not of a layer" in result.stderr) == (1, True)
