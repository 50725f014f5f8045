"""``onnxcam webcam`` as a user, and a supervisor, call it. Files play the camera."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import urlopen

import av
import pytest
from click.testing import CliRunner, Result

from onnxcam.cli import main
from onnxcam.errors import OutputError
from onnxcam.runtime.calm import Calm
from onnxcam.runtime.cameras import CameraInfo

from ..runtime.clips import BLUE, GREEN, RED, color_artifact, plain, write_clip  # noqa: TID252 tests are no package


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A video of four red frames, three green and three blue, an artifact that tells these colours, and no screen."""
    write_clip(tmp_path / "clip.mp4", [plain(RED)] * 4 + [plain(GREEN)] * 3 + [plain(BLUE)] * 3, crf="4")
    color_artifact(tmp_path / "colors.cam.onnx")
    monkeypatch.chdir(tmp_path)
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("onnxcam.runtime.live.window.screen_problem", lambda: "there is no screen here")
    return tmp_path


def call(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["webcam", *arguments, "-m", "colors.cam.onnx"])


def frames(path: Path) -> int:
    with av.open(str(path)) as video:
        return sum(1 for _ in video.decode(video=0))


def test_every_frame_of_a_file_is_explained_and_recorded(folder: Path) -> None:
    result = call("clip.mp4", "--record", "out.mp4", "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert {name: told[name] for name in ("seen", "explained", "dropped")} == {
        "seen": 10,
        "explained": 10,
        "dropped": 0,
    }
    assert frames(folder / "out.mp4") == 10
    assert sorted(path.name for path in folder.iterdir()) == ["clip.mp4", "colors.cam.onnx", "out.mp4"]
    lines = result.stderr.splitlines()
    assert [re.sub(r"^\d\d:\d\d:\d\d ", "", line) for line in lines[:2]] == ["recording: out.mp4", "ended"]


def test_calm_is_set_by_options_and_there_by_default(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Calm] = []

    def live(*_: object, calm: Calm, **__: object) -> None:
        given.append(calm)
        raise OutputError("enough")

    monkeypatch.setattr("onnxcam.runtime.live.loop.Live", live)
    for options in ([], ["--smooth", "0.5", "--scale", "3", "--hold", "0.2", "--cut", "0"]):
        assert "Error: enough" in call("clip.mp4", "--record", "out.mp4", *options).stderr
    assert given == [Calm(), Calm(smoothing=0.5, scale=3, hold=0.2, cut=0)]


def test_a_loop_goes_on_until_it_is_to_end(folder: Path) -> None:
    result = call("clip.mp4", "--loop", "--record", "%Y.mp4", "--seconds", "1.2", "--log-format", "json")
    assert result.exit_code == 0, result.output
    seen = int(result.stdout.split()[0])
    assert seen > 10  # more than once
    events = [json.loads(line) for line in result.stderr.splitlines()]
    assert [event["event"] for event in events] == ["recording", "recorded"]
    assert events[1]["file"] == time.strftime("%Y.mp4")


def test_the_page_is_there_and_tells_what_goes_on(folder: Path) -> None:
    with running(folder, "clip.mp4", "--loop", "--serve", "0") as process:
        address = line_with(process, "serving")["address"]
        with urlopen(f"{address}/health", timeout=10) as answer:
            assert answer.status == 200
        end = time.monotonic() + 20
        while True:
            with urlopen(f"{address}/metrics", timeout=10) as answer:
                metrics = answer.read().decode()
            explained = re.search(r"^onnxcam_frames_explained_total (\d+)", metrics, re.M)
            if explained and int(explained[1]) > 3:
                break
            assert time.monotonic() < end, metrics
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["clip.mp4"], 1, "no screen here: 'onnxcam webcam clip.mp4 --serve' shows the live picture in a browser"),
        (["missing.mp4"], 1, "there is no file 'missing.mp4'"),
        (["missing.mp4", "--record", "out.mp4"], 1, "there is no file 'missing.mp4'"),
        (["rtsp://a/b", "--loop", "--serve"], 1, "--loop plays a file again, and 'rtsp://a/b' is no file"),
        (["clip.mp4", "--serve", "nowhere at all"], 1, "is no address to serve at"),
        (["--serve", "clip.mp4"], 1, "took 'clip.mp4' for the address of the page: name the source before it"),
        (["--serve", "rtsp://user:secret@camera/stream"], 1, "took 'rtsp://camera/stream' for the address"),
        (["rtsp://user:secret@camera/stream"], 1, "no screen here: 'onnxcam webcam rtsp://camera/stream --serve'"),
        (["clip.mp4", "--token", "t", "--record", "out.mp4"], 1, "no page is served: add --serve"),
        (["clip.mp4", "--size", "4x4", "--record", "out.mp4"], 1, "'clip.mp4' has its own"),
        (["clip.mp4", "--rate", "5", "--record", "out.mp4"], 1, "'clip.mp4' has its own"),
        (["clip.mp4", "--record", "clip.mp4"], 1, "'clip.mp4' is the input itself"),
        (["clip.mp4", "--record", "./clip.mp4", "--overwrite"], 1, "'clip.mp4' is the input itself"),
        (["clip.mp4", "--record", "folder.mp4"], 1, "'folder.mp4' is a folder"),
        (["clip.mp4", "--record", "out.avi"], 1, "a video is written as"),
        (["clip.mp4", "--record", "out.mp4", "--class", "gren"], 1, "did you mean 'green'?"),
        (["clip.mp4", "--record", "out.mp4", "--method", "layercam"], 1, "has no map by 'layercam'"),
        (["clip.mp4", "--size", "large"], 2, "is not WIDTHxHEIGHT such as 1280x720"),
        (["/dev/no-such-camera", "--record", "out.mp4"], 1, "/dev/no-such-camera"),
    ],
)
def test_errors_are_one_sentence(folder: Path, arguments: list[str], status: int, words: str) -> None:
    (folder / "folder.mp4").mkdir()
    before = sorted(folder.iterdir())
    result = call(*arguments)
    assert result.exit_code == status
    assert words in result.stderr
    assert result.stderr.count("Error: ") == 1
    assert "Traceback" not in result.stderr
    assert sorted(folder.iterdir()) == before


