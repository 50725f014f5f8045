"""``onnxcam methods``: the table of methods."""

from __future__ import annotations

import json

import click


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def methods(as_json: bool) -> None:
    """List the methods: what each computes, what it needs, and its paper.

    \b
    Example:
      onnxcam methods
    """
    from onnxcam.methods import methods

    for method in methods().values():
        if as_json:
            fields = {name: getattr(method, name) for name in ("name", "equation", "paper", "needs", "summary")}
            click.echo(json.dumps(fields, ensure_ascii=False))
        else:
            click.echo(
                f"{method.name}\n  {method.summary}\n  {method.equation}\n  {method.paper}; needs {method.needs}\n"
            )
