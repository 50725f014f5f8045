"""``onnxcam layers``: the candidates for a target."""

from __future__ import annotations

import json
from pathlib import Path

import click

from onnxcam.cli.export import InputSize


@click.command()
@click.argument("model")
@click.option("--input-size", type=InputSize(), help="Where the library does not know it.")
@click.option("--weights", type=click.Path(path_type=Path), help="State dict to load; the shapes do not need it.")
@click.option("--all", "show_all", is_flag=True, help="Also the layers that cannot carry a map.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def layers(
    model: str, input_size: tuple[int, int, int] | None, weights: Path | None, show_all: bool, as_json: bool
) -> None:
    """List the layers of MODEL that can carry a map, and the one taken by default.

    \b
    Examples:
      onnxcam layers timm:resnet18
      onnxcam layers path/to/file.py:make_model --input-size 3,224,224
    """
    from onnxcam.exporter.sources import load_source
    from onnxcam.exporter.torch import default_layer, layers, random_example

    source = load_source(model, weights=weights, pretrained=False, input_size=input_size)
    found = layers(source.model, random_example(source.input_size))
    default = default_layer(found)
    shown = [layer for layer in found if show_all or (layer.spatial and layer.leads_to_score)]
    if as_json:
        for layer in shown:
            click.echo(
                json.dumps(
                    {
                        "layer": layer.name,
                        "kind": layer.kind,
                        "shape": [None, *layer.shape[1:]],
                        "leads_to_score": layer.leads_to_score,
                        "default": layer is default,
                        "aliases": layer.aliases,
                    }
                )
            )
        return
    width = max(len(layer.name) for layer in shown)
    for layer in shown:
        shape = "×".join(str(dim) for dim in layer.shape[1:])
        mark = "  <- default" if layer is default else "" if layer.leads_to_score else "  (not on the way to the score)"
        click.echo(f"{layer.name:<{width}}  {shape:>12}  {layer.kind}{mark}")
    click.echo(
        f"\n'{default.name}' is taken by default: the last layer on the way to the score with a spatial extent. "
        "Deeper layers know more of the class, earlier ones more of the place."
    )
