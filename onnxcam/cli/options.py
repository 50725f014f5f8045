"""Options that several commands share, each written once. Nothing here imports OpenCV or ONNX Runtime."""

from __future__ import annotations

__all__ = [
    "InputSize",
    "Names",
    "Numbers",
    "artifact_options",
    "box_info",
    "calm_options",
    "choice_options",
    "chosen_classes",
    "json_option",
    "live_choice_options",
    "max_pixels_option",
    "model_option",
    "overwrite_option",
    "perturbation_options",
    "provider_option",
    "question_options",
    "render_options",
    "resize_option",
    "score_option",
]

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, get_args

import click

from onnxcam.contract import ResizeMode, ScoreKind
from onnxcam.runtime.perturbation import METHODS
from onnxcam.runtime.perturbation.options import DEFAULT_BATCH
from onnxcam.runtime.style import (
    COLORMAPS,
    DEFAULT_ALPHA,
    DEFAULT_COLORMAP,
    DEFAULT_CUT,
    DEFAULT_HOLD,
    DEFAULT_LAYOUT,
    DEFAULT_SCALE,
    DEFAULT_SMOOTHING,
    LAYOUTS,
)

F = TypeVar("F", bound=Callable[..., Any])


class InputSize(click.ParamType):  # type: ignore[type-arg]
    """``CHANNELS,HEIGHT,WIDTH``."""

    name = "C,H,W"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int, int]:
        if isinstance(value, tuple):
            return value
        parts = str(value).split(",")
        if len(parts) != 3 or not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
            self.fail(f"'{value}' is not CHANNELS,HEIGHT,WIDTH such as 3,224,224", param, ctx)
        channels, height, width = map(int, parts)
        return channels, height, width


