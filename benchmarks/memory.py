"""Whether memory stays flat: frames through ``CamModel.explain``, and through the video pipeline.

    python benchmarks/memory.py [--explained 100000] [--video 10000] [--json FILE]

Resident memory after the first 1000 frames and at the end. The frames are those of the clip that ships, over and over.
Linux alone.
"""

from __future__ import annotations

import argparse
import itertools
import os
import tempfile
import time
from pathlib import Path

import av
import numpy as np
from table import Table

from onnxcam import load
from onnxcam.runtime.sources import VideoSource
from onnxcam.runtime.video import explain_video

SETTLED = 1000  # frames after which memory has to stay as it is
CLIP = Path(__file__).parents[1] / "models/samples/cat_to_coffee.mp4"


def resident() -> float:
    """MB that this process holds now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


class Watch:
    """Counts frames, and notes the memory at the first that is `SETTLED`, at every tenth of the way, and at the end."""

    def __init__(self, total: int) -> None:
        self.total, self.count, self.seen = total, 0, []
        self._begun = time.monotonic()

    def __call__(self, *_: object) -> None:
        self.count += 1
        if self.count == SETTLED or (self.count > SETTLED and self.count % max(self.total // 10, 1) == 0):
            self.seen.append(resident())

    def row(self, what: str) -> dict[str, object]:
        first, last = self.seen[0], float(np.median(self.seen[-3:]))
        return {"what": what, "frames": self.count, "settled_mb": first, "end_mb": last, "growth": last / first - 1,
                "frames_per_second": self.count / (time.monotonic() - self._begun), "aim": "< 1%"}  # fmt: skip


def explained(total: int) -> Watch:
    with VideoSource(CLIP) as video:
        pictures = [frame.picture for frame in video]
    watch = Watch(total)
    with load(threads=1) as model:
        for picture in itertools.islice(itertools.cycle(pictures), total):
            _ = model.explain(picture).heatmap
            watch()
    return watch


def filmed(total: int) -> Watch:
    watch = Watch(total)
    with tempfile.TemporaryDirectory() as folder, load(spinning=False) as model:
        clip = Path(folder) / "long.mp4"
        repeat(CLIP, clip, total)
        explain_video(model, clip, Path(folder) / "out.mp4", on_frame=watch)
    return watch


def repeat(source: Path, path: Path, frames: int) -> None:
    """The pictures of ``source`` over and over, without encoding them again."""
    with av.open(str(path), "w") as output:
        target, count, shift = None, 0, 0
        while count < frames:
            with av.open(str(source)) as media:
                stream = media.streams.video[0]
                target = target or output.add_stream_from_template(stream)
                last = 0
                for packet in media.demux(stream):
                    if packet.dts is None or count >= frames:
                        continue
                    last = max(last, packet.pts + packet.duration)
                    packet.pts, packet.dts, packet.stream = packet.pts + shift, packet.dts + shift, target
                    output.mux(packet)
                    count += 1
                shift += last


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--explained", type=int, default=100_000)
    parser.add_argument("--video", type=int, default=10_000)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    table = Table(what="{:<20}", frames="{:>7}", settled_mb="{:>10.1f}", end_mb="{:>8.1f}", growth="{:>+8.2%}",
                  frames_per_second="{:>8.1f}", aim="{:>6}")  # fmt: skip
    table.add(**filmed(arguments.video).row("video pipeline"))
    table.add(**explained(arguments.explained).row("CamModel.explain"))
    if arguments.json:
        table.save(arguments.json)


if __name__ == "__main__":
    main()
