"""The command line: one file a command, each imported when it is called."""

from __future__ import annotations

__all__ = ["main"]

import os
import sys
import warnings
from importlib import import_module
from typing import Any

import click

from onnxcam import __version__
from onnxcam.cli.logs import tell_error
from onnxcam.errors import OnnxCamError, nearest_names

COMMANDS = (
    "video",
    "image",
    "webcam",
    "attach",
    "export",
    "layers",
    "inspect",
    "verify",
    "bench",
    "methods",
    "providers",
)
"""In the order in which ``--help`` shows them."""


class _Group(click.Group):
    """Commands found by name in this package; every error that reaches a user is one sentence."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command = getattr(import_module(f"onnxcam.cli.{cmd_name}"), cmd_name)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            hint = nearest_names(args[0], COMMANDS) or "'onnxcam --help' lists the commands"
            ctx.fail(f"there is no command '{args[0]}'; {hint}")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            try:
                return super().invoke(ctx)
            except (click.exceptions.Exit, click.Abort, click.ClickException, BrokenPipeError):
                raise
            except KeyboardInterrupt:
                ctx.exit(130)
            except Exception as error:
                if os.environ.get("ONNXCAM_TRACEBACK"):
                    raise
                tell_error(ctx, _sentence(error))
                ctx.exit(1)


def _sentence(error: Exception) -> str:
    """What the user is told of ``error``: what, where, and what to do next."""
    if isinstance(error, OnnxCamError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: '{error.filename}'" if error.filename else error.strerror
    if isinstance(error, MemoryError):
        return "out of memory: take a smaller picture, or a smaller batch"
    return (
        f"{type(error).__name__}: {error}; this should not happen, so please report it "
        "with what ONNXCAM_TRACEBACK=1 in the environment shows"
    )


def _show_warning(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
    """The package's own warnings on a line each; those of libraries are not the user's."""
    if issubclass(category, RuntimeWarning | UserWarning):
        print(f"Warning: {message}", file=sys.stderr)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, "--version", package_name="onnxcam", message="onnxcam %(version)s")
def main() -> None:
    """Answer and explain in one pass of ONNX Runtime: Grad-CAM inside the ONNX file.

    \b
    Examples:
      onnxcam video input.mp4                      -> input_cam.mp4
      onnxcam image cat.jpg                        -> cat_cam.png
      onnxcam webcam --serve                       -> a page with the live overlay
      onnxcam attach plain.onnx                    -> plain.cam.onnx
      onnxcam export timm:resnet18 -o r18.cam.onnx
      onnxcam image r18.cam.onnx cat.jpg
    """