class Numbers(click.ParamType):  # type: ignore[type-arg]
    """Numbers separated by commas, one per channel."""

    name = "NUMBERS"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        try:
            return tuple(float(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"'{value}' is not numbers separated by commas, such as 0.485,0.456,0.406", param, ctx)


class Names(click.ParamType):  # type: ignore[type-arg]
    """Names separated by commas."""

    name = "NAMES"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        if isinstance(value, tuple):
            return value
        return tuple(part.strip() for part in str(value).split(",") if part.strip())


def _index_or_label(value: str) -> int | str:
    try:
        return int(value)
    except ValueError:
        return value


model_option = click.option(
    "-m",
    "--model",
    type=click.Path(path_type=Path),
    help="The artifact to run.  [default: the EfficientNet-lite0 that ships with onnxcam]",
)

provider_option = click.option(
    "--provider",
    "providers",
    multiple=True,
    metavar="NAME",
    help="Execution provider, e.g. cpu or cuda; may be repeated, best first.  [default: the best installed]",
)

resize_option = click.option(
    "--resize",
    type=click.Choice(get_args(ResizeMode)),
    help="How pictures are brought to the input size: distorted, cut to the middle, or whole with a border.",
)

overwrite_option = click.option("--overwrite", is_flag=True, help="Replace results that are already there.")

json_option = click.option("--json", "as_json", is_flag=True, help="Write one JSON object a line to stdout.")

max_pixels_option = click.option(
    "--max-pixels",
    type=click.IntRange(min=1),
    metavar="N",
    help="Refuse pictures with more pixels than this.  [default: 178956970]",
)


def chosen_classes(values: tuple[int | str, ...], explained: int) -> Any:
    """What ``--class`` means to a model that explains so many classes of each picture, as `explain` takes it."""
    from onnxcam.errors import ClassError

    if explained > 1:
        parts = [part for value in values for part in (value.split(",") if isinstance(value, str) else [value])]
        return [_index_or_label(part.strip()) if isinstance(part, str) else part for part in parts] or None
    if len(values) > 1:
        raise ClassError(
            f"--class was given {len(values)} times, and this model explains one class of each picture: make it with "
            "--classes for more"
        )
    return values[0] if values else None


def question_options(function: F) -> F:
    """What is asked that is no class: ``--box-index``, ``--box-threshold`` and ``--reference``."""
    for option in (
        click.option(
            "--box-index", type=int, metavar="N|RANK", help="Of a detector: the box; -1 is the class's likeliest."
        ),
        click.option(
            "--box-threshold",
            type=click.FloatRange(0, 1),
            help="Of a detector, all of whose boxes of a class are explained: the least probability.  [default: 0.25]",
        ),
        click.option(
            "--reference",
            type=click.Path(path_type=Path),
            help="Of a similarity: a NumPy file with the embedding to be similar to, or a picture, whose embedding is "
            "taken.",
        ),
    ):
        function = option(function)
    return function


def calm_options(function: F) -> F:
    """How maps are kept calm over time, under the names `onnxcam.runtime.calm.Calm` takes; 0 turns each off."""
    for option in (
        click.option(
            "--cut",
            type=click.FloatRange(0, 1),
            default=DEFAULT_CUT,
            show_default=True,
            help="Change of the picture from which it can be a new scene, and all of this begins anew.",
        ),
        click.option(
            "--hold",
            type=click.FloatRange(0, 1),
            default=DEFAULT_HOLD,
            show_default=True,
            help="Probability by which another class must be likelier to be explained instead, unless it is twice as "
            "likely.",
        ),
        click.option(
            "--scale",
            type=click.FloatRange(min=0),
            default=DEFAULT_SCALE,
            show_default=True,
            metavar="SECONDS",
            help="In which the scale of the colours fades by half, as the heat does; 0 scales each frame by itself.",
        ),
        click.option(
            "--smooth",
            "smoothing",
            type=click.FloatRange(min=0),
            default=DEFAULT_SMOOTHING,
            show_default=True,
            metavar="SECONDS",
            help="Time constant of the mean of the maps; 0 shows each frame's own.",
        ),
    ):
        function = option(function)
    return function


def choice_options(function: F) -> F:
    """What is explained: ``--class``, ``--against``, ``--method`` and ``--layer``, under the names `explain` takes."""
    return _choice_options(f", or one that runs any model on changed pictures: {', '.join(METHODS)}")(function)


def live_choice_options(function: F) -> F:
    """`choice_options` where there is no time to run the model many times for a picture."""
    return _choice_options("")(function)


def _choice_options(other_methods: str) -> Callable[[F], F]:
    options = (
        click.option("--layer", metavar="NAME", help="Which of the model's layers to show.  [default: its first]"),
        click.option(
            "--method",
            metavar="NAME",
            help=f"Which of the model's methods to show{other_methods}.  [default: the model's first]",
        ),
        click.option(
            "--against",
            type=_index_or_label,
            metavar="NAME|INDEX|RANK",
            help="The class to set it apart from, where the model was made with --explain contrast; "
            "-1 is the likeliest other.",
        ),
        click.option(
            "--class",
            "class_index",
            type=_index_or_label,
            metavar="NAME|INDEX|RANK",
            multiple=True,
            help="The class to explain: a label such as 'tabby', an index, or a rank: -1 the top class, -2 the second. "
            "Of a model made with --classes K, K of them: repeated, or separated by commas.  [default: the top class, "
            "or the top K]",
        ),
    )

    def decorate(function: F) -> F:
        for option in options:
            function = option(function)
        return function

    return decorate


def perturbation_options(function: F) -> F:
    """How pictures are changed by the methods that do so, under the names `Perturbation` takes, and ``--augment``."""
    for option in (
        click.option(
            "--augment",
            type=Names(),
            default=(),
            metavar="NAME,NAME",
            help="Average the maps of several views, by any method: flip, scale (a tenth smaller and larger), "
            "intensity.",
        ),
        click.option(
            "--batch",
            type=click.IntRange(min=1),
            default=DEFAULT_BATCH,
            show_default=True,
            help="Changed pictures that go through the model at once.",
        ),
        click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of what is random."),
        click.option("--stride", type=click.IntRange(min=1), help="How far the hidden square moves: occlusion."),
        click.option(
            "--window",
            type=click.IntRange(min=1),
            help="Side of the hidden square, in pixels of the model's input: occlusion.",
        ),
        click.option("--sigma", type=click.FloatRange(min=0), help="Noise: smoothgrad, smoothgradcam++, sscam."),
        click.option(
            "--samples",
            type=click.IntRange(min=1),
            help="How many changed pictures, for a method that lets you choose.  [default: the method's own]",
        ),
    ):
        function = option(function)
    return function


def box_info(kind: str, boxes: str, form: tuple[str, ...]) -> Any:
    """What ``--boxes`` and ``--box-form`` say of a detector; None where the score is of none."""
    from onnxcam.contract import BoxInfo
    from onnxcam.errors import ExportError

    if kind != "boxes":
        if boxes != "one" or form:
            raise ExportError("--boxes and --box-form are of a detector: take --score boxes with them")
        return None
    if {"relative", "pixels"} <= set(form):
        raise ExportError("the sides of a box are shares of the input's size or its pixels, not both: name one")
    return BoxInfo(
        every=boxes == "all",
        objectness="objectness" in form,
        background="background" in form,
        corners="corners" in form,
        relative=True if "relative" in form else False if "pixels" in form else None,
    )


def render_options(function: F) -> F:
    """``--layout``, ``--alpha``, ``--colormap`` and ``--caption/--no-caption``, under the names `render` takes."""
    for option in (
        click.option("--caption/--no-caption", default=True, help="Write class and probability onto the result."),
        click.option(
            "--colormap",
            type=click.Choice(COLORMAPS, case_sensitive=False),
            default=DEFAULT_COLORMAP,
            show_default=True,
            metavar="NAME",
            help=f"Colours of the heat: {', '.join(COLORMAPS)}.",
        ),
        click.option(
            "--alpha",
            type=click.FloatRange(0, 1),
            default=DEFAULT_ALPHA,
            show_default=True,
            help="How much the hottest pixel hides of the picture.",
        ),
        click.option(
            "--layout", type=click.Choice(LAYOUTS), default=DEFAULT_LAYOUT, show_default=True, help="What to draw."
        ),
    ):
        function = option(function)
    return function


score_option = click.option(
    "--score",
    type=click.Choice(get_args(ScoreKind)),
    default="class",
    show_default=True,
    help="What is explained: the score of a class; a weighting of the output, given when the file runs; the output "
    "itself, one number an image; of a segmentation, the score of a class where it is predicted, or over a region; "
    "that at a detector's boxes; the similarity of an embedding to one that is given when the file runs.",
)


def artifact_options(function: F) -> F:
    """What goes into an artifact: layers, methods and what they explain, preprocessing, labels, outputs."""
    for option in (
        click.option(
            "--outputs",
            type=click.Choice(["all", "cam"]),
            default="all",
            show_default=True,
            help="'cam' leaves feature map and gradient out of the outputs.",
        ),
        click.option("--labels", type=click.Path(path_type=Path), help="Text file with one class name a line."),
        click.option(
            "--crop-ratio",
            type=click.FloatRange(0, 1, min_open=True),
            help="Share of the picture that the centre crop keeps.",
        ),
        resize_option,
        click.option("--std", type=Numbers(), help="Standard deviation per channel, in 0..1."),
        click.option("--mean", type=Numbers(), help="Mean per channel, in 0..1, for preprocessing."),
        click.option(
            "--eigen-smooth",
            is_flag=True,
            help="Combine the weighted channels by their first principal component, not by their sum.",
        ),
        click.option(
            "--fuse",
            type=click.Choice(["mean", "max"]),
            help="Join the maps of several layers, each scaled to 0..1.  [default: kept apart]",
        ),
        score_option,
        click.option(
            "--classes",
            type=click.IntRange(min=1),
            default=1,
            show_default=True,
            metavar="K",
            help="Explain so many classes of each picture in one run: the top K, or those chosen then.",
        ),
        click.option(
            "--boxes",
            type=click.Choice(["one", "all"]),
            default="one",
            show_default=True,
            help="Of a detector: explain one box, or all of the class.",
        ),
        click.option(
            "--box-form",
            multiple=True,
            type=click.Choice(["objectness", "background", "corners", "relative", "pixels"]),
            help="Of a detector: a number behind the sides says how likely there is anything; the last class is none; "
            "sides are left, top, right, bottom; they are shares of the input's size, or its pixels. May be repeated.",
        ),
        click.option(
            "--explain",
            type=click.Choice(["class", "counterfactual", "contrast"]),
            default="class",
            show_default=True,
            help="What speaks for the class, against it, or for it rather than another.",
        ),
        click.option(
            "--method",
            "methods",
            multiple=True,
            metavar="NAME",
            default=["gradcam"],
            show_default=True,
            help="A method that 'onnxcam methods' lists; may be repeated. Those of the picture need no layer.",
        ),
        click.option(
            "--layer",
            "layers",
            multiple=True,
            metavar="NAME",
            help="Target layer, as 'onnxcam layers' names it; may be repeated.  [default: found by itself]",
        ),
    ):
        function = option(function)
    return function
