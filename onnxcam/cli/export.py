"""``onnxcam export``: a PyTorch model becomes an artifact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from onnxcam.cli.attach import show_report
from onnxcam.cli.options import InputSize, artifact_options, box_info


@click.command()
@click.argument("model")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="The artifact to write. [default: NAME.cam.onnx]")
@click.option("--weights", type=click.Path(path_type=Path), help="State dict to load (.pth, .pt).")
@click.option("--no-pretrained", is_flag=True, help="Untrained weights: do not fetch the library's.")
@click.option("--input-size", type=InputSize(), help="Where the library does not know it.")
@artifact_options
@click.option("--overwrite", is_flag=True, help="Replace an existing file.")
def export(
    model: str,
    output: Path | None,
    layers: tuple[str, ...],
    methods: tuple[str, ...],
    score: Any,
    classes: int,
    boxes: str,
    box_form: tuple[str, ...],
    explain: Any,
    fuse: Any,
    eigen_smooth: bool,
    weights: Path | None,
    no_pretrained: bool,
    input_size: tuple[int, int, int] | None,
    mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None,
    resize: str | None,
    crop_ratio: float | None,
    labels: Path | None,
    outputs: str,
    overwrite: bool,
) -> None:
    """Turn a PyTorch MODEL into one ONNX file that answers and explains.

    MODEL is timm:NAME, torchvision:NAME, huggingface:NAME (or a folder) or path/to/file.py:function.

    \b
    Examples:
      onnxcam export timm:tf_efficientnet_lite0 -o lite0.cam.onnx
      onnxcam export torchvision:resnet50 --weights w.pth --layer layer4 -o resnet50.cam.onnx
      onnxcam export path/to/file.py:make_model --input-size 3,224,224 -o mine.cam.onnx
    """
    from onnxcam.errors import OutputError
    from onnxcam.exporter import export as export_model
    from onnxcam.exporter.sources import completed_preprocess, load_source, read_labels
    from onnxcam.exporter.torch import random_example
    from onnxcam.methods import find_methods

    find_methods(methods)  # before the model is loaded
    path = output or Path(f"{_stem(model)}.cam.onnx")
    if path.exists() and not overwrite:
        raise OutputError(f"'{path}' exists: choose another name with -o, or replace it with --overwrite")
    source = load_source(model, weights=weights, pretrained=not no_pretrained, input_size=input_size)
    preprocess = completed_preprocess(source, mean=mean, std=std, resize=resize, crop_ratio=crop_ratio)
    if preprocess is None:
        click.echo(
            f"Warning: how pictures become the input of '{model}' is not known, so this file explains arrays only; "
            "for pictures export again with --mean and --std",
            err=True,
        )
    report = export_model(
        source.model,
        random_example(source.input_size),
        path,
        layer=layers or None,
        method=methods,
        score=score,
        classes=classes,
        boxes=box_info(score, boxes, box_form),
        explain=explain,
        fuse=fuse,
        eigen_smooth=eigen_smooth,
        outputs="cam" if outputs == "cam" else "all",
        preprocess=preprocess,
        labels=read_labels(labels) if labels else source.labels,
        source=source.name,
        license=source.license,
    )
    show_report(report, chosen=bool(layers), against="torch's autograd")


def _stem(model: str) -> str:
    """The file name that a model specification suggests."""
    kind, _, name = model.rpartition(":")
    return Path(kind).stem if kind.endswith(".py") else name.replace("/", "_")
