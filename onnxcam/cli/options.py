"""Options that several commands share, each written once. Nothing here imports OpenCV or ONNX Runtime."""

from __future__ import annotations

__all__ = [
    "class_option",
    "json_option",
    "max_pixels_option",
    "model_option",
    "overwrite_option",
    "provider_option",
    "render_options",
]

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from onnxcam.contract import DEFAULT_CLASS_INDEX
from onnxcam.runtime.style import COLORMAPS, DEFAULT_ALPHA, DEFAULT_COLORMAP, DEFAULT_LAYOUT, LAYOUTS

F = TypeVar("F", bound=Callable[..., Any])


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

class_option = click.option(
    "--class",
    "class_index",
    type=_index_or_label,
    metavar="NAME|INDEX|RANK",
    default=DEFAULT_CLASS_INDEX,
    show_default=True,
    help="The class to explain: a label such as 'tabby', an index, or a rank: -1 the top class, -2 the second.",
)

provider_option = click.option(
    "--provider",
    "providers",
    multiple=True,
    metavar="NAME",
    help="Execution provider, e.g. cpu or cuda; may be repeated, best first.  [default: the best installed]",
)

overwrite_option = click.option("--overwrite", is_flag=True, help="Replace results that are already there.")

json_option = click.option("--json", "as_json", is_flag=True, help="Write one JSON object a line to stdout.")

max_pixels_option = click.option(
    "--max-pixels",
    type=click.IntRange(min=1),
    metavar="N",
    help="Refuse pictures with more pixels than this.  [default: 178956970]",
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