def test_cameras_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxcam.runtime.cameras.cameras", lambda: [CameraInfo(0, "Door", "/dev/video0")])
    assert CliRunner().invoke(main, ["webcam", "--list"]).stdout == "0  Door  /dev/video0\n"
    listed = CliRunner().invoke(main, ["webcam", "--list", "--json"]).stdout
    assert json.loads(listed) == {"index": 0, "name": "Door", "path": "/dev/video0"}


class running(subprocess.Popen[str]):  # noqa: N801 a process that runs, in a with statement
    """``onnxcam webcam`` in a process of its own, ended if the test did not."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        command = [
            sys.executable,
            "-c",
            f"import sys; sys.path[:] = {sys.path!r}; from onnxcam.cli import main; main()",
        ]
        environment = {name: value for name, value in os.environ.items() if "DISPLAY" not in name}
        super().__init__(
            [*command, "webcam", *arguments, "-m", "colors.cam.onnx", "--log-format", "json"],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __exit__(self, *details: object) -> None:
        self.kill()
        self.communicate()


def line_with(process: subprocess.Popen[str], event: str) -> dict[str, str]:
    assert process.stderr is not None
    for line in process.stderr:
        told: dict[str, str] = json.loads(line)
        if told["event"] == event:
            return told
    raise AssertionError(f"no line told of '{event}'")


def playable(path: Path, least: int) -> bool:
    try:
        return path.exists() and frames(path) >= least
    except av.FFmpegError:
        return False


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
@pytest.mark.parametrize(("name", "status"), [("SIGTERM", 0), ("SIGHUP", 0), ("SIGINT", 130)])
def test_told_to_end_it_closes_everything_in_order(folder: Path, name: str, status: int) -> None:
    with running(folder, "clip.mp4", "--loop", "--record", "out.mp4") as process:
        line_with(process, "recording")
        time.sleep(1.0)  # as long as it records
        process.send_signal(getattr(signal, name))
        assert process.wait(20) == status
        assert process.stdout is not None
        assert "frames seen" in process.stdout.read()
    assert frames(folder / "out.mp4") > 5
    assert sorted(path.name for path in folder.iterdir()) == ["clip.mp4", "colors.cam.onnx", "out.mp4"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
def test_killed_it_leaves_a_recording_that_plays(folder: Path) -> None:
    with running(folder, "clip.mp4", "--loop", "--record", "out.mp4") as process:
        line_with(process, "recording")
        part, end = folder / "out.recording.mp4", time.monotonic() + 30
        while not playable(part, 20):
            assert time.monotonic() < end
            time.sleep(0.2)
        process.kill()
        process.wait(10)
    assert playable(part, 20)
    assert not (folder / "out.mp4").exists()
    with running(folder, "clip.mp4", "--record", "out.mp4") as process:  # what a supervisor does
        assert process.wait(30) == 0
    assert playable(part, 20)  # the earlier one is kept
    assert frames(folder / "out.mp4") == 10


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
@pytest.mark.parametrize(("name", "status"), [("SIGTERM", 143), ("SIGHUP", 129)])
def test_a_video_that_is_terminated_keeps_what_was_done(folder: Path, name: str, status: int) -> None:
    write_clip(folder / "long.mp4", [plain(RED)] * 3000, crf="40")
    command = [sys.executable, "-c", f"import sys; sys.path[:] = {sys.path!r}; from onnxcam.cli import main; main()"]
    process = subprocess.Popen(
        [*command, "video", "long.mp4", "-m", "colors.cam.onnx", "--json"],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(getattr(signal, name))
    process.communicate(timeout=30)
    assert process.returncode == status
    assert 0 < frames(folder / "long_cam.mp4") < 3000
    assert not [path.name for path in folder.iterdir() if path.name.startswith(".")]
