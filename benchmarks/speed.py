"""What an explanation costs: time, file, start and memory of an artifact over those of the same model without it.

    python benchmarks/speed.py [ROW ...] [--threads 1 2] [--batch 1 8] [--rounds 15] [--json FILE] [--plot FILE]

A row is one line of the table; ``--list`` names them. Each side runs in a process of its own, and the two take turns;
three such pairs are measured one after another. A ratio is the median of the ratios of neighbouring turns, with the
quartiles as its spread. Weights are random.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from plot import overheads
from table import Table

from models import USUAL_LAYERS, lively
from onnxcam.runtime.timing import Runner, Spread, alternated, ratios

SIDE = 224
PAIRS = 3
"""Of processes that share the rounds: memory, and speed a little, depend on where the system puts things."""
FIVE_METHODS = ["gradcam", "layercam", "gradcam++", "xgradcam", "hirescam"]


@dataclass(frozen=True)
class Row:
    """``explained`` against ``plain``, each the options of an export of ``model``; None is the model itself."""

    what: str
    model: str
    aim: str
    explained: dict[str, Any] = field(default_factory=dict)
    plain: dict[str, Any] | None = None

    def limit(self, plain_ms: float) -> float:
        """The aim as a ratio."""
        _, number, *unit = self.aim.split()
        return 1 + float(number) / plain_ms if unit == ["ms"] else float(number)


def _at_input(model: str, aim: str) -> Row:
    return Row("gradient at the input", model, aim, {"method": "saliency"})


ROWS = {
    "resnet50": Row("Grad-CAM at the last layer", "resnet50", "<= 1.015"),
    "lite0": Row("Grad-CAM at the last layer", "tf_efficientnet_lite0", "<= 1.015"),
    "mobilenetv3": Row("Grad-CAM at the last layer", "mobilenetv3_small_100", "<= +0.08 ms"),
    "vit": Row("Grad-CAM before the last block", "vit_tiny_patch16_224", "<= 1.10"),
    "methods": Row(
        "five methods, over one", "tf_efficientnet_lite0", "<= 1.03", {"method": FIVE_METHODS}, {"method": "gradcam"}
    ),
    "classes": Row("five classes, over one", "tf_efficientnet_lite0", "<= 1.08", {"classes": 5}, {"method": "gradcam"}),
    "layer2": Row("Grad-CAM at a middle layer", "resnet18", "<= 1.35", {"layer": "layer2"}),
    "resnet18-input": _at_input("resnet18", "<= 2.2"),
    "resnet50-input": _at_input("resnet50", "<= 2.2"),
    "mobilenetv2-input": _at_input("mobilenetv2_100", "<= 2.8"),
    "mobilenetv3-input": _at_input("mobilenetv3_small_100", "<= 2.8"),
    "lite0-input": _at_input("tf_efficientnet_lite0", "<= 2.8"),
}


def save(row: Row, options: dict[str, Any] | None, path: Path) -> Path:
    """The row's model at ``path``, with the explanation that ``options`` ask for, or without one."""
    import onnx_ir as ir

    import onnxcam
    from onnxcam.exporter.torch import export_module, random_example

    model, example = lively(row.model), random_example((3, SIDE, SIDE))
    if options is None:
        ir.save(export_module(model, example, []).model, path)
    else:
        layer = {} if options.get("method") == "saliency" else {"layer": USUAL_LAYERS[row.model]}
        onnxcam.export(model, example, path, **{"outputs": "cam", **layer, **options})
    return path


def compare(files: Sequence[Path], *, threads: int, batch: int, rounds: int, seconds: float) -> dict[str, Any]:
    """Times of both files, and the ratios of everything that is measured."""
    inputs = {"image": ([batch, 3, SIDE, SIDE], "float32")}
    times, memories = [], []
    for i in range(PAIRS):
        with Runner(files[0], inputs, threads=threads) as plain, Runner(files[1], inputs, threads=threads) as explained:
            share = range(i, rounds, PAIRS)
            times += alternated([plain, explained], rounds=len(share), seconds=seconds)
            memories.append((plain.memory(), explained.memory()))
    ratio, more = ratios(times), Spread.of([(b - a) * 1e3 for a, b in times])
    known = [(float(a), float(b)) for a, b in memories if a and b]
    return {
        "ms": Spread.of([a * 1e3 for a, _ in times]).median,
        "ratio": ratio.median,
        "quartiles": [ratio.low, ratio.high],
        "more_ms": more.median,
        "file": files[1].stat().st_size / files[0].stat().st_size,
        "memory": ratios(known).median if len(known) > 1 else None,
    }


def start_ratio(files: Sequence[Path], *, rounds: int = 11) -> float:
    """How many times as long ONNX Runtime takes to load the second file, each time in a new process."""
    inputs = {"image": ([1, 3, SIDE, SIDE], "float32")}
    times = []
    for _ in range(rounds):
        with Runner(files[0], inputs, threads=1) as plain, Runner(files[1], inputs, threads=1) as explained:
            times.append((plain.start, explained.start))
    return ratios(times).median


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("rows", nargs="*", metavar="ROW", choices=[*ROWS, []], help="of the table; all by default")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=0.5, help="of a turn")
    parser.add_argument("--list", action="store_true", help="name the rows")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()
    if arguments.list:
        print("\n".join(f"{name:<18} {row.what}: {row.model}" for name, row in ROWS.items()))
        return
    table = Table(
        what="{:<32}", model="{:<22}", aim="{:>11}", threads="{:>7}", batch="{:>5}", ms="{:>8.2f}", ratio="{:>6.3f}",
        quartiles="{0[0]:>6.3f}-{0[1]:.3f}", more_ms="{:>+8.2f}", file="{:>7.4f}", start="{:>6.2f}", memory="{:>6.2f}",
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.rows or ROWS:
            row = ROWS[name]
            files = [
                save(row, options, Path(folder) / f"{name}.{side}.onnx")
                for side, options in (("plain", row.plain), ("explained", row.explained))
            ]
            start = start_ratio(files)
            for threads in arguments.threads:
                for batch in arguments.batch:
                    found = compare(
                        files, threads=threads, batch=batch, rounds=arguments.rounds, seconds=arguments.seconds
                    )
                    named = {"what": row.what, "model": row.model, "aim": row.aim, "start": start}
                    named["limit"] = row.limit(found["ms"])
                    table.add(threads=threads, batch=batch, **named, **found)
            for file in files:
                file.unlink()
    if arguments.json:
        table.save(arguments.json)
    if arguments.plot:
        overheads(table.rows, arguments.plot)


if __name__ == "__main__":
    main()
