"""``onnxcam layers``: the candidates for a target."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from onnxcam.cli.options import InputSize, json_option


@click.command()
@click.argument("model")
@click.option("--output", metavar="NAME", help="Of an ONNX file: the output with the class scores.")
@click.option("--image-input", metavar="NAME", help="Of an ONNX file: the input that takes the picture.")
@click.option("--input-size", type=InputSize(), help="Of a PyTorch model, where the library does not know it.")
@click.option("--weights", type=click.Path(path_type=Path), help="State dict to load; the shapes do not need it.")
@click.option("--all", "show_all", is_flag=True, help="Also those that the score can go around, or does not depend on.")
@json_option
def layers(
    model: str,
    output: str | None,
    image_input: str | None,
    input_size: tuple[int, int, int] | None,
    weights: Path | None,
    show_all: bool,
    as_json: bool,
) -> None:
    """List the layers of MODEL that can carry a map, and the one taken by default.

    MODEL is an ONNX file, timm:NAME, torchvision:NAME or path/to/file.py:function. Of an ONNX file, the share is the
    part of its multiplications that lie behind the layer: what a gradient there goes back through.

    \b
    Examples:
      onnxcam layers plain.onnx
      onnxcam layers timm:resnet18
      onnxcam layers path/to/file.py:make_model --input-size 3,224,224
    """
    if model.endswith(".onnx"):
        rows, default = _of_file(Path(model), output, image_input, show_all)
    else:
        rows, default = _of_module(model, weights, input_size, show_all)
    if as_json:
        for row in rows:
            click.echo(json.dumps(row))
        return
    texts = [_columns(row) for row in rows]
    widths = [max(len(text[column]) for text in texts) for column in range(len(texts[0]))]
    for row, text in zip(rows, texts, strict=True):
        mark = "  <- default" if row["default"] else "" if row.get("leads_to_score", True) else "  (not on the way)"
        click.echo("  ".join(f"{part:<{width}}" for part, width in zip(text, widths, strict=True)).rstrip() + mark)
    click.echo(
        f"\n'{default}' is taken by default: the last layer on the way to the score whose places matter to it. "
        "Deeper layers know more of the class, earlier ones more of the place."
    )


def _columns(row: dict[str, Any]) -> list[str]:
    shape = "×".join("?" if dim is None else str(dim) for dim in row["shape"][1:])
    if "share" not in row:
        return [row["layer"], shape, row["kind"]]
    return [row["layer"], shape, row["layout"], f"{row['share']:6.1%}", row["kind"], row["module"] or ""]


def _of_file(
    path: Path, output: str | None, image_input: str | None, show_all: bool
) -> tuple[list[dict[str, Any]], str]:
    from onnxcam.exporter.attachment import feature_maps

    found, default = feature_maps(path, output=output, image_input=image_input)
    rows = [
        {
            "layer": candidate.name,
            "kind": candidate.kind,
            "shape": [None if i == 0 else dim for i, dim in enumerate(candidate.shape)],
            "layout": str(candidate.layout),
            "module": candidate.module,
            "share": round(candidate.share, 4),
            "default": candidate.name == default.name,
        }
        for candidate in found
        if show_all or candidate.cut or candidate.name == default.name
    ]
    return rows, default.name


def _of_module(
    spec: str, weights: Path | None, input_size: tuple[int, int, int] | None, show_all: bool
) -> tuple[list[dict[str, Any]], str]:
    from onnxcam.exporter.sources import load_source
    from onnxcam.exporter.torch import default_layer, layers, random_example

    source = load_source(spec, weights=weights, pretrained=False, input_size=input_size)
    found = layers(source.model, random_example(source.input_size))
    default = default_layer(found)
    rows = [
        {
            "layer": layer.name,
            "kind": layer.kind,
            "shape": [None, *layer.shape[1:]],
            "leads_to_score": layer.leads_to_score,
            "default": layer is default,
            "aliases": layer.aliases,
        }
        for layer in found
        if show_all or (layer.spatial and layer.leads_to_score)
    ]
    return rows, default.name
