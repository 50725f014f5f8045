"""``onnxcam inspect``: what an artifact holds."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import click

from onnxcam.cli.attach import methods_text, score_text
from onnxcam.cli.options import provider_option


@click.command()
@click.argument("artifact", type=click.Path(path_type=Path), required=False)
@click.option("--placement", is_flag=True, help="Run it once, and say which provider takes how many nodes.")
@provider_option
@click.option("--json", "as_json", is_flag=True, help="The metadata as JSON.")
def inspect(artifact: Path | None, placement: bool, providers: tuple[str, ...], as_json: bool) -> None:
    """Show what ARTIFACT holds: contract, layers, methods, preprocessing, labels, nodes, providers here.

    Without ARTIFACT, the model that ships.

    \b
    Examples:
      onnxcam inspect resnet50.cam.onnx
      onnxcam inspect resnet50.cam.onnx --placement --provider cuda
      onnxcam inspect resnet50.cam.onnx --json
    """
    from rich.filesize import decimal

    from onnxcam.runtime import load

    with load(artifact, providers=providers or None) as model:
        info = model.info
        if as_json:
            click.echo(json.dumps(json.loads(info.to_json()), indent=2, ensure_ascii=False))
            return
        rows = {
            "file": f"{model.path} ({decimal(model.path.stat().st_size)})",
            "contract": f"{info.contract} (onnxcam {info.onnxcam})",
            "source": f"{info.source or 'not stated'}; licence {info.license or 'not stated'}",
            "input": info.image_input,
            "score": score_text(info.score)
            + (f", probabilities by {info.score.activation}" if info.score.classes else ""),
            "layers": "; ".join(f"{x.name} {x.layout} {_shape(x.shape)}" for x in info.layers),
            "methods": methods_text(info),
            "preprocessing": _preprocessing(info.preprocess),
            "labels": f"{len(info.labels)}, {info.labels[0]} … {info.labels[-1]}" if info.labels else "none",
            "nodes": ", ".join(f"{count} {part}" for part, count in info.nodes.items()),
            "checked": ", ".join(f"{name} {error:.1e}" for name, error in info.verification.items())
            + " relative error at export",
            "providers": ", ".join(model.providers),
        }
        inputs = model.inputs(batch=1) if placement else {}
    if placement:
        rows["placement"] = _placement(model.path, inputs, model.providers)
    for name, text in rows.items():
        click.echo(f"{name:<14} {text}")


def _placement(path: Path, inputs: dict[str, tuple[list[int], str]], providers: tuple[str, ...]) -> str:
    """How many nodes each provider took, and which operators did not go to the first of them."""
    from onnxcam.runtime.profiling import profile

    nodes = profile(path, inputs, providers=providers, runs=1)
    counts = Counter(node.provider for node in nodes)
    elsewhere = sorted({node.operator for node in nodes if node.provider != providers[0]})
    return ", ".join(f"{count} nodes on {name}" for name, count in counts.most_common()) + (
        f" ({', '.join(elsewhere)})" if elsewhere else ""
    )


def _shape(shape: tuple[int | None, ...]) -> str:
    return "[" + ", ".join("N" if dim is None else str(dim) for dim in shape) + "]"


def _preprocessing(preprocess: object) -> str:
    from onnxcam.contract import Preprocess

    if not isinstance(preprocess, Preprocess):
        return "not stated"
    p = preprocess
    crop = f" {p.crop_ratio:.3f}" if p.resize == "crop" else ""
    return (
        f"{p.resize}{crop} to {p.height}×{p.width} ({p.interpolation}), {p.color}, {p.layout}, "
        f"(pixel·{p.scale:.4g} - {list(p.mean)}) / {list(p.std)}"
    )
