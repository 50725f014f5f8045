"""``onnxcam attach``: an ONNX file becomes an artifact, with no PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from onnxcam.cli.options import InputSize, artifact_options, box_info


@click.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output-file",
    "path",
    type=click.Path(path_type=Path),
    help="The artifact to write.  [default: NAME.cam.onnx beside SOURCE]",
)
@click.option("--output", metavar="NAME", help="The output with the class scores, where there are several.")
@click.option(
    "--layout", metavar="NCHW|NHWC|NCDHW|tokens:N", help="Where the layer's places are.  [default: found by itself]"
)
@click.option(
    "--image-input", metavar="NAME", help="The input that takes the picture.  [default: the first with 4 axes]"
)
@click.option("--input-size", type=InputSize(), help="For preprocessing, where the file leaves height and width open.")
@artifact_options
@click.option("--license", metavar="TEXT", help="Licence of the weights, kept in the file.")
@click.option("--replace", is_flag=True, help="SOURCE is an artifact: explain it anew, in the same file without -o.")
@click.option("--overwrite", is_flag=True, help="Replace an existing file.")
def attach(
    source: Path,
    path: Path | None,
    output: str | None,
    layout: str | None,
    image_input: str | None,
    input_size: tuple[int, int, int] | None,
    layers: tuple[str, ...],
    methods: tuple[str, ...],
    score: Any,
    classes: int,
    boxes: str,
    box_form: tuple[str, ...],
    explain: Any,
    fuse: Any,
    eigen_smooth: bool,
    mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None,
    resize: Any,
    crop_ratio: float | None,
    labels: Path | None,
    outputs: str,
    license: str | None,
    replace: bool,
    overwrite: bool,
) -> None:
    """Make the ONNX file SOURCE explain itself: the same answers, and the map, in one pass.

    SOURCE is never changed. The layer is found by itself: the last feature map whose places matter to the score.

    \b
    Examples:
      onnxcam attach plain.onnx
      onnxcam attach plain.onnx --layer /layer4/layer4.1/relu_1/Relu_output_0 --output logits --method gradcam
      onnxcam attach plain.onnx --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225 --labels names.txt
    """
    from onnxcam.errors import OutputError
    from onnxcam.exporter import attach as attach_to
    from onnxcam.exporter.attachment import default_path, picture_form
    from onnxcam.exporter.sources import ModelSource, completed_preprocess, read_labels

    written = path or (source if replace else default_path(source))
    if written.is_file() and not overwrite and written.resolve() != source.resolve():
        raise OutputError(f"'{written}' exists: choose another name with -o, or replace it with --overwrite")
    preprocess = None
    if mean or std or resize or crop_ratio:
        form = picture_form(source, image_input, input_size)
        preprocess = completed_preprocess(
            ModelSource(model=None, name=source.name, input_size=form.size, preprocess=form.preprocess),
            mean=mean,
            std=std,
            resize=resize,
            crop_ratio=crop_ratio,
            layout=form.layout,
            dtype=form.dtype,
        )
    report = attach_to(
        source,
        path,
        layer=layers or None,
        method=methods,
        score=score,
        classes=classes,
        boxes=box_info(score, boxes, box_form),
        explain=explain,
        fuse=fuse,
        eigen_smooth=eigen_smooth,
        output=output,
        layout=layout,
        image_input=image_input,
        outputs="cam" if outputs == "cam" else "all",
        preprocess=preprocess,
        labels=read_labels(labels) if labels else None,
        license=license,
        replace=replace,
    )
    if report.info.preprocess is None:
        click.echo(
            f"Warning: how pictures become the input of '{source}' is not known, so the artifact explains arrays only; "
            "for pictures give --mean and --std",
            err=True,
        )
    show_report(report, chosen=bool(layers), against="the plain file's")


def show_report(report: Any, *, chosen: bool, against: str) -> None:
    """What was written, and how far it is from its reference."""
    from rich.filesize import decimal

    for target in report.info.layers:
        found = "" if chosen else " (found by itself)"
        module = f", module {target.module}" if target.module and target.module != target.name else ""
        click.echo(f"layer          {target.name}{found} {shape_text(target.shape)} {target.layout_text}{module}")
    click.echo(f"methods        {methods_text(report.info)}")
    click.echo(f"score          {score_text(report.info.score)}")
    if stepped := report.info.extra.get("stepped_over"):
        click.echo(f"               before the final {stepped}, which was stepped over")
    for name, error in report.errors.items():
        click.echo(f"{name:<14} {error:.1e} relative difference from {against}")
    click.echo(f"wrote          {report.path} ({decimal(report.path.stat().st_size)})")


def score_text(score: Any) -> str:
    """What is explained, in a few words."""
    several = f", {score.explained} explained in one run" if score.explained > 1 else ""
    kinds = {"class": f"{score.classes} classes{several}", "weights": "a weighting of it", "number": "itself"}
    kinds["similarity"] = "its similarity to a reference"
    kinds["segmentation"] = f"segmentation, {kinds['class']}"
    if score.boxes:
        every = "all boxes" if score.boxes.every else "one box"
        kinds["boxes"] = f"{kinds['class']} at {every} of a detector"
    return f"{score.output}, {kinds[score.kind]}"


def methods_text(info: Any) -> str:
    """The methods of an artifact, what they are of if no layer, and in brackets what was chosen for all of them."""
    of = dict.fromkeys(info.picture_methods, "picture") | dict.fromkeys(info.attention_methods, "attention")
    names = (f"{name} of the {of[name]}" if name in of else name for name in info.methods)
    return f"{', '.join(names)}{_how_text(info)}"


def _how_text(info: Any) -> str:
    """What was chosen for all methods of an artifact, in brackets; empty for the usual."""
    explain = "" if info.explain == "class" else info.explain
    chosen = [explain, f"layers fused by {info.fuse}" if info.fuse else "", "eigen-smooth" if info.eigen_smooth else ""]
    return f" ({', '.join(filter(None, chosen))})" if any(chosen) else ""


def shape_text(shape: tuple[int | None, ...]) -> str:
    """A shape with N for the axes that are dynamic."""
    return "[" + ", ".join("N" if dim is None else str(dim) for dim in shape) + "]"
