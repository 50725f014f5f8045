"""The recipe that needs no other library's weights runs as it stands; the others at least compile."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

import onnxcam

SCRIPTS = Path(__file__).parents[2] / "export_scripts"


def test_your_own_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(SCRIPTS / "your_own_model.py"), run_name="__main__")
    with onnxcam.load("mine.cam.onnx") as model:
        assert model.labels == ("no cat", "cat")
        assert model.info.layers[0].shape == (None, 32, 16, 24)


@pytest.mark.parametrize("path", sorted(SCRIPTS.glob("*.py")), ids=lambda path: path.name)
def test_a_recipe_compiles_and_says_how_it_is_run(path):
    source = path.read_text(encoding="utf-8")
    compile(source, str(path), "exec")
    assert f"python export_scripts/{path.name}" in source
