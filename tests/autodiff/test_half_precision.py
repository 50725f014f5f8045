"""The rows of every table in float16: one of each text, whatever its shapes and values."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from .gradient_check import Case, is_near_in_half_precision


def _rows() -> list[Case]:
    """The first row of each text, of each module's table of cases."""
    by_text: dict[str, Case] = {}
    for path in sorted(Path(__file__).parent.glob("test_*.py")):
        if path != Path(__file__) and "CASES = [" in path.read_text(encoding="utf-8"):
            for row in importlib.import_module(f".{path.stem}", __package__).CASES:
                by_text.setdefault(row.text, row)
    return list(by_text.values())


@pytest.mark.parametrize("row", _rows(), ids=str)
def test_gradient_is_near_that_in_float32(row):
    is_near_in_half_precision(row)
