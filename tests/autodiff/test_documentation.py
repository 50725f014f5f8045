"""The examples of docs/autodiff.md, run one after another."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from onnxcam.autodiff import registry

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "autodiff.md").read_text(encoding="utf-8")


def test_the_examples_hold(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for table in ("_rules", "_names"):
        monkeypatch.setattr(registry, table, dict(getattr(registry, table)))
    names: dict[str, Any] = {}
    for block in re.findall(r"^```python\n(.*?)^```$", PAGE, re.M | re.S):
        exec(compile(block, "autodiff.md", "exec"), names)
    said = capsys.readouterr().out
    assert "Unique 'u' is not differentiated: the number of values depends on the values" in said


@pytest.mark.parametrize("target", re.findall(r"\]\(([^):#]+)\)", PAGE))
def test_a_linked_file_is_there(target: str) -> None:
    assert (DOCS / target).exists()
