"""A video in, the same video explained out.

Nothing but waiting happens in the main thread, so that Ctrl-C finds every stage of the `pipeline` between two frames.
"""

from __future__ import annotations

__all__ = ["VideoSummary", "WrittenFrame", "explain_video"]

import os
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from onnxcam.errors import InputError
from onnxcam.runtime.calm import DEFAULT_CALM, Calm
from onnxcam.runtime.choices import ClassChoice
from onnxcam.runtime.explainer import DrawnFrame, Explainer, Look
from onnxcam.runtime.opening import CameraOptions, is_live, open_source
from onnxcam.runtime.perturbation import Perturbation
from onnxcam.runtime.pipeline import pipeline
from onnxcam.runtime.session import CamModel
from onnxcam.runtime.sinks import VideoSink, check_output
from onnxcam.runtime.sources import VideoInfo
from onnxcam.runtime.style import DEFAULT_ALPHA, DEFAULT_COLORMAP, DEFAULT_LAYOUT, Layout


@dataclass(frozen=True, slots=True)
class WrittenFrame:
    """What was written for one frame. Between two explanations (``every``), the earlier one stands."""

    index: int
    time: float
    class_index: int | None
    label: str | None
    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoSummary:
    """What `explain_video` did.

    frames: how many were written to ``output``; explained: how many of them went through the model.
    duration: of the video, in seconds; elapsed: of the work.
    problem: what of the source could not be read, or None.
    interrupted: whether Ctrl-C ended it; ``output`` then holds the frames up to there.
    """

    output: Path
    info: VideoInfo
    frames: int
    explained: int
    duration: float
    elapsed: float
    problem: str | None
    interrupted: bool


def explain_video(
    model: CamModel,
    source: str | PathLike[str],
    output: str | PathLike[str],
    *,
    class_index: ClassChoice | Sequence[ClassChoice] | None = None,
    against: ClassChoice | None = None,
    method: str | None = None,
    layer: str | None = None,
    perturbation: Perturbation | None = None,
    augment: Sequence[str] = (),
    box_index: int | None = None,
    box_threshold: float | None = None,
    reference: NDArray[Any] | None = None,
    every: int = 1,
    rate: float | None = None,
    layout: Layout = DEFAULT_LAYOUT,
    alpha: float = DEFAULT_ALPHA,
    colormap: str = DEFAULT_COLORMAP,
    caption: bool = True,
    calm: Calm = DEFAULT_CALM,
    overwrite: bool = False,
    on_start: Callable[[VideoInfo], None] | None = None,
    on_frame: Callable[[WrittenFrame], None] | None = None,
) -> VideoSummary:
    """Write to ``output`` the video ``source`` with every frame explained, its time stamps and sound kept.

    source: a file, a folder of pictures or a pattern of their names, or the address of a stream, which is written as
        long as it lasts.
    class_index: what to explain in each frame; by default that frame's top class. Of a model that explains K classes at
        once, the first of K, or one alone, is shown.
    against, method, layer, perturbation, augment, box_index, box_threshold, reference: see
        `onnxcam.runtime.session.CamModel.explain`.
    every: explain one frame in so many, and draw its heat on those up to the next.
    rate: of a folder of pictures or a pattern, in frames per second, instead of 25.
    layout, alpha, colormap, caption: see `onnxcam.runtime.render.render`.
    calm: how class, maps and their scale are kept from flickering.
    on_start, on_frame: called in the calling thread, before the first frame and after each one written.

    Ctrl-C (`KeyboardInterrupt`) is taken as the end of the video: what was done is made whole, and the summary says so.
    Of a damaged source all that can be read is explained, and the summary says what is missing.

    Raises `InputError`, `OutputError`, `ClassError`, `MethodError` or `LayerError` before any work if the source cannot
    be read, the output must not be written, or class, method or layer do not exist. An error on the way leaves no
    output; but what was written of a stream, which nobody can send again, stays as a recording (see `VideoSink`).
    """
    if every < 1:
        raise InputError(f"one frame in {every} cannot be explained: 'every' is 1 or more")
    if isinstance(class_index, int | str) and model.explained > 1:
        class_index = [class_index] * model.explained
    choice: dict[str, Any] = {
        "class_index": class_index,
        "against": against,
        "method": method,
        "layer": layer,
        "perturbation": perturbation,
        "augment": augment,
    }
    model.check(**choice)
    choice["inputs"] = model.asked(box_index=box_index, box_threshold=box_threshold, reference=reference)
    file = source if os.path.isfile(source) else None
    check_output(Path(output), source=file, overwrite=overwrite)
    started = time.monotonic()
    look = Look(choice=choice, style={"layout": layout, "alpha": alpha, "colormap": colormap, "caption": caption})
    explainer = Explainer(model, lambda: look, calm)
    with (
        open_source(os.fspath(source), CameraOptions(rate=rate)) as video,
        VideoSink(
            output, video.info, sound_from=file, overwrite=overwrite, recording=is_live(os.fspath(source))
        ) as sink,
    ):
        if on_start:
            on_start(video.info)

        def write(drawn: DrawnFrame) -> WrittenFrame:
            sink.write(drawn.frame)
            shown = drawn.explanation
            return WrittenFrame(drawn.frame.index, drawn.frame.time, shown.class_index, shown.label, shown.score)

        written = pipeline(iter(video), model, explainer, write, every=every, overlapping=True)
        interrupted = False
        try:
            with closing(written):
                for frame in written:
                    if on_frame:
                        on_frame(frame)
        except KeyboardInterrupt:
            interrupted = True
        sink.finish(rest_of_sound=not interrupted)
    return VideoSummary(
        output=sink.path,
        info=video.info,
        frames=sink.frames,
        explained=-(-sink.frames // every),
        duration=sink.duration,
        elapsed=time.monotonic() - started,
        problem=video.problem,
        interrupted=interrupted,
    )
