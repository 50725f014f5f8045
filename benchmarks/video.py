"""What explaining costs a video of 1280×720, a picture drawn, and a command started.

    python benchmarks/video.py [--rounds 5] [--seconds 8] [--json FILE]

The clip pans over a picture of the samples. ``onnxcam video``, H.264 in and out, is compared with the same pipeline
that runs the model without its explanation and writes frames as they are, and with each of its stages alone on one
core; the start of ``onnxcam image``, process to picture, with that of ``import onnxruntime, cv2``. All alternate.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import av
import cv2
import numpy as np
from table import Table

from onnxcam import load
from onnxcam.exporter.attachment import detach
from onnxcam.runtime.engine import Engine
from onnxcam.runtime.pipeline import ahead
from onnxcam.runtime.render import render
from onnxcam.runtime.session import CamModel
from onnxcam.runtime.shipped import shipped_model
from onnxcam.runtime.sinks import VideoSink
from onnxcam.runtime.sources import Frame, VideoSource
from onnxcam.runtime.timing import Spread
from onnxcam.runtime.video import explain_video

ROOT = Path(__file__).parents[1]
HEIGHT, WIDTH, RATE = 720, 1280, 30


def pan(path: Path, seconds: float) -> Path:
    """A clip that moves over a picture, with the grain of a camera."""
    rng = np.random.default_rng(0)
    picture = cv2.resize(cv2.imread(str(ROOT / "models/samples/cat_and_coffee.jpg")), (1600, 900))
    grain = [rng.normal(0, 2, (HEIGHT, WIDTH, 3)).astype(np.float32) for _ in range(4)]
    with av.open(str(path), "w") as clip:
        stream = clip.add_stream("libx264", rate=RATE, options={"crf": "23", "preset": "medium"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for i in range(round(seconds * RATE)):
            left, top = round(160 + 150 * np.sin(i / 25)), round(90 + 80 * np.cos(i / 31))
            cut = picture[top : top + HEIGHT, left : left + WIDTH] + grain[i % 4]
            clip.mux(stream.encode(av.VideoFrame.from_ndarray(cut.clip(0, 255).astype(np.uint8), format="bgr24")))
        clip.mux(stream.encode(None))
    return path


def without_explanation(model: CamModel, plain: Engine, source: Path, output: Path) -> int:
    """The stages of `explain_video` with the model alone between them, and frames written as they are."""
    with VideoSource(source) as video, VideoSink(output, video.info, overwrite=True) as sink:

        def prepare(frame: Frame) -> tuple[Frame, np.ndarray]:
            return frame, model.prepare(frame.picture).tensor

        def answer(item: tuple[Frame, np.ndarray]) -> Frame:
            plain.run([model.info.score.output], {model.info.image_input: item[1][None]})
            return item[0]

        def write(frame: Frame) -> bool:
            sink.write(frame)
            return True

        with closing(ahead(write, ahead(answer, ahead(prepare, iter(video))))) as written:
            return sum(1 for _ in written)


def timed(function: Callable[[], object]) -> float:
    begun = time.perf_counter()
    function()
    return time.perf_counter() - begun


def stages(model: CamModel, clip: Path, output: Path) -> dict[str, float]:
    """Seconds for each frame that every stage takes alone, on one core where the system lets us choose."""
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    if cores:
        os.sched_setaffinity(0, {min(cores)})
    try:
        with VideoSource(clip) as video:
            begun = time.perf_counter()
            frames = list(video)[:120]
            found = {"decode": (time.perf_counter() - begun) / (video.info.frames or len(frames))}
        prepared = []
        found["prepare"] = timed(lambda: prepared.extend(model.prepare(frame.picture) for frame in frames)) / len(
            frames
        )
        found["model"] = timed(lambda: [model.run([each], feature_maps=False) for each in prepared]) / len(frames)
        (explanation,) = model.run(prepared[:1])
        found["draw"] = timed(lambda: [render(explanation) for _ in frames]) / len(frames)
        with VideoSink(output, video.info, overwrite=True) as sink:
            found["encode"] = timed(lambda: [sink.write(frame) for frame in frames]) / len(frames)
    finally:
        if cores:
            os.sched_setaffinity(0, cores)
    return {
        "decode, prepare": found["decode"] + found["prepare"],
        "model, draw": found["model"] + found["draw"],
        "encode": found["encode"],
    }


def cold_start(folder: Path) -> tuple[float, float]:
    """Seconds of ``onnxcam image`` as a whole process, and of the imports that it cannot do without."""
    picture = folder / "picture.jpg"
    picture.write_bytes((ROOT / "models/samples/cat_and_coffee.jpg").read_bytes())
    command = [sys.executable, "-m", "onnxcam", "image", str(picture), "-o", str(folder / "out.png"), "--overwrite"]
    imports = [sys.executable, "-c", "import onnxruntime, cv2"]
    return (
        timed(lambda: subprocess.run(command, check=True, capture_output=True)),
        timed(lambda: subprocess.run(imports, check=True)),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=8, help="of the clip")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    table = Table(what="{:<58}", value="{:>8.3f}", quartiles="{0[0]:>8.3f}-{0[1]:.3f}", aim="{:>8}")

    def add(what: str, values: list[float], aim: str) -> float:
        spread = Spread.of(values)
        table.add(what=what, value=spread.median, quartiles=[spread.low, spread.high], aim=aim)
        return spread.median

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clip, output = pan(folder / "clip.mp4", arguments.seconds), folder / "out.mp4"
        detach(shipped_model(), folder / "plain.onnx")
        plain = Engine(folder / "plain.onnx", None, spinning=False)
        with load(spinning=False) as model:
            frames = round(arguments.seconds * RATE)
            turns, processor = [], []
            for _ in range(arguments.rounds):
                begun = time.process_time()
                explained = timed(lambda: explain_video(model, clip, output, overwrite=True)) / frames
                processor.append((time.process_time() - begun) / frames)
                unexplained = timed(lambda: without_explanation(model, plain, clip, output)) / frames
                turns.append((explained, unexplained, stages(model, clip, output)))
            add("video: frames/s", [1 / a for a, _, _ in turns], "")
            add("video: processor time of all threads, ms/frame", [each * 1e3 for each in processor], "")
            add("video: speed over the same pipeline without explanation", [b / a for a, b, _ in turns], ">= 0.95")
            for stage in turns[0][2]:
                add(f"video: {stage} alone on one core, ms/frame", [alone[stage] * 1e3 for _, _, alone in turns], "")
            slowest = [max(alone.values()) / a for a, _, alone in turns]
            add("video: speed over the slowest stage alone", slowest, ">= 0.85")
            (explanation,) = model.run([model.prepare(next(iter(VideoSource(clip))).picture)])
        with load(spinning=False, resize="stretch") as model:
            (whole,) = model.run([model.prepare(explanation.picture)])
        threads = cv2.getNumThreads()
        cv2.setNumThreads(1)
        for what, each in (("centre", explanation), ("whole picture", whole)):
            times = [timed(lambda each=each: render(each)) * 1e3 for _ in range(200)]
            add(f"rendering 1280×720 on one core, heat on the {what}, ms", times, "<= 3")
        cv2.setNumThreads(threads)
        starts = [cold_start(folder) for _ in range(max(arguments.rounds, 5))]
        add("start: onnxcam image, s", [a for a, _ in starts], "")
        add("start: onnxcam image over import onnxruntime, cv2, s", [a - b for a, b in starts], "<= +0.5")
    if arguments.json:
        table.save(arguments.json)


if __name__ == "__main__":
    main()
