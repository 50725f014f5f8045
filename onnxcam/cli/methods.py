"""``onnxcam methods``: the table of methods."""

from __future__ import annotations

import json

import click

_FIELDS = ("name", "summary", "equation", "target", "needs", "reads", "cost", "paper")
_ENTRY = """\
{name}
  {summary}
  {equation}
  at: the {target}; needs: {needs}; costs: {cost}
  {paper}
"""


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def methods(as_json: bool) -> None:
    """List the methods: what each computes, what it needs and costs, and its paper.

    \b
    Example:
      onnxcam methods
    """
    from onnxcam.methods import methods

    for method in methods().values():
        fields = {name: getattr(method, name) for name in _FIELDS}
        if as_json:
            click.echo(json.dumps(fields, ensure_ascii=False))
        else:
            fields["needs"] += f" changed when a file runs, and of the file {method.reads}" if method.reads else ""
            click.echo(_ENTRY.format(**fields))
