"""``onnxcam layers``: the candidates for a target."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from onnxcam.cli.options import InputSize, json_option, score_option

if TYPE_CHECKING:
    from onnxcam.exporter.layers import Candidate


@click.command()
@click.argument("model")
@click.option("--output", metavar="NAME", help="Of an ONNX file: the output with the class scores.")
@score_option
@click.option("--image-input", metavar="NAME", help="Of an ONNX file: the input that takes the picture.")
@click.option("--input-size", type=InputSize(), help="Of a PyTorch model, where the library does not know it.")
@click.option("--weights", type=click.Path(path_type=Path), help="State dict to load; the shapes do not need it.")
@click.option("--all", "show_all", is_flag=True, help="Also those that the score can go around.")
@json_option
def layers(
    model: str,
    score: Any,
    output: str | None,
    image_input: str | None,
    input_size: tuple[int, int, int] | None,
    weights: Path | None,
    show_all: bool,
    as_json: bool,
) -> None:
    """List the layers of MODEL that can carry a map, and the one taken by default.

    MODEL is an ONNX file, or what 'onnxcam export' takes, such as timm:NAME. The share is the part of the model's
    multiplications that lie behind the layer: what a gradient there goes back through.

    \b
    Examples:
      onnxcam layers plain.onnx
      onnxcam layers timm:resnet18
      onnxcam layers path/to/file.py:make_model --input-size 3,224,224
    """
    is_file = model.endswith(".onnx")
    found, name = (
        _of_file(Path(model), output, image_input, score) if is_file else _of_module(model, weights, input_size, score)
    )
    rows = [
        _row(candidate, by_module=not is_file, default=candidate.name == name)
        for candidate in found
        if show_all or candidate.cut or candidate.name == name
    ]
    default = next(row["layer"] for row in rows if row["default"])
    if as_json:
        for row in rows:
            click.echo(json.dumps(row))
        return
    texts = [_columns(row) for row in rows]
    widths = [max(len(text[column]) for text in texts) for column in range(len(texts[0]))]
    for row, text in zip(rows, texts, strict=True):
        mark = "  <- default" if row["default"] else ""
        click.echo("  ".join(f"{part:<{width}}" for part, width in zip(text, widths, strict=True)).rstrip() + mark)
    click.echo(
        f"\n'{default}' is taken by default: the last layer on the way to the score whose places matter to it. "
        "Deeper layers know more of the class, earlier ones more of the place."
    )


def _columns(row: dict[str, Any]) -> list[str]:
    shape = "×".join("?" if dim is None else str(dim) for dim in row["shape"][1:])
    module = row["module"] if row["module"] and row["module"] != row["layer"] else ""
    return [row["layer"], shape, row["layout"], f"{row['share']:6.1%}", row["kind"], module]


def _of_file(path: Path, output: str | None, image_input: str | None, kind: Any) -> tuple[list[Candidate], str]:
    from onnxcam.exporter.attachment import feature_maps

    found, default = feature_maps(path, score=kind, output=output, image_input=image_input)
    return found, default.name


def _of_module(
    spec: str, weights: Path | None, input_size: tuple[int, int, int] | None, kind: Any
) -> tuple[list[Candidate], str]:
    from onnxcam.exporter.scores import find_score
    from onnxcam.exporter.sources import load_source
    from onnxcam.exporter.targets import module_maps
    from onnxcam.exporter.torch import export_module, random_example

    source = load_source(spec, weights=weights, pretrained=False, input_size=input_size)
    exported = export_module(source.model, random_example(source.input_size), ())
    score = find_score(exported.model.graph, kind=kind)
    found, default = module_maps(exported, score.value)
    return found, default.name


def _row(candidate: Candidate, *, by_module: bool, default: bool) -> dict[str, Any]:
    return {
        "layer": candidate.module if by_module else candidate.name,
        "kind": candidate.kind,
        "shape": [None if axis == 0 else dim for axis, dim in enumerate(candidate.shape)],
        "layout": str(candidate.layout),
        "module": candidate.module,
        "share": round(candidate.share, 4),
        "default": default,
    }
