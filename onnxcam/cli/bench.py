"""``onnxcam bench``: what an explanation costs, here."""

from __future__ import annotations

import json
import tempfile
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from onnxcam.cli.options import json_option, provider_option

if TYPE_CHECKING:
    from onnxcam.runtime.bench import Bench


@click.command()
@click.argument("artifact", type=click.Path(path_type=Path), required=False)
@click.option("--threads", type=click.IntRange(min=1), help="For one operator.  [default: one for each core]")
@click.option("--batch", type=click.IntRange(min=1), default=1, show_default=True, help="Pictures in one run.")
@click.option("--rounds", type=click.IntRange(min=2), default=15, show_default=True, help="Turns of either side.")
@click.option(
    "--seconds", type=click.FloatRange(min=0, min_open=True), default=0.5, show_default=True, help="Of one turn."
)
@provider_option
@json_option
def bench(
    artifact: Path | None,
    threads: int | None,
    batch: int,
    rounds: int,
    seconds: float,
    providers: tuple[str, ...],
    as_json: bool,
) -> None:
    """Measure what the explanation in ARTIFACT costs on this machine, beside the model without it.

    Both run on random pictures, each in a process of its own, and take turns; a figure is the median, with quartiles
    in brackets. Without ARTIFACT, the model that ships. The model without its explanation is made on the way, which
    needs the extra 'export'; without it, the explaining side alone is measured.

    \b
    Examples:
      onnxcam bench
      onnxcam bench resnet50.cam.onnx --threads 1 --batch 8
      onnxcam bench resnet50.cam.onnx --provider cuda --json
    """
    from onnxcam.cli.progress import share_progress
    from onnxcam.runtime.bench import measure
    from onnxcam.runtime.shipped import shipped_model

    path = artifact or shipped_model()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        plain = _plain(path, Path(folder))
        advance = stack.enter_context(share_progress(path.name, shown=True))
        result = measure(
            path,
            plain=plain,
            threads=threads,
            batch=batch,
            rounds=rounds,
            seconds=seconds,
            providers=providers or None,
            progress=advance,
        )
    if as_json:
        click.echo(json.dumps(_as_json(path, result)))
        return
    for line in _table(path, result):
        click.echo(line)
    if plain is None:
        click.echo('The plain model is not measured: pip install "onnxcam[export]" brings what takes it out.', err=True)


def _plain(path: Path, folder: Path) -> Path | None:
    """The model of the artifact at ``path`` without its explanation; None where nothing here can make it."""
    if find_spec("onnx_ir") is None:
        return None
    from onnxcam.exporter.attachment import detach

    plain = folder / "plain.onnx"
    detach(path, plain)
    return plain


def _as_json(path: Path, result: Bench) -> dict[str, Any]:
    def spread(value: Any) -> list[float] | None:
        return None if value is None else [value.low, value.median, value.high]

    sides = {
        name: {
            "seconds": spread(side.time),
            "pictures_per_second": result.batch / side.time.median,
            "start_seconds": side.start,
            "memory_bytes": side.memory,
            "file_bytes": side.size,
        }
        for name, side in result.sides.items()
    }
    return {
        "file": str(path),
        "providers": list(result.providers),
        "threads": result.threads,
        "batch": result.batch,
        **sides,
        "ratio": spread(result.ratio),
        "shares": result.shares,
        "frame_seconds": spread(result.frame),
    }


def _table(path: Path, result: Bench) -> list[str]:
    from rich.filesize import decimal

    cores = f"{result.threads} thread{'s' if result.threads > 1 else ''}"
    lines = [
        f"{path.name} on {result.providers[0]}, {cores}, batch {result.batch}",
        f"{'':<10} {'ms, quartiles':>24} {'pictures/s':>11} {'start':>8} {'memory':>9} {'file':>9}",
    ]
    for name, side in result.sides.items():
        milliseconds = side.time.times(1e3)
        memory = "-" if side.memory is None else decimal(side.memory)
        lines.append(
            f"{name:<10} {f'{milliseconds:.2f}':>24} {result.batch / side.time.median:>11.1f} {side.start:>6.2f} s "
            f"{memory:>9} {decimal(side.size):>9}"
        )
    if result.ratio is not None:
        lines.append(f"{'ratio':<10} {f'{result.ratio:.3f}':>24}")
    lines.append("of the time: " + ", ".join(f"{part} {share:.1%}" for part, share in result.shares.items()))
    if result.frame is not None:
        frame = result.frame
        lines.append(
            f"a frame of 1280×720 prepared, explained and drawn: {frame.times(1e3):.1f} ms, "
            f"{1 / frame.median:.1f} frames/s"
        )
    return lines
