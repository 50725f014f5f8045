"""What `onnxcam attach` takes: wall time, and resident memory above that of the bare imports, over the model's size.

    python benchmarks/attach.py MODEL.onnx [MODEL.onnx ...] [--json FILE]

Each model is attached in a process of its own, at the layer found by itself, into a temporary file. The time is that
of the whole command, imports included. Needs a Unix (the `resource` module).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROBE = """
import resource, sys
import onnxcam.exporter
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
before = peak()
onnxcam.exporter.attach(sys.argv[1], sys.argv[2])
print(before, peak())
"""


def measure(path: Path) -> dict[str, float | str]:
    size = sum(file.stat().st_size for file in (path, path.with_name(f"{path.name}.data")) if file.exists())
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", PROBE, str(path), f"{folder}/out.cam.onnx"],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        seconds = time.perf_counter() - start
    before, peak = map(int, done.stdout.split())
    return {"model": path.name, "size": size, "seconds": seconds, "imports": before, "ratio": (peak - before) / size}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("models", nargs="+", type=Path, metavar="MODEL.onnx")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows = [measure(path) for path in arguments.models]
    print("| model | size | time | memory / size |\n|---|---|---|---|")
    for row in rows:
        print(f"| {row['model']} | {row['size'] / 1e6:.1f} MB | {row['seconds']:.2f} s | {row['ratio']:.2f} |")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
