"""The page of measurements says what was measured."""

from __future__ import annotations

import runpy
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"


def test_the_page_is_made_of_what_the_scripts_wrote() -> None:
    page = runpy.run_path(str(DOCS / "benchmarks.py"))["page"]
    assert (DOCS / "benchmarks.md").read_text(encoding="utf-8") == page(), "run: python docs/benchmarks.py"
