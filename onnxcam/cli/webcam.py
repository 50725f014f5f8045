"""``onnxcam webcam``: what the model looks at, now."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from onnxcam.cli.arrays import reference_for
from onnxcam.cli.logs import Log, log_option
from onnxcam.cli.options import (
    calm_options,
    chosen_classes,
    json_option,
    live_choice_options,
    model_option,
    overwrite_option,
    provider_option,
    question_options,
    render_options,
    resize_option,
)
from onnxcam.cli.signals import Stop, stop_signals

if TYPE_CHECKING:
    from onnxcam.runtime.live.loop import Live, View
    from onnxcam.runtime.live.newest import Grabber
    from onnxcam.runtime.live.statistics import Ages
    from onnxcam.runtime.server.address import Address


class _Size(click.ParamType):  # type: ignore[type-arg]
    """``WIDTHxHEIGHT``."""

    name = "WxH"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        found = re.fullmatch(r"(\d+)[x×,](\d+)", str(value))
        if not found:
            self.fail(f"'{value}' is not WIDTHxHEIGHT such as 1280x720", param, ctx)
        return int(found[1]), int(found[2])


@click.command()
@click.argument("source", default="0")
@model_option
@click.option("--list", "list_cameras", is_flag=True, help="Show the cameras there are, and end.")
@click.option("--loop", is_flag=True, help="Play a file again and again, as if it were a camera.")
@click.option("--size", type=_Size(), help="Width and height asked of the camera.")
@click.option("--rate", type=click.FloatRange(min=0, min_open=True), help="Frames per second asked of the camera.")
@click.option("--pixel-format", metavar="CODE", help="Asked of the camera: MJPG, YUYV, …")
@click.option(
    "--serve",
    metavar="[HOST:PORT]",
    is_flag=False,
    flag_value="",
    help="Show it on a page, at http://127.0.0.1:8080 or at that address, instead of in a window.",
)
@click.option(
    "--token",
    envvar="ONNXCAM_TOKEN",
    show_envvar=True,
    help="That the page asks for.  [default: none on this machine alone, or else one is made]",
)
@click.option(
    "--host-name",
    "host_names",
    metavar="NAME",
    multiple=True,
    help="By which the page is reached, besides this machine's own: that of a proxy, or of a container's host.",
)
@click.option("--record", metavar="FILE", help="Record what is shown; %Y%m%d_%H%M%S stands for the time.")
@click.option(
    "--stall-after",
    type=click.FloatRange(min=0, min_open=True),
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="Without a frame after which the source counts as lost, and is opened again.",
)
@click.option("--seconds", type=click.FloatRange(min=0, min_open=True), help="End after so long.")
@click.option("--figures", is_flag=True, help="Write frames per second and the frame's age on the picture.")
@live_choice_options
@question_options
@resize_option
@calm_options
@render_options
@overwrite_option
@provider_option
@log_option
@json_option
def webcam(
    source: str,
    model: Path | None,
    list_cameras: bool,
    loop: bool,
    size: tuple[int, int] | None,
    rate: float | None,
    pixel_format: str | None,
    serve: str | None,
    token: str | None,
    host_names: tuple[str, ...],
    record: str | None,
    stall_after: float,
    seconds: float | None,
    figures: bool,
    class_index: tuple[int | str, ...],
    against: int | str | None,
    method: str | None,
    layer: str | None,
    box_index: int | None,
    box_threshold: float | None,
    reference: Path | None,
    resize: Any,
    smoothing: float,
    scale: float,
    hold: float,
    cut: float,
    overwrite: bool,
    providers: tuple[str, ...],
    log_format: str,
    as_json: bool,
    **style: Any,
) -> None:
    """Explain what a camera sees, live, in a window or on a page.

    SOURCE is the number of a camera (0 is the first), a device such as /dev/video0, a stream's address
    (rtsp://…, http://…, udp://…), or a file that plays the camera. Always the newest frame is explained; of a file
    every frame, unless it is played with --loop. In the window, the key ? shows the others.

    \b
    Examples:
      onnxcam webcam                                  the first camera, in a window
      onnxcam webcam --serve                          on a page: http://127.0.0.1:8080
      onnxcam webcam rtsp://camera/stream --serve 0.0.0.0:8080 --record '%Y%m%d_%H%M%S.mp4'
      onnxcam webcam clip.mp4 --loop                  a file as a camera
      onnxcam webcam --list
    """
    if list_cameras:
        _list(as_json)
        return
    log = Log(log_format)
    from onnxcam.errors import InputError, OutputError
    from onnxcam.runtime import load
    from onnxcam.runtime.calm import Calm
    from onnxcam.runtime.live.controls import Controls, Settings
    from onnxcam.runtime.live.loop import Live
    from onnxcam.runtime.live.newest import Grabber
    from onnxcam.runtime.live.page import page
    from onnxcam.runtime.live.recording import Recorder, Tape, recording_path
    from onnxcam.runtime.live.screen import Screen
    from onnxcam.runtime.live.statistics import Ages
    from onnxcam.runtime.live.window import screen_problem
    from onnxcam.runtime.opening import CameraOptions, is_live, open_source
    from onnxcam.runtime.sinks import check_output
    from onnxcam.runtime.streams import is_address, masked

    live_source = is_live(source)
    if loop and live_source:
        raise InputError(f"--loop plays a file again, and '{source}' is no file: leave it out")
    at = _page_address(serve, token)
    wanted = CameraOptions(size=size, rate=rate, pixel_format=pixel_format, stall_after=stall_after)
    in_window = at is None and screen_problem() is None
    if not in_window and at is None and record is None:
        if not live_source:
            open_source(source, wanted).close()  # that it is missing matters more
        chosen = "" if source == "0" else f" {masked(source) if is_address(source) else source}"
        raise OutputError(f"{screen_problem()}: 'onnxcam webcam{chosen} --serve' shows the live picture in a browser")
    ages = Ages()
    every = not live_source and not loop

    def recorder(text: str) -> Recorder:
        path = recording_path(text)
        check_output(path, source=source if os.path.isfile(source) else None, overwrite=overwrite)
        return Recorder(path, rate=Fraction(30), overwrite=overwrite, wait=every, tell=log)

    with (
        log.warnings(),
        stop_signals() as stop,
        load(model, providers=providers or None, resize=resize, spinning=False) as cam_model,
        ExitStack() as stack,
    ):
        classes = chosen_classes(class_index, cam_model.explained)
        cam_model.check(class_index=classes, method=method, against=against, layer=layer)
        first = classes[0] if isinstance(classes, list) else -1 if classes is None else classes
        settings = Settings(method=method or cam_model.methods[0], class_choice=first, figures=figures, **style)
        controls = Controls(cam_model, settings)
        asked = cam_model.asked(
            box_index=box_index, box_threshold=box_threshold, reference=reference_for(cam_model, reference)
        )
        grabber = stack.enter_context(
            Grabber(
                lambda: open_source(source, wanted),
                paced=not live_source,
                every=every,
                again=live_source or loop,
                stall_after=stall_after,
                tell=log,
            )
        )
        tape = stack.enter_context(Tape(recorder))
        if record:
            tape.start(record)
        views: list[View] = [tape.publish]
        live = Live(
            cam_model,
            grabber,
            controls,
            views,
            calm=Calm(smoothing=smoothing, scale=scale, hold=hold, cut=cut),
            choice={"against": against, "layer": layer, "inputs": asked},
        )
        if at is not None:
            shown = page(at, cam_model, controls, grabber, live, ages, token=token, names=host_names, tell=log)
            views.append(stack.enter_context(shown))
        elif in_window:
            screen = stack.enter_context(Screen(source, controls, tape, ages))
            views.append(screen.publish)
        stack.enter_context(live)
        end = None if seconds is None else time.monotonic() + seconds
        while not (stop.is_set() or live.ended.is_set() or (end is not None and time.monotonic() >= end)):
            if not in_window:
                stop.wait(0.1)
            elif not screen.refresh():
                break
        live.stop()
    _report(grabber, live, ages, as_json)
    live.raise_error()
    grabber.raise_error()
    _exit(stop, tape.trouble)


def _page_address(serve: str | None, token: str | None) -> Address | None:
    """Where the page is served; None if it is not."""
    from onnxcam.errors import InputError
    from onnxcam.runtime.server.address import parse_address
    from onnxcam.runtime.streams import masked

    if serve is None:
        origin = click.get_current_context().get_parameter_source("token")
        if token and origin is click.core.ParameterSource.COMMANDLINE:
            raise InputError("--token is what the page asks for, and no page is served: add --serve")
        return None
    if os.path.exists(serve) or "://" in serve:
        name = masked(serve) if "://" in serve else serve
        raise InputError(f"--serve took '{name}' for the address of the page: name the source before it")
    return parse_address(serve)


def _list(as_json: bool) -> None:
    from dataclasses import asdict

    from onnxcam.runtime.cameras import cameras

    found = cameras()
    for camera in found:
        place = f"  {camera.path}" if camera.path else ""
        click.echo(json.dumps(asdict(camera)) if as_json else f"{camera.index}  {camera.name}{place}")
    if not found:
        click.echo("no camera is connected", err=True)


def _exit(stop: Stop, trouble: str | None) -> None:
    """With what a supervisor expects: 0 when told to end, but 130 by Ctrl-C, and 1 if the recording failed."""
    if trouble:
        raise click.exceptions.Exit(1)
    if stop.number == signal.SIGINT:
        raise click.exceptions.Exit(stop.status)


def _report(grabber: Grabber, live: Live, ages: Ages, as_json: bool) -> None:
    median, late = ages.quantile(0.5), ages.quantile(0.99)
    numbers = {"seen": grabber.seen, "explained": live.explained, "shown": ages.count, "dropped": grabber.dropped}
    if as_json:
        click.echo(json.dumps({**numbers, "age_median_s": median, "age_99th_percentile_s": late}))
        return
    old = "" if median is None or late is None else (
        f"; age when shown: median {median * 1e3:.0f} ms, 99th percentile {late * 1e3:.0f} ms"
    )  # fmt: skip
    click.echo(", ".join(f"{count} frames {what}" for what, count in numbers.items()) + old)
