"""Whether a live view holds for weeks: memory, threads and file handles over minutes at full speed.

    python benchmarks/soak.py [--minutes 20] [--json FILE]

``onnxcam webcam CLIP --loop --serve --record`` in a process of its own, while viewers of the page's stream and of the
MJPEG come and go. The numbers after the first minute are compared with those at the end; the exit status is 1 if they
grew. Linux alone.
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
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from statistics import median
from urllib.request import urlopen

from table import Table
from websockets.exceptions import WebSocketException
from websockets.sync.client import connect

CLIP = Path(__file__).parents[1] / "models/samples/cat_to_coffee.mp4"
SETTLED = 60.0  # seconds after which everything has to stay as it is
GROWTH = 0.02  # of memory, that counts as flat
STAY = 2.0  # seconds that a viewer looks on


def numbers(pid: int) -> dict[str, float]:
    """Resident MB, threads and file handles of the process."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line)
    return {
        "memory_mb": int(status["VmRSS"].split()[0]) / 1e3,
        "threads": int(status["Threads"]),
        "handles": len(os.listdir(f"/proc/{pid}/fd")),
    }


def mjpeg(address: str) -> Iterator[int]:
    """Bytes of the MJPEG, as they come."""
    with urlopen(f"{address}/stream.mjpg", timeout=10) as stream:
        while True:
            yield len(stream.read(4096))


def page(address: str) -> Iterator[int]:
    """Bytes of the frames that the page shows, as they come."""
    with connect(f"{address.replace('http', 'ws', 1)}/live", origin=address, max_size=None) as stream:
        for message in stream:
            if isinstance(message, bytes):
                stream.send("shown")
                yield len(message)


def look(frames: Callable[[str], Iterator[int]], address: str, over: threading.Event, seen: list[int]) -> None:
    """Watch for two seconds, leave, and come back."""
    while not over.is_set():
        with suppress(OSError, WebSocketException), closing(frames(address)) as coming:
            end = time.monotonic() + STAY
            for size in coming:
                seen.append(size)
                if time.monotonic() >= end or over.is_set():
                    break
        over.wait(0.5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--viewers", type=int, default=2, help="of each kind")
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
        over, seen = threading.Event(), {mjpeg: [0], page: [0]}
        viewers = [
            threading.Thread(target=look, args=(frames, address, over, seen[frames]))
            for frames in (mjpeg, page)
            for _ in range(arguments.viewers)
        ]
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
        amounts = [sum(sizes) / 1e6 for sizes in seen.values()]
        print("MB seen as MJPEG and on pages: {:.0f}, {:.0f}; exit status".format(*amounts), process.returncode)
    settled = [row for row in table.rows if row["minute"] * 60 >= SETTLED] or table.rows[len(table.rows) // 2 :]
    third = max(len(settled) // 3, 1)
    growth = max(row["memory_mb"] for row in settled[-third:]) / max(row["memory_mb"] for row in settled[:third]) - 1
    threads, handles = ({row[name] for row in settled} for name in ("threads", "handles"))
    print(f"memory {growth:+.2%}, threads {min(threads)}-{max(threads)}, handles {min(handles)}-{max(handles)}")
    if arguments.json:
        table.save(arguments.json)
    flat = growth < GROWTH and process.returncode == 0 and min(amounts) > 0
    sys.exit(0 if flat and last_above(settled, "threads") <= 0 and last_above(settled, "handles") <= 0 else 1)


def last_above(rows: list[dict[str, float]], name: str) -> float:
    """By how much the last third's median is above the greatest of the first third."""
    third = max(len(rows) // 3, 1)
    return median(row[name] for row in rows[-third:]) - max(row[name] for row in rows[:third])


if __name__ == "__main__":
    main()
