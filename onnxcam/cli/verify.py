"""``onnxcam verify``: an artifact's gradients against finite differences."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("artifact", type=click.Path(path_type=Path))
def verify(artifact: Path) -> None:
    """Check the gradients of ARTIFACT against finite differences of its own forward half; exit status 1 if they differ.

    \b
    Example:
      onnxcam verify resnet50.cam.onnx
    """
    from onnxcam.errors import VerificationError
    from onnxcam.exporter import verify

    report = verify(artifact)
    click.echo(
        f"class {report.explained_class} on a random picture; slope of its score by the gradient and by differences"
    )
    for row in report.comparisons:
        verdict = "ok" if row.passed else "WRONG"
        slopes = f"{row.got:>12.5g} {row.expected:>12.5g}"
        click.echo(f"{row.layer:<20} {row.direction:<20} {slopes}  error {row.error:.1e}  {verdict}")
    if not report.passed:
        raise VerificationError(f"the gradients in '{artifact}' are wrong: export the model again, and report it")
