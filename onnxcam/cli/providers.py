"""``onnxcam providers``: what can run a model here."""

from __future__ import annotations

import json

import click

from onnxcam.cli.options import json_option


@click.command()
@json_option
def providers(as_json: bool) -> None:
    """List ONNX Runtime's execution providers on this machine, and the one taken by default.

    \b
    Example:
      onnxcam providers
    """
    from onnxcam.runtime.providers import default_providers, installed_providers

    default = default_providers()[0]
    for name in installed_providers():
        if as_json:
            click.echo(json.dumps({"provider": name, "default": name == default}))
        else:
            click.echo(f"{name}{'  <- default' if name == default else ''}")
