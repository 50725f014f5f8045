"""``onnxcam providers``: what can run a model here."""

from __future__ import annotations

import json

import click

from onnxcam.cli.options import json_option


@click.command()
@json_option
def providers(as_json: bool) -> None:
    """List ONNX Runtime's execution providers on this machine, the one taken by default first.

    \b
    Example:
      onnxcam providers
    """
    from onnxcam.runtime.session import installed_providers

    for position, name in enumerate(installed_providers()):
        if as_json:
            click.echo(json.dumps({"provider": name, "default": position == 0}))
        else:
            click.echo(f"{name}{'  <- default' if position == 0 else ''}")
