"""Whether a live view holds for weeks: memory, threads and file handles over minutes at full speed.

    python benchmarks/soak.py [--minutes 20] [--json FILE]

``onnxcam webcam CLIP --loop --serve --record`` in a process of its own, while viewers of the stream come and go. The
numbers after the first minute are compared with those at the end. Linux alone.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from urllib.request import urlopen

from table import Table

CLIP = Path(__file__).parents[1] / "models/samples/cat_to_coffee.mp4"
SETTLED = 60.0  # seconds after which everything has to stay as it is


def numbers(pid: int) -> dict[str, float]:
    """Resident MB, threads and file handles of the process."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line)
    return {
        "memory_mb": int(status["VmRSS"].split()[0]) / 1e3,
        "threads": int(status["Threads"]),
        "handles": len(os.listdir(f"/proc/{pid}/fd")),
    }


def look(address: str, over: threading.Event, seen: list[int]) -> None:
    """Watch the stream for two seconds, leave, and come back."""
    while not over.is_set():
        with suppress(OSError), urlopen(f"{address}/stream.mjpg", timeout=10) as stream:
            end = time.monotonic() + 2
            while time.monotonic() < end and not over.is_set():
                seen.append(len(stream.read(4096)))
        over.wait(0.5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--viewers", type=int, default=4)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    table = Table(minute="{:>6.1f}", memory_mb="{:>9.1f}", threads="{:>7}", handles="{:>7}")
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "onnxcam", "webcam", str(CLIP), "--loop", "--serve", "0",
                   "--record", f"{folder}/out.mp4", "--log-format", "json", "--json"]  # fmt: skip
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        address = next(told["address"] for told in map(json.loads, process.stderr) if told["event"] == "serving")
        threading.Thread(target=process.stderr.read, daemon=True).start()
        over, seen = threading.Event(), [0]
        viewers = [threading.Thread(target=look, args=(address, over, seen)) for _ in range(arguments.viewers)]
        for viewer in viewers:
            viewer.start()
        begun = time.monotonic()
        while (passed := time.monotonic() - begun) < arguments.minutes * 60:
            table.add(minute=passed / 60, **numbers(process.pid))
            time.sleep(min(20.0, arguments.minutes * 6))
        over.set()
        for viewer in viewers:
            viewer.join()
        process.terminate()
        print(process.communicate()[0].strip())
        print(f"{sum(seen) / 1e6:.0f} MB seen by the viewers, exit status {process.returncode}")
    settled = [row for row in table.rows if row["minute"] * 60 >= SETTLED] or table.rows[len(table.rows) // 2 :]
    third = max(len(settled) // 3, 1)
    growth = max(row["memory_mb"] for row in settled[-third:]) / max(row["memory_mb"] for row in settled[:third]) - 1
    threads, handles = ({row[name] for row in settled} for name in ("threads", "handles"))
    print(f"memory {growth:+.2%}, threads {min(threads)}-{max(threads)}, handles {min(handles)}-{max(handles)}")
    if arguments.json:
        table.save(arguments.json)


if __name__ == "__main__":
    main()
