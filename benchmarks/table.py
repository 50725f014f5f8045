"""A table printed row by row as it is measured, and kept as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


class Table:
    """Columns by name, each with the format of its values."""

    def __init__(self, **columns: str) -> None:
        self._columns = columns
        self.rows: list[dict[str, Any]] = []

    def add(self, **values: Any) -> None:
        """Print a row, under a heading if it is the first; what is None is shown as ``-``."""
        cells = {
            name: "-" if values[name] is None else form.format(values[name]) for name, form in self._columns.items()
        }
        widths = {name: max(len(name), len(cell)) for name, cell in cells.items()}
        if not self.rows:
            self._widths = widths
            print("  ".join(name.replace("_", " ").rjust(width) for name, width in widths.items()))
        print("  ".join(cell.rjust(self._widths[name]) for name, cell in cells.items()), flush=True)
        self.rows.append(values)

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(self.rows, indent=2) + "\n", encoding="utf-8")
