"""How the time of an explained picture grows with the batch, the classes, the picture and the model.

    pip install matplotlib
    python benchmarks/growth.py [--threads 2] [--rounds 5] [--json FILE] [--plot FILE]

Each point is the time of one run over that of the same model without explanation, and over the first point of its
line: linear is a straight line through the first, and below it is better.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models import lively

# isort: split

import timm
import torch
from plot import growth
from table import Table

import onnxcam
from onnxcam.exporter.attachment import detach
from onnxcam.runtime.timing import Runner, alternated, ratios


@dataclass(frozen=True)
class Point:
    """A model, and what is done with it."""

    line: str
    size: float
    model: str
    layer: str
    side: int = 224
    batch: int = 1
    classes: int = 1


def points() -> Iterator[Point]:
    lite0 = {"model": "tf_efficientnet_lite0", "layer": "bn2"}
    for batch in (1, 4, 16, 64):
        yield Point("batch", batch, **lite0, batch=batch)
    for classes in (1, 10, 50):
        yield Point("classes", classes, **lite0, classes=classes)
    for side in (224, 448, 1024):
        yield Point("picture's side", side, **lite0, side=side)
    for name, layer in (
        ("tf_efficientnet_lite0", "bn2"), ("resnet50", "layer4"), ("vit_base_patch16_224", "blocks.10"),
        ("vit_large_patch16_224", "blocks.22"),
    ):  # fmt: skip
        parameters = sum(p.numel() for p in timm.create_model(name).parameters()) / 1e6
        yield Point("model's parameters, millions", round(parameters, 1), name, layer)


def measure(point: Point, folder: Path, *, threads: int, rounds: int) -> tuple[float, float, list[float]]:
    """Seconds of one run without and with explanation, and quartiles of the ratio."""
    artifact, plain = folder / "a.cam.onnx", folder / "plain.onnx"
    options: dict[str, Any] = {"classes": point.classes} if point.classes > 1 else {}
    onnxcam.export(lively(point.model), torch.randn(1, 3, point.side, point.side), artifact, layer=point.layer,
                   outputs="cam", **options)  # fmt: skip
    detach(artifact, plain)
    inputs = {"image": ([point.batch, 3, point.side, point.side], "float32")}
    with Runner(plain, inputs, threads=threads) as a, Runner(artifact, inputs, threads=threads) as b:
        times = list(alternated([a, b], rounds=rounds, seconds=0.4))
    middle = sorted(times)[len(times) // 2]
    found = ratios(times)
    return *middle, [found.low, found.median, found.high]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()
    table = Table(line="{:<28}", size="{:>7}", model="{:<22}", plain_ms="{:>9.2f}", explained_ms="{:>9.2f}",
                  ratio="{0[1]:>6.3f} ({0[0]:.3f}-{0[2]:.3f})")  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        for point in points():
            plain, explained, ratio = measure(point, Path(folder), threads=arguments.threads, rounds=arguments.rounds)
            table.add(line=point.line, size=point.size, model=point.model, plain_ms=plain * 1e3,
                      explained_ms=explained * 1e3, ratio=ratio)  # fmt: skip
    if arguments.json:
        table.save(arguments.json)
    if arguments.plot:
        growth(table.rows, arguments.plot)


if __name__ == "__main__":
    main()
