"""Whether damaged pictures and videos give what can be read of them, or one sentence: no traceback, hang or crash.

    python benchmarks/fuzz.py [--count 20000] [--seed 2] [--keep FOLDER]

Small files of every format, damaged by chance, each batch read in a process of its own. Every file that does anything
else is named, and with --keep put aside.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
BATCH = 500
PATIENCE = 120  # seconds for a batch, which takes 5


def main() -> int:
    from runtime.damage import damaged, originals

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=2)
    parser.add_argument("--keep", type=Path, help="folder for the files that do anything else")
    arguments = parser.parse_args()
    picture = cv2.imread(str(ROOT / "models/samples/cat_and_coffee.jpg"))
    began, wrong = time.monotonic(), []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        originals(folder, cv2.resize(picture, (164, 96), interpolation=cv2.INTER_AREA))
        number = 0
        while number < arguments.count:
            numbers, reasons = batch(folder, arguments.seed, number, min(BATCH, arguments.count - number))
            wrong += reasons
            number = numbers[-1] + 1
            for failed, reason in reasons:
                print(reason, flush=True)
                if arguments.keep:
                    arguments.keep.mkdir(parents=True, exist_ok=True)
                    path = damaged(folder, arguments.seed, failed)
                    shutil.copy(path, arguments.keep / f"{arguments.seed}_{failed}{path.suffix}")
    print(f"{arguments.count} files, {len(wrong)} faults, {time.monotonic() - began:.0f} s")
    return bool(wrong)


def batch(folder: Path, seed: int, first: int, count: int) -> tuple[list[int], list[tuple[int, str]]]:
    """The numbers of the files that were begun, and those that failed with the reason."""
    program = str(ROOT / "tests/runtime/damage.py")
    command = [sys.executable, program, str(folder), str(seed), str(first), str(count)]
    hung = False
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+", errors="replace") as err:
        process = subprocess.Popen(command, stdout=out, stderr=err, env={**os.environ, "PYTHONPATH": str(ROOT)})
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            hung = True
        out.seek(0)
        err.seek(0)
        numbers = [int(line) for line in out] or [first]
        lines = [line.strip() for line in err]
    told = [line for line in lines if line.split(" ")[0].isdecimal() and ": " in line]
    reasons = [(int(line.split(" ")[0]), line) for line in told]
    if hung or process.returncode not in (0, 1):
        reasons.append((numbers[-1], f"{numbers[-1]}: {'it hangs' if hung else f'exit status {process.returncode}'}"))
    return numbers, reasons


if __name__ == "__main__":
    sys.exit(main())
