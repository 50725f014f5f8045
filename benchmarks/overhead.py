"""What an explanation costs: time and size of the artifact over those of the plain model.

    python benchmarks/overhead.py [MODEL ...] [--threads 1] [--batch 1] [--rounds 15] [--json FILE]

Each side runs in a process of its own; the rounds alternate between them, and the ratio is the median of the
paired ratios, with the quartiles as its spread. Also says how far the artifact's own outputs are from the plain
model's. Weights are seeded and random.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

MODELS = ("resnet50", "tf_efficientnet_lite0")


def make(name: str, folder: Path) -> tuple[Path, Path]:
    """The plain model and its artifact, from one export each."""
    import onnx_ir as ir

    import onnxcam
    from models import USUAL_LAYERS, lively
    from onnxcam.exporter.torch import export_module, random_example

    plain, artifact = folder / f"{name}.onnx", folder / f"{name}.cam.onnx"
    model, example = lively(name), random_example((3, 224, 224))
    ir.save(export_module(model, example, []).model, plain)
    onnxcam.export(model, example, artifact, layer=USUAL_LAYERS[name], outputs="all")
    return plain, artifact


def serve(path: str, threads: int, batch: int, seconds: float) -> None:
    """Answer each line on standard input with the median time of one run, in ms, over about ``seconds``."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    image = np.random.default_rng(0).standard_normal((batch, 3, 224, 224), dtype=np.float32)
    feed = {session.get_inputs()[0].name: image}
    for _ in range(5):
        session.run(None, feed)
    for _ in sys.stdin:
        times, end = [], time.perf_counter() + seconds
        while time.perf_counter() < end or len(times) < 3:
            start = time.perf_counter()
            session.run(None, feed)
            times.append(time.perf_counter() - start)
        print(statistics.median(times) * 1e3, flush=True)


def ask(process: subprocess.Popen[str]) -> float:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    return float(process.stdout.readline())


def measure(plain: Path, artifact: Path, arguments: argparse.Namespace) -> tuple[float, list[float]]:
    """The plain model's median time in ms, and the ratio of each pair of rounds."""
    command = [
        sys.executable,
        __file__,
        "--threads",
        str(arguments.threads),
        "--batch",
        str(arguments.batch),
        "--serve",
    ]
    sides = [
        subprocess.Popen([*command, str(p)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for p in (plain, artifact)
    ]
    try:
        times, ratios = [], []
        for turn in range(arguments.rounds):
            first, second = (ask(side) for side in (sides if turn % 2 == 0 else sides[::-1]))
            plain_ms, artifact_ms = (first, second) if turn % 2 == 0 else (second, first)
            times.append(plain_ms)
            ratios.append(artifact_ms / plain_ms)
    finally:
        for side in sides:
            side.terminate()
            side.wait()
    return statistics.median(times), ratios


def output_error(plain: Path, artifact: Path) -> tuple[float, bool]:
    """The relative difference of the class scores over four pictures, and whether the top five agree."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    image = np.random.default_rng(1).standard_normal((4, 3, 224, 224), dtype=np.float32)
    a, b = (
        ort.InferenceSession(str(p), options, providers=["CPUExecutionProvider"]).run(["logits"], {"image": image})[0]
        for p in (plain, artifact)
    )
    top = [np.argsort(-x, axis=1)[:, :5] for x in (a, b)]
    return float(np.abs(a - b).max() / np.abs(a).max()), bool((top[0] == top[1]).all())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("models", nargs="*", default=list(MODELS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.serve, arguments.threads, arguments.batch, 1.0)
        return
    rows = []
    print(f"{'model':<24}{'plain ms':>10}{'ratio':>8}{'spread':>16}{'size':>9}{'outputs':>10}  top 5")
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.models:
            plain, artifact = make(name, Path(folder))
            milliseconds, ratios = measure(plain, artifact, arguments)
            low, ratio, high = statistics.quantiles(ratios, n=4)
            size = artifact.stat().st_size / plain.stat().st_size
            error, same = output_error(plain, artifact)
            rows.append(
                {
                    "model": name,
                    "plain_ms": milliseconds,
                    "ratio": ratio,
                    "quartiles": [low, high],
                    "size": size,
                    "outputs": error,
                    "same_top_5": same,
                    "threads": arguments.threads,
                    "batch": arguments.batch,
                }
            )
            print(
                f"{name:<24}{milliseconds:>10.2f}{ratio:>8.3f}{f'{low:.3f}-{high:.3f}':>16}{size:>9.4f}{error:>10.1e}  "
                f"{'same' if same else 'DIFFER'}",
                flush=True,
            )
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
