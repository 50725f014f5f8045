"""What `onnxcam providers` lists."""

from __future__ import annotations

import json

from click.testing import CliRunner

from onnxcam.cli import main


def test_providers_marks_the_one_that_is_taken(monkeypatch):
    names = ["AzureExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr("onnxcam.runtime.providers.ort.get_available_providers", lambda: names)
    shown = CliRunner().invoke(main, ["providers"]).stdout.splitlines()
    assert shown == ["AzureExecutionProvider", "CUDAExecutionProvider  <- default", "CPUExecutionProvider"]
    rows = [json.loads(line) for line in CliRunner().invoke(main, ["providers", "--json"]).stdout.splitlines()]
    assert [row["default"] for row in rows] == [False, True, False]
