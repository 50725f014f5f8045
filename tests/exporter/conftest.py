"""Graphs that several modules look at, exported once."""

from __future__ import annotations

from pathlib import Path

import pytest

from .networks import Plain, Transformer, Windows, dynamo, torchscript

NETWORKS = {
    "plain": (Plain, (20, 12)),
    "max": (lambda: Plain(pool="max"), (20, 12)),
    "class-token": (Transformer, (20, 12)),
    "two-tokens": (lambda: Transformer(extra=2), (20, 12)),
    "mean": (lambda: Transformer(extra=0, mean=True), (20, 12)),
    "windows": (Windows, (18, 8)),
}
EXPORTERS = {"torchscript": torchscript, "dynamo": dynamo}


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """The file of a network by an exporter, each made when it is first asked for."""
    made: dict[tuple[str, str], Path] = {}
    folder = tmp_path_factory.mktemp("networks")

    def get(name: str, exporter: str) -> Path:
        if (name, exporter) not in made:
            make, size = NETWORKS[name]
            made[name, exporter] = EXPORTERS[exporter](make(), folder / f"{name}.{exporter}.onnx", size=size)
        return made[name, exporter]

    return get
