"""The commands around the exporter, as a user types them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from onnxcam.cli import main
from onnxcam.methods import methods

SOURCE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.early = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.ReLU())
        self.late = nn.Sequential(nn.Conv2d(4, 6, 3), nn.ReLU())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(6, 3)

    def forward(self, x):
        return self.fc(self.pool(self.late(self.early(x))).flatten(1))
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "net.py").write_text(SOURCE, encoding="utf-8")
    (tmp_path / "labels.txt").write_text("cat\ndog\nespresso\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


def export(*more: str) -> Result:
    return call("export", "net.py:Net", "--input-size", "3,15,12", *more)


def test_export_inspect_and_verify(folder):
    result = export("--labels", "labels.txt", "--mean", "0.5,0.5,0.5", "--std", "0.2,0.2,0.2", "-o", "n.cam.onnx")
    assert result.exit_code == 0, result.output
    assert "layer          late (found by itself) [N, 6, 5, 3]" in result.stdout
    assert "relative difference from torch's autograd" in result.stdout
    shown = call("inspect", "n.cam.onnx")
    assert shown.exit_code == 0, shown.output
    for text in (
        "contract       1",
        "late NCHW [N, 6, 5, 3]",
        "gradcam",
        "stretch to 15×12",
        "cat … espresso",
        "backward",
    ):
        assert text in shown.stdout
    assert json.loads(call("inspect", "n.cam.onnx", "--json").stdout)["labels"] == ["cat", "dog", "espresso"]
    verified = call("verify", "n.cam.onnx")
    assert verified.exit_code == 0, verified.output
    assert verified.stdout.count("  ok") == 4


def test_export_names_the_file_after_the_model_and_never_replaces_one_unasked(folder):
    result = export("--layer", "early", "--method", "gradcam", "--outputs", "cam")
    assert result.exit_code == 0, result.output
    assert "not known" in result.stderr
    before = (folder / "net.cam.onnx").read_bytes()
    again = export()
    assert (again.exit_code, again.stderr.startswith("Error: 'net.cam.onnx' exists")) == (1, True)
    assert (folder / "net.cam.onnx").read_bytes() == before
    assert export("--overwrite").exit_code == 0
    assert (folder / "net.cam.onnx").read_bytes() != before


@pytest.mark.parametrize(
    ("more", "code", "message"),
    [
        (["--layer", "lat"], 1, "no layer 'lat'; did you mean 'late'"),
        (["--layer", "fc"], 1, "no spatial extent"),
        (["--method", "gradcom"], 1, "did you mean 'gradcam'"),
        (["--mean", "0.5"], 1, "both --mean and --std"),
        (["--mean", "x"], 2, "numbers separated by commas"),
        (["--weights", "none.pth"], 1, "'none.pth' do not exist"),
        (["-o", "no/n.cam.onnx"], 1, "folder 'no' does not exist"),
        (["--input-size", "3,0,4"], 2, "CHANNELS,HEIGHT,WIDTH"),
    ],
)
def test_bad_usage_is_one_sentence(folder, more, code, message):
    result = export(*more)
    assert result.exit_code == code
    assert message in result.stderr
    assert "Traceback" not in result.output
    assert not list(folder.glob("*.onnx*"))


def test_layers_says_which_is_taken_and_why(folder):
    result = call("layers", "net.py:Net", "--input-size", "3,15,12")
    assert result.exit_code == 0, result.output
    rows = [line.split() for line in result.stdout.splitlines()]
    assert [row[:3] + row[-2:] for row in rows if row[:1] == ["late"]] == [["late", "6×5×3", "NCHW", "<-", "default"]]
    assert [row[:3] for row in rows if row[:1] == ["early"]] == [["early", "4×7×5", "NCHW"]]
    assert "pool" not in result.stdout
    rows = [
        json.loads(line)
        for line in call("layers", "net.py:Net", "--input-size", "3,15,12", "--json").stdout.splitlines()
    ]
    assert [(row["layer"], row["default"]) for row in rows][-1] == ("late", True)


def test_methods_lists_equation_and_paper():
    result = call("methods")
    assert result.exit_code == 0
    assert "gradcam\n" in result.stdout
    assert "Selvaraju" in result.stdout
    rows = {row["name"]: row for row in map(json.loads, call("methods", "--json").stdout.splitlines())}
    assert list(rows) == list(methods())
    assert rows["eigencam"]["needs"] == "activations"
    assert all(row[key] for row in rows.values() for key in ("summary", "equation", "needs", "cost", "paper"))
