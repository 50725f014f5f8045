"""The entry point: lazy commands, and errors of one sentence."""

from __future__ import annotations

import errno
import warnings

import click
import pytest
from click.testing import CliRunner, Result

import onnxcam
from onnxcam.cli import COMMANDS, main
from onnxcam.errors import ClassError


def call(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> type:
    """``main`` with a command ``providers`` that raises what it is told."""

    class Failing:
        error: BaseException | Warning

        def __enter__(self) -> None: ...

    @click.command()
    def providers() -> None:
        if isinstance(Failing.error, Warning):
            warnings.warn(Failing.error, stacklevel=1)
        else:
            raise Failing.error

    monkeypatch.setattr("onnxcam.cli.providers.providers", providers)
    return Failing


def test_help_lists_the_commands_in_order() -> None:
    result = call("--help")
    assert result.exit_code == 0
    listed = [line.split()[0] for line in result.stdout.partition("Commands:")[2].splitlines() if line.strip()]
    assert listed == list(COMMANDS)
    assert "onnxcam video input.mp4" in result.stdout


def test_version() -> None:
    result = call("--version")
    assert (result.exit_code, result.stdout) == (0, f"onnxcam {onnxcam.__version__}\n")


def test_a_mistyped_command_gets_the_nearest() -> None:
    result = call("vidoe")
    assert result.exit_code == 2
    assert "did you mean 'video'?" in result.stderr


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (ClassError("there is no class 7"), "Error: there is no class 7\n"),
        (OSError(errno.ENOSPC, "No space left on device"), "Error: No space left on device\n"),
        (PermissionError(errno.EACCES, "Permission denied", "a.png"), "Error: Permission denied: 'a.png'\n"),
        (MemoryError(), "Error: out of memory: take a smaller picture, or a smaller batch\n"),
    ],
)
def test_errors_are_one_sentence(failing: type, error: Exception, sentence: str) -> None:
    failing.error = error
    result = call("providers")
    assert (result.exit_code, result.stderr, result.stdout) == (1, sentence, "")


def test_the_unexpected_asks_for_a_report(failing: type, monkeypatch: pytest.MonkeyPatch) -> None:
    failing.error = ZeroDivisionError("division by zero")
    monkeypatch.delenv("ONNXCAM_TRACEBACK", raising=False)
    result = call("providers")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: ZeroDivisionError: division by zero; ")
    assert "ONNXCAM_TRACEBACK=1" in result.stderr
    monkeypatch.setenv("ONNXCAM_TRACEBACK", "1")
    assert isinstance(call("providers").exception, ZeroDivisionError)


def test_ctrl_c_is_130_without_a_word(failing: type) -> None:
    failing.error = KeyboardInterrupt()
    result = call("providers")
    assert (result.exit_code, result.output.strip()) == (130, "")


def test_a_closed_pipe_is_quiet(failing: type) -> None:
    failing.error = BrokenPipeError(errno.EPIPE, "Broken pipe")
    result = call("providers")
    assert (result.exit_code, result.output) == (1, "")


def test_a_warning_is_one_line(failing: type) -> None:
    failing.error = RuntimeWarning("CUDA could not start")
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        result = call("providers")
    assert (result.exit_code, result.stderr) == (0, "Warning: CUDA could not start\n")


def test_providers_says_which_is_taken() -> None:
    marked = [line.split()[0] for line in call("providers").stdout.splitlines() if line.endswith("<- default")]
    with onnxcam.load() as model:
        assert marked == [model.providers[0]]
