"""``onnxcam verify``: an artifact's gradients against finite differences, and against PyTorch."""

from __future__ import annotations

import json
from pathlib import Path

import click

from onnxcam.cli.options import json_option


@click.command()
@click.argument("artifact", type=click.Path(path_type=Path))
@click.option(
    "--torch", "spec", metavar="MODEL", help="Compare with this PyTorch model too, as 'onnxcam export' takes it."
)
@click.option("--weights", type=click.Path(path_type=Path), help="State dict of that model (.pth, .pt).")
@click.option(
    "--layer", "layers", multiple=True, metavar="MODULE", help="Its module(s), where the artifact names none."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the random picture.")
@json_option
def verify(
    artifact: Path, spec: str | None, weights: Path | None, layers: tuple[str, ...], seed: int, as_json: bool
) -> None:
    """Check the gradients of ARTIFACT against finite differences of its own forward half; exit status 1 if they differ.

    \b
    Examples:
      onnxcam verify plain.cam.onnx
      onnxcam verify lite0.cam.onnx --torch timm:tf_efficientnet_lite0
    """
    from onnxcam.errors import VerificationError
    from onnxcam.exporter import verify

    model = None
    if spec is not None:
        from onnxcam.exporter.sources import load_source

        model = load_source(spec, weights=weights, input_size=_input_size(artifact)).model
    report = verify(artifact, seed=seed, model=model, layer=layers or None)
    if as_json:
        for row in report.comparisons:
            click.echo(
                json.dumps(
                    {
                        "layer": row.layer,
                        "direction": row.direction,
                        "gradient": row.got,
                        "difference": row.expected,
                        "error": row.error,
                        "tolerance": row.tolerance,
                        "passed": row.passed,
                    }
                )
            )
        for name, error in report.against_torch.items():
            click.echo(json.dumps({"against": "torch", "what": name, "error": error}))
    else:
        click.echo(report)
    if not report.passed:
        culprit = f": the culprit is {report.culprit}" if report.culprit else ""
        raise VerificationError(f"the gradients in '{artifact}' are wrong{culprit}")


def _input_size(artifact: Path) -> tuple[int, int, int] | None:
    """Channels, height and width of the picture that ``artifact`` takes, where it fixes them."""
    from onnxcam.exporter.attachment import picture_form

    form = picture_form(artifact)
    return form.size if all(form.size) else None
