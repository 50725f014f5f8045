"""``onnxcam layers`` of ONNX files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from onnxcam.cli import main

from ..exporter.graphs import CNN, CNN_WEIGHTS, cnn, model, save  # noqa: TID252 tests are no package


def call(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["layers", *arguments])


@pytest.fixture
def source(tmp_path: Path) -> str:
    text = CNN.replace("last = Relu (b)", "d = Conv <pads=[1,1,1,1]> (first, w3)\n last = Add (b, d)")
    return str(save(tmp_path / "m.onnx", model(text, w3=(6, 4, 3, 3), **CNN_WEIGHTS)))


def test_those_that_all_ways_lead_through_and_the_default(source):
    result = call(source)
    assert result.exit_code == 0, result.output
    rows = [line.split() for line in result.stdout.splitlines() if line]
    assert [row[0] for row in rows[:-1]] == ["a", "first", "last"]
    assert rows[2] == ["last", "6×7×5", "NCHW", rows[2][3], "Add", "<-", "default"]
    assert result.stdout.splitlines()[-1].startswith("'last' is taken by default")
    assert [line.split()[0] for line in call(source, "--all").stdout.splitlines()[:5]] == [
        "a",
        "first",
        "b",
        "d",
        "last",
    ]


def test_as_json(source):
    rows = [json.loads(line) for line in call(source, "--json").stdout.splitlines()]
    assert [row["default"] for row in rows] == [False, False, True]
    assert rows[0] | {"share": 0} == {
        "layer": "a",
        "kind": "Conv",
        "shape": [None, 4, 7, 5],
        "layout": "NCHW",
        "module": None,
        "share": 0,
        "default": False,
    }
    assert [row["share"] for row in rows] == sorted((row["share"] for row in rows), reverse=True)


def test_of_an_artifact_they_are_those_of_its_model(source, tmp_path):
    plain = call(source).stdout
    assert CliRunner().invoke(main, ["attach", source]).exit_code == 0
    assert call(str(tmp_path / "m.cam.onnx")).stdout == plain


@pytest.mark.parametrize(
    ("more", "message"),
    [(["--output", "x"], "no output 'x'"), (["--image-input", "x"], "its inputs are 'image'")],
)
def test_bad_usage_is_one_sentence(source, more, message):
    result = call(source, *more)
    assert (result.exit_code, message in result.stderr, result.stderr.count("\n")) == (1, True, 1)


def test_a_damaged_file(tmp_path):
    (tmp_path / "m.onnx").write_bytes(cnn().SerializeToString()[:-9])
    result = call(str(tmp_path / "m.onnx"))
    assert (result.exit_code, "is not an ONNX file" in result.stderr) == (1, True)
