"""What is told on stderr: a line each, whatever it holds, and whoever reads it."""

from __future__ import annotations

import io
import json
import re
import sys
import warnings
from datetime import datetime
from pathlib import Path

import pytest
from click.testing import CliRunner

from onnxcam.cli import main
from onnxcam.cli.logs import Log
from onnxcam.runtime.session import CamModel

from ..runtime.clips import RED, color_artifact, plain, write_clip  # noqa: TID252 tests are no package


def test_an_event_is_one_line_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    Log("text")("lost", reason="no route\nto host", pause=0.5)
    Log("text")("ended")
    first, second = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"\d\d:\d\d:\d\d lost: no route to host, pause 0.5", first)
    assert re.fullmatch(r"\d\d:\d\d:\d\d ended", second)


def test_an_event_is_one_object_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    Log("json")("recorded", file=Path("dür.mp4"), frames=3, reason="two\nlines")
    (line,) = capsys.readouterr().err.splitlines()
    told = json.loads(line)
    assert datetime.fromisoformat(told.pop("time")).utcoffset() is not None
    assert told == {"event": "recorded", "file": "dür.mp4", "frames": 3, "reason": "two\nlines"}


class Full(io.StringIO):
    """A file on a disk that is full."""

    def write(self, _: str) -> int:
        raise OSError(28, "No space left on device")


def closed() -> io.StringIO:
    stream = io.StringIO()
    stream.close()
    return stream


@pytest.mark.parametrize("stderr", [Full(), closed(), None], ids=["full", "closed", "none"])
def test_what_cannot_be_told_stops_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], stderr: io.StringIO | None
) -> None:
    monkeypatch.setattr(sys, "stderr", stderr)
    Log("text")("lost", reason="no route to host")
    assert capsys.readouterr().out == ""


def test_a_warning_is_an_event_and_those_of_libraries_are_not_the_users(capsys: pytest.CaptureFixture[str]) -> None:
    shown = warnings.showwarning
    with warnings.catch_warnings(), Log("json").warnings():
        warnings.simplefilter("always")
        warnings.warn("the CPU runs the model from now on", RuntimeWarning, stacklevel=1)
        warnings.warn("gone in the next release", DeprecationWarning, stacklevel=1)
    assert warnings.showwarning is shown
    (line,) = capsys.readouterr().err.splitlines()
    told = json.loads(line)
    assert (told["event"], told["text"]) == ("warning", "the CPU runs the model from now on")


def test_a_live_view_tells_everything_in_lines_of_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = CamModel.run

    def warned(self: CamModel, *arguments: object, **options: object) -> object:
        warnings.warn("the device is warm", RuntimeWarning, stacklevel=2)
        return run(self, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(CamModel, "run", warned)
    monkeypatch.chdir(tmp_path)
    write_clip(tmp_path / "clip.mp4", [plain(RED)])
    color_artifact(tmp_path / "colors.cam.onnx")
    warnings.simplefilter("always")
    result = CliRunner().invoke(
        main, ["webcam", "clip.mp4", "--record", "out.mp4", "-m", "colors.cam.onnx", "--log-format", "json"]
    )
    assert result.exit_code == 0, result.output
    events = sorted(json.loads(line)["event"] for line in result.stderr.splitlines())
    assert events == ["ended", "recorded", "recording", "warning"]


def test_why_it_ends_is_a_line_of_json_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, ["webcam", "gone.mp4", "--record", "out.mp4", "--log-format", "json"])
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    told = json.loads(line)
    assert told["event"] == "error"
    assert told["text"].startswith("there is no file 'gone.mp4'")
