"""Every example of the README, run. Models of timm and torchvision are not fetched: those lines are only parsed."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from click.testing import CliRunner

from onnxcam.cli import main
from onnxcam.methods import methods

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """The fenced blocks of the README in ``language``, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.M | re.S)


COMMANDS = [
    words for block in blocks("sh") for line in block.splitlines() if (words := shlex.split(line, comments=True))
]
OURS = [words[1:] for words in COMMANDS if words[0] == "onnxcam"]
FOREIGN = [words for words in OURS if any(word.startswith(("timm:", "torchvision:")) for word in words)]
LIVE = [words for words in OURS if words[0] == "webcam"]
LOCAL = [words for words in OURS if words not in FOREIGN + LIVE]
QUICKLY = {"bench": ["--rounds", "2", "--seconds", "0.02"]}
WRITES = {
    "image cat.jpg": ["cat_cam.png"],
    "image photos/ -o out/ --top 3": ["out"],
    "video input.mp4": ["input_cam.mp4"],
    "attach plain.onnx": ["plain.cam.onnx"],
    "export path/to/file.py:make_model --input-size 3,224,224 -o mine.cam.onnx": ["mine.cam.onnx"],
}

MAKE_MODEL = """
from torch import nn

def make_model():
    features = [nn.Conv2d(3, 4, 3, stride=8), nn.ReLU()]
    return nn.Sequential(*features, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with every file that the README's examples read."""
    samples, model = ROOT / "models" / "samples", ROOT / "models" / "efficientnet_lite0.cam.onnx"
    for name in ("photos", "path/to", "out"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("cat.jpg", "photos/cat.jpg"):
        shutil.copy(samples / "cat_and_coffee.jpg", tmp_path / name)
    shutil.copy(samples / "cat_to_coffee.mp4", tmp_path / "input.mp4")
    for name in ("my.cam.onnx", "resnet50.cam.onnx"):
        shutil.copy(model, tmp_path / name)
    (tmp_path / "path/to/file.py").write_text(MAKE_MODEL)
    (tmp_path / "w.pth").touch()
    (tmp_path / "names.txt").write_text("cat\ndog\nespresso\n")
    ir.save(square(), tmp_path / "model.onnx")
    onnx.save(classifier(), tmp_path / "plain.onnx")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def square() -> ir.Model:
    """y = x · x."""
    x = ir.Value(name="x", shape=ir.Shape([3]), type=ir.TensorType(ir.DataType.FLOAT))
    node = ir.Node("", "Mul", [x, x])
    (y,) = node.outputs
    y.name, y.shape, y.type = "y", x.shape, x.type
    graph = ir.Graph([x], [y], nodes=[node], opset_imports={"": 18}, name="square")
    return ir.Model(graph, ir_version=10)


def classifier() -> onnx.ModelProto:
    """Convolution, ReLU, pooling, one linear layer."""
    text = """<ir_version: 8, opset_import: ["" : 13]>
        net (float[N,3,12,10] image) => (float[N,3] logits) {
            c = Conv<kernel_shape=[3,3], strides=[2,2]>(image, w) features = Relu(c)
            p = GlobalAveragePool(features) f = Flatten(p) logits = Gemm<transB=1>(f, v)
        }"""
    model = onnx.parser.parse_model(text)
    rng = np.random.default_rng(0)
    for name, shape in (("w", (4, 3, 3, 3)), ("v", (3, 4))):
        model.graph.initializer.append(onnx.numpy_helper.from_array(rng.standard_normal(shape, np.float32), name))
    return model


def test_two_commands_are_all_a_fresh_machine_needs() -> None:
    assert [block.strip() for block in blocks("sh")[:2]] == [
        'pip install ".[cpu]" && onnxcam video models/samples/cat_to_coffee.mp4',
        'pip install -c constraints.txt -e ".[cpu,torch,test]" && pytest',
    ]


def test_every_command_is_tested() -> None:
    assert {words[0] for words in COMMANDS} == {"onnxcam", "pip"}
    assert {tuple(words) for words in OURS} >= {tuple(shlex.split(line)) for line in WRITES}
    assert (len(LOCAL), len(FOREIGN), len(LIVE)) == (18, 4, 4)


def test_no_command_is_refused_for_what_one_before_it_wrote() -> None:
    named = [words[words.index("-o") + 1] for words in OURS if "-o" in words]
    by_default = [tuple(words[:2]) for words in OURS if words[0] in ("image", "video", "attach") and "-o" not in words]
    assert len(set(named)) == len(named)
    assert len(set(by_default)) == len(by_default)


def test_the_number_of_methods_is_right() -> None:
    assert f"\n{len(methods())} methods, " in README


@pytest.mark.parametrize("words", LOCAL, ids=" ".join)
def test_a_command_runs(words: list[str], folder: Path) -> None:
    result = CliRunner().invoke(main, words + QUICKLY.get(words[0], []), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    for name in WRITES.get(" ".join(words), []):
        written = folder / name
        assert list(written.iterdir()) if written.is_dir() else written.stat().st_size > 0


@pytest.mark.parametrize("words", FOREIGN + LIVE, ids=" ".join)
def test_a_command_for_another_librarys_model_or_a_camera_parses(words: list[str], folder: Path) -> None:
    command = main.get_command(click.Context(main), words[0])
    assert command is not None
    command.make_context(words[0], words[1:])


def test_a_file_plays_the_camera(folder: Path) -> None:
    (words,) = [words for words in LIVE if "--loop" in words]
    result = CliRunner().invoke(main, [*words, "--serve", "0", "--seconds", "0.5"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "frames seen" in result.stdout


def test_the_python_examples_run_one_after_another(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {}
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), names)
    height, width = cv2.imread("cat.jpg").shape[:2]
    assert names["ex"].heatmap.shape == (height, width)
    assert cv2.imread("cat_cam.png") is not None
    assert names["three"].tolist() == [3]
    x = np.float32([1, -2, 3])
    y, gradient = onnxruntime.InferenceSession("model_with_gradient.onnx").run(None, {"x": x})
    np.testing.assert_array_equal(y, x * x)
    np.testing.assert_array_equal(gradient, 2 * x)


@pytest.mark.parametrize("target", re.findall(r"\]\(([^):#]+)\)", README))
def test_a_linked_file_is_there(target: str) -> None:
    assert (ROOT / target).exists()
