"""``onnxcam export``: a PyTorch model becomes an artifact."""

from __future__ import annotations

from pathlib import Path

import click


class InputSize(click.ParamType[tuple[int, int, int]]):
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


class Numbers(click.ParamType[tuple[float, ...]]):
    """Numbers separated by commas, one per channel."""

    name = "NUMBERS"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        try:
            return tuple(float(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"'{value}' is not numbers separated by commas, such as 0.485,0.456,0.406", param, ctx)


@click.command()
@click.argument("model")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="The artifact to write. [default: NAME.cam.onnx]")
@click.option(
    "--layer", "layers", multiple=True, help="Target layer (module path); may be repeated. [default: found by itself]"
)
@click.option(
    "--method", "methods", multiple=True, default=["gradcam"], show_default=True, help="Method; may be repeated."
)
@click.option("--weights", type=click.Path(path_type=Path), help="State dict to load (.pth, .pt).")
@click.option("--no-pretrained", is_flag=True, help="Untrained weights: do not fetch the library's.")
@click.option("--input-size", type=InputSize(), help="Where the library does not know it.")
@click.option("--mean", type=Numbers(), help="Mean per channel, in 0..1, for preprocessing.")
@click.option("--std", type=Numbers(), help="Standard deviation per channel, in 0..1.")
@click.option(
    "--resize", type=click.Choice(["stretch", "crop", "letterbox"]), help="How pictures are brought to the input size."
)
@click.option(
    "--crop-ratio", type=click.FloatRange(0, 1, min_open=True), help="Share of the picture that the centre crop keeps."
)
@click.option("--labels", type=click.Path(path_type=Path), help="Text file with one class name a line.")
@click.option(
    "--outputs",
    type=click.Choice(["all", "cam"]),
    default="all",
    show_default=True,
    help="'cam' leaves feature map and gradient out of the outputs.",
)
@click.option("--overwrite", is_flag=True, help="Replace an existing file.")
def export(
    model: str,
    output: Path | None,
    layers: tuple[str, ...],
    methods: tuple[str, ...],
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

    MODEL is timm:NAME, torchvision:NAME or path/to/file.py:function.

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
        outputs="cam" if outputs == "cam" else "all",
        preprocess=preprocess,
        labels=read_labels(labels) if labels else source.labels,
        source=source.name,
        license=source.license,
    )
    for target in report.info.layers:
        chosen = "" if layers else " (found by itself)"
        click.echo(f"layer          {target.name}{chosen} {_shape(target.shape)}")
    click.echo(f"methods        {', '.join(report.info.methods)}")
    if stepped := report.info.extra.get("stepped_over"):
        click.echo(f"score          before the final {stepped}, which was stepped over")
    for name, error in report.errors.items():
        click.echo(f"{name:<14} {error:.1e} relative error against torch's autograd")
    click.echo(f"wrote          {report.path} ({report.path.stat().st_size / 1e6:.1f} MB)")


def _stem(model: str) -> str:
    """The file name that a model specification suggests."""
    kind, _, name = model.rpartition(":")
    return Path(kind).stem if kind.endswith(".py") else name.replace("/", "_")


def _shape(shape: tuple[int | None, ...]) -> str:
    return "[" + ", ".join("N" if dim is None else str(dim) for dim in shape) + "]"
