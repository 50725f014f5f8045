"""``onnxcam video``: every frame of a video explained."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from onnxcam.cli.arrays import reference_for
from onnxcam.cli.options import (
    calm_options,
    choice_options,
    chosen_classes,
    json_option,
    model_option,
    overwrite_option,
    perturbation_options,
    provider_option,
    question_options,
    render_options,
    resize_option,
)
from onnxcam.cli.signals import terminated_as_interrupted

if TYPE_CHECKING:
    from onnxcam.runtime.sources import VideoInfo
    from onnxcam.runtime.video import VideoSummary, WrittenFrame

_STRETCHES = 20  # as many as a screen shows


@click.command()
@click.argument("source", metavar="INPUT")
@model_option
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Video to write: .mp4, .m4v, .mov or .mkv.  [default: INPUT_cam.mp4]",
)
@choice_options
@perturbation_options
@question_options
@click.option(
    "--every",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar="N",
    help="Explain one frame in N, and keep its heat until the next.",
)
@click.option(
    "--rate",
    type=click.FloatRange(min=0, min_open=True),
    metavar="FPS",
    help="Frames per second of a folder or pattern of pictures.  [default: 25]",
)
@resize_option
@calm_options
@render_options
@overwrite_option
@provider_option
@json_option
def video(
    source: str,
    model: Path | None,
    output: Path | None,
    class_index: tuple[int | str, ...],
    against: int | str | None,
    method: str | None,
    layer: str | None,
    augment: tuple[str, ...],
    samples: int | None,
    sigma: float | None,
    window: int | None,
    stride: int | None,
    seed: int,
    batch: int,
    box_index: int | None,
    box_threshold: float | None,
    reference: Path | None,
    every: int,
    rate: float | None,
    smoothing: float,
    scale: float,
    hold: float,
    cut: float,
    overwrite: bool,
    providers: tuple[str, ...],
    as_json: bool,
    resize: Any,
    **style: Any,
) -> None:
    """Explain every frame of the video INPUT, and write it with its sound as H.264 that plays anywhere.

    INPUT is a file, a folder of pictures or a pattern of their names, or a stream's address.
    Ctrl-C ends the work early and keeps what was done. Of a damaged file, all that can be read is explained; of a
    stream, what came until it ended or broke off.

    \b
    Examples:
      onnxcam video input.mp4                                -> input_cam.mp4
      onnxcam video input.mp4 --class 'tabby' --layout side-by-side
      onnxcam video input.mp4 -m resnet50.cam.onnx -o explained.mkv --every 3
      onnxcam video input.mp4 --json > frames.jsonl
      onnxcam video 'img_%04d.png' --rate 12                 -> img_cam.mp4
      onnxcam video rtsp://camera/stream                     -> camera_cam.mp4
    """
    from onnxcam.cli.progress import frame_progress
    from onnxcam.runtime import load
    from onnxcam.runtime.calm import Calm
    from onnxcam.runtime.opening import default_output
    from onnxcam.runtime.perturbation import Perturbation
    from onnxcam.runtime.sinks import check_output
    from onnxcam.runtime.streams import is_address, masked
    from onnxcam.runtime.video import explain_video

    output = output or default_output(source)
    check_output(output, source=source if os.path.isfile(source) else None, overwrite=overwrite)
    name = masked(source) if is_address(source) else source
    frames: list[WrittenFrame] = []
    with (
        terminated_as_interrupted() as told,
        load(model, providers=providers or None, resize=resize, spinning=False) as cam_model,
        frame_progress(Path(name).name) as (start, advance),
    ):

        def on_start(info: VideoInfo) -> None:
            start(info.frames or (info.duration and round(info.duration * info.average_rate)) or None)

        def on_frame(frame: WrittenFrame) -> None:
            if as_json:
                click.echo(_json_line(frame))
            else:
                frames.append(frame)
            advance()

        classes = chosen_classes(class_index, cam_model.explained)
        summary = explain_video(
            cam_model,
            source,
            output,
            class_index=classes[0] if isinstance(classes, list) and len(classes) == 1 else classes,
            against=against,
            method=method,
            layer=layer,
            perturbation=Perturbation(
                samples=samples, sigma=sigma, window=window, stride=stride, seed=seed, batch=batch
            ),
            augment=augment,
            box_index=box_index,
            box_threshold=box_threshold,
            reference=reference_for(cam_model, reference),
            every=every,
            rate=rate,
            calm=Calm(smoothing=smoothing, scale=scale, hold=hold, cut=cut),
            overwrite=overwrite,
            on_start=on_start,
            on_frame=on_frame,
            **style,
        )
    if not as_json:
        for line in _report(summary, frames):
            click.echo(line)
    if summary.problem:
        click.echo(f"Warning: '{name}': {summary.problem}", err=True)
    if summary.interrupted:
        kept = f"'{output}' holds the {summary.frames} frames up to there" if summary.frames else "nothing is written"
        click.echo(f"Interrupted: {kept}", err=True)
        raise click.exceptions.Exit(told.status)


def _json_line(frame: WrittenFrame) -> str:
    return json.dumps(
        {
            "frame": frame.index,
            "time": round(frame.time, 6),
            "class": frame.class_index,
            "label": frame.label,
            "score": round(frame.score, 6),
        },
        ensure_ascii=False,
    )


def _name(frame: WrittenFrame) -> str:
    return frame.label or ("score" if frame.class_index is None else f"class {frame.class_index}")


def _report(summary: VideoSummary, frames: Sequence[WrittenFrame]) -> Iterator[str]:
    """The file that was written, and the stretches of one class with their mean probability."""
    yield (
        f"{summary.output}: {summary.frames} frames, {summary.duration:.2f} s, explained in {summary.elapsed:.1f} s "
        f"({summary.frames / summary.elapsed:.1f} frames per second)"
    )
    runs = [list(run) for _, run in groupby(frames, key=lambda frame: frame.class_index)]
    ends = [run[0].time for run in runs[1:]] + [summary.duration]
    stretches = [
        (run[0].time, end, _name(run[0]), sum(f.score for f in run) / len(run))
        for run, end in zip(runs, ends, strict=True)
    ]
    longest = sorted(stretches, key=lambda stretch: stretch[0] - stretch[1])[:_STRETCHES]
    for begin, end, name, score in sorted(longest):
        yield f"  {begin:.2f}-{end:.2f} s  {name}  {score:.2f}"
    if len(stretches) > len(longest):
        yield f"  and {len(stretches) - len(longest)} shorter stretches: --json gives every frame"
