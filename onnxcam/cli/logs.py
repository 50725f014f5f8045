"""What happens, one line each, on stderr."""

from __future__ import annotations

__all__ = ["Log", "log_option", "tell_error"]

import json
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from threading import Lock
from typing import Any

import click

log_option = click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="Of what is told on stderr, a line each.",
)


_KEY = "onnxcam.log"


def tell_error(context: click.Context, text: str) -> None:
    """Say why the command ends: as the event ``error`` where what it tells is read by a program."""
    log: Log | None = context.meta.get(_KEY)
    if log is not None and log.json:
        log("error", text=text)
    else:
        click.echo(f"Error: {text}", err=True)


class Log:
    """Tells a command's events from any thread: ``10:15:00 lost: no route to host, pause 0.5``, or as a JSON object.

    Where nobody reads it any more, or its disk is full, what is told goes on unheard.
    """

    def __init__(self, form: str) -> None:
        self.json = form == "json"
        self._lock = Lock()
        context = click.get_current_context(silent=True)
        if context is not None:
            context.meta[_KEY] = self

    def __call__(self, event: str, **facts: Any) -> None:
        """Tell ``event`` and what there is to say of it."""
        now = datetime.now(timezone.utc)
        if self.json:
            line = json.dumps({"time": now.isoformat(timespec="milliseconds"), "event": event, **facts}, default=str)
        else:
            said = ", ".join(str(facts[name]) if name in _PLAIN else f"{name} {facts[name]}" for name in facts)
            line = f"{now.astimezone():%H:%M:%S} {event}{': ' if said else ''}{said}"
        with self._lock, suppress(OSError, ValueError):
            if sys.stderr is not None:
                print(line.replace("\n", " "), file=sys.stderr, flush=True)

    @contextmanager
    def warnings(self) -> Iterator[None]:
        """Tell the warnings that are the user's as events, ``warning``, as long as it lasts."""

        def show(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
            if issubclass(category, RuntimeWarning | UserWarning):
                self("warning", text=str(message))

        with warnings.catch_warnings():
            warnings.showwarning = show
            yield


_PLAIN = {"reason", "file", "address", "text"}
"""Facts that speak for themselves."""
