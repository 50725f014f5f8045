"""``onnxcam bench``: the table, and the same as JSON."""

from __future__ import annotations

import json

import onnx
from click.testing import CliRunner

from onnxcam.cli import main
from onnxcam.exporter.attachment import detach
from onnxcam.runtime.shipped import shipped_model

QUICK = ["--threads", "1", "--rounds", "2", "--seconds", "0.02"]


def call(*arguments):
    return CliRunner().invoke(main, ["bench", *arguments])


def test_both_sides_are_shown_with_their_ratio_and_shares():
    result = call(*QUICK)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].startswith("efficientnet_lite0.cam.onnx on ")
    assert [line.split()[0] for line in lines[2:5]] == ["plain", "explained", "ratio"]
    assert "of the time: model " in result.stdout
    assert "frames/s" in lines[-1]


def test_json_has_both_sides_in_seconds_and_bytes():
    found = json.loads(call(*QUICK, "--json", "--batch", "2").stdout)
    assert (found["batch"], found["threads"]) == (2, 1)
    for side in ("plain", "explained"):
        low, median, high = found[side]["seconds"]
        assert low <= median <= high
        assert found[side]["pictures_per_second"] == 2 / median
    assert found["explained"]["file_bytes"] == shipped_model().stat().st_size > found["plain"]["file_bytes"]
    assert abs(sum(found["shares"].values()) - 1) < 1e-9


def test_what_is_no_artifact_is_refused_in_a_sentence(tmp_path):
    detach(shipped_model(), tmp_path / "plain.onnx")
    result = call(str(tmp_path / "plain.onnx"), *QUICK)
    assert result.exit_code == 1
    assert "is a plain model" in result.stderr


def test_the_model_without_its_explanation_has_its_own_outputs_alone(tmp_path):
    detach(shipped_model(), tmp_path / "plain.onnx")
    model = onnx.load(tmp_path / "plain.onnx")
    onnx.checker.check_model(model)
    assert [y.name for y in model.graph.output] == ["logits"]
    assert not any(node.name.startswith(("gradient/", "explanation/")) for node in model.graph.node)
