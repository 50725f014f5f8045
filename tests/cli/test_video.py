"""``onnxcam video`` as a user types it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result

from onnxcam.cli import main
from onnxcam.errors import OutputError
from onnxcam.runtime.calm import Calm
from onnxcam.runtime.video import VideoSummary

from ..runtime.clips import BLUE, GREEN, RED, color_artifact, packets, plain, times, write_clip  # noqa: TID252 tests are no package
from ..runtime.streaming import MjpegCamera, eventually  # noqa: TID252

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A video of four red frames, three green and three blue, and an artifact that tells these colours."""
    write_clip(tmp_path / "clip.mp4", [plain(RED)] * 4 + [plain(GREEN)] * 3 + [plain(BLUE)] * 3, sound="aac", crf="4")
    color_artifact(tmp_path / "colors.cam.onnx")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["video", *arguments])


def test_a_method_layer_or_contrast_that_the_model_lacks_is_refused_before_any_work(folder: Path) -> None:
    for arguments, message in (
        (["--method", "layercam"], "has no map by 'layercam', only by gradcam"),
        (["--layer", "imag"], "did you mean 'image'"),
        (["--against", "red"], "make it with --explain contrast"),
    ):
        result = call("clip.mp4", "-m", "colors.cam.onnx", *arguments)
        assert (result.exit_code, message in result.stderr) == (1, True), result.stderr
    assert not (folder / "clip_cam.mp4").exists()
    assert call("clip.mp4", "-m", "colors.cam.onnx", "--method", "gradcam", "--layer", "image").exit_code == 0


def test_of_several_classes_the_first_is_shown_or_the_one_chosen(folder: Path) -> None:
    shipped = ROOT / "models" / "efficientnet_lite0.cam.onnx"
    attached = CliRunner().invoke(main, ["attach", str(shipped), "--replace", "--classes", "2", "-o", "two.cam.onnx"])
    assert attached.exit_code == 0, attached.output
    shown = {}
    for choice in ((), ("--class", "-2,-1"), ("--class", "-2")):
        result = call("clip.mp4", "-m", "two.cam.onnx", "--every", "5", "--json", "--overwrite", *choice)
        assert result.exit_code == 0, result.output
        shown[choice] = [json.loads(line)["class"] for line in result.stdout.splitlines()]
    first, second, chosen = shown.values()
    assert second == chosen
    assert all(a != b for a, b in zip(first, second, strict=True))
    assert (
        "and 3 were given: give 2" in call("clip.mp4", "-m", "two.cam.onnx", "--overwrite", "--class", "1,2,3").stderr
    )


def test_one_word_is_enough(folder: Path) -> None:
    result = call("clip.mp4", "-m", "colors.cam.onnx")
    assert (result.exit_code, result.stderr) == (0, "")
    first, *stretches = result.stdout.splitlines()
    assert first.startswith("clip_cam.mp4: 10 frames, 0.40 s, explained in ")
    assert [line.strip().rsplit(maxsplit=1)[0] for line in stretches] == [
        "0.00-0.16 s  red",
        "0.16-0.28 s  green",
        "0.28-0.40 s  blue",
    ]
    assert all(0.95 < float(line.split()[-1]) <= 1 for line in stretches)
    assert times(folder / "clip_cam.mp4") == times(folder / "clip.mp4")
    assert packets(folder / "clip_cam.mp4") == packets(folder / "clip.mp4")


def test_json_is_a_line_per_frame(folder: Path) -> None:
    result = call("clip.mp4", "-m", "colors.cam.onnx", "-o", "out.mkv", "--json", "--every", "2")
    assert (result.exit_code, result.stderr) == (0, "")
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["frame"] for line in lines] == list(range(10))
    assert [line["time"] for line in lines] == [round(0.04 * i, 6) for i in range(10)]
    assert [line["label"] for line in lines] == ["red"] * 4 + ["green"] * 4 + ["blue"] * 2
    assert [line["class"] for line in lines] == [0] * 4 + [1] * 4 + [2] * 2
    assert set(lines[0]) == {"frame", "time", "class", "label", "score"}
    assert (folder / "out.mkv").exists()


def test_a_class_is_held_unless_told_otherwise(folder: Path) -> None:
    red, green = plain((10, 130, 140)), plain((10, 140, 130))
    write_clip(folder / "tie.mp4", [red, green] * 3, crf="1", preset="ultrafast")
    lines = call("tie.mp4", "-m", "colors.cam.onnx").stdout.splitlines()
    assert [line.split()[2] for line in lines[1:]] == ["red"]
    lines = call("tie.mp4", "-m", "colors.cam.onnx", "--hold", "0", "--overwrite").stdout.splitlines()
    assert [line.split()[2] for line in lines[1:]] == ["red", "green"] * 3


def test_calm_is_set_by_options_and_there_by_default(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Calm] = []

    def explain(*_: object, calm: Calm, **__: object) -> VideoSummary:
        given.append(calm)
        raise OutputError("enough")

    monkeypatch.setattr("onnxcam.runtime.video.explain_video", explain)
    for options in ([], ["--smooth", "0.5", "--scale", "3", "--hold", "0.2", "--cut", "0"]):
        assert call("clip.mp4", "-m", "colors.cam.onnx", *options).stderr == "Error: enough\n"
    assert given == [Calm(), Calm(smoothing=0.5, scale=3, hold=0.2, cut=0)]
    assert call("clip.mp4", "--hold", "2").exit_code == 2


def test_many_stretches_are_cut_to_the_longest(folder: Path) -> None:
    write_clip(folder / "flicker.mp4", [plain(RED), plain(BLUE)] * 12 + [plain(GREEN)] * 5)
    lines = call("flicker.mp4", "-m", "colors.cam.onnx").stdout.splitlines()
    assert len(lines) == 22
    assert lines[-1] == "  and 5 shorter stretches: --json gives every frame"
    assert lines[-2].startswith("  0.96-1.16 s  green")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.mp4"], "there is no file 'missing.mp4'"),
        (["empty"], "there is no picture in 'empty'"),
        (["colors.cam.onnx"], "is not a video"),
        (["clip.mp4", "-o", "clip.mp4", "--overwrite"], "is the input itself"),
        (["clip.mp4", "-o", "no/out.mp4"], "there is no folder 'no'"),
        (["clip.mp4", "-o", "out.avi"], "a video is written as .mp4, .m4v, .mov, .mkv, and 'out.avi' is not so called"),
        (["clip.mp4", "--class", "gren"], "did you mean 'green'?"),
        (["clip.mp4", "--provider", "gpu"], "execution provider 'gpu' is not installed"),
    ],
)
def test_errors_are_one_sentence(folder: Path, arguments: list[str], message: str) -> None:
    (folder / "empty").mkdir()
    before = sorted(folder.iterdir())
    result = call(*arguments, "-m", "colors.cam.onnx")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: ")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""
    assert sorted(folder.iterdir()) == before


def test_an_existing_result_is_kept_unless_told_otherwise(folder: Path) -> None:
    (folder / "clip_cam.mp4").write_bytes(b"precious")
    result = call("clip.mp4", "-m", "colors.cam.onnx")
    assert (result.exit_code, "--overwrite" in result.stderr) == (1, True)
    assert (folder / "clip_cam.mp4").read_bytes() == b"precious"
    assert call("clip.mp4", "-m", "colors.cam.onnx", "--overwrite").exit_code == 0
    assert len(times(folder / "clip_cam.mp4")) == 10


@pytest.mark.parametrize("arguments", [[], ["clip.mp4", "--every", "0"], ["clip.mp4", "--layout", "sideways"]])
def test_wrong_usage_is_exit_status_2(folder: Path, arguments: list[str]) -> None:
    assert call(*arguments).exit_code == 2


def test_a_file_that_ends_early_is_a_warning(folder: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (40, 24, 34, 3), np.uint8)
    path = write_clip(folder / "cut.mp4", list(noise), faststart=True, g="5")
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 5])
    result = call("cut.mp4", "-m", "colors.cam.onnx")
    read = len(times(folder / "cut_cam.mp4"))
    assert result.exit_code == 0
    assert result.stderr == f"Warning: 'cut.mp4': the file ends early: {read} of 40 frames could be read\n"


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C is sent to a process group there")
def test_ctrl_c_keeps_what_was_done_and_exits_130(folder: Path) -> None:
    write_clip(folder / "long.mp4", [plain(RED, 240, 320)] * 3000, preset="ultrafast")
    command = [sys.executable, "-m", "onnxcam", "video", "long.mp4", "-m", "colors.cam.onnx", "--json"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        for _ in range(20):
            process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    kept = len(times(folder / "long_cam.mp4"))
    assert 20 <= kept < 3000
    assert errors == f"Interrupted: 'long_cam.mp4' holds the {kept} frames up to there\n"
    assert process.returncode == 130
    assert not list(folder.glob(".*"))


def test_help_shows_examples() -> None:
    result = call("--help")
    assert result.exit_code == 0
    assert "onnxcam video input.mp4 " in result.stdout


def test_methods_on_changed_pictures_and_views_explain_frames_too(folder: Path) -> None:
    result = call("clip.mp4", "-m", "colors.cam.onnx", "--method", "rise", "--samples", "3", "--augment", "flip")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.splitlines()[1].split()[2] == "red"
    assert call("clip.mp4", "-m", "colors.cam.onnx", "--method", "rise", "--sigma", "3", "--overwrite").exit_code == 1


def test_a_folder_a_pattern_and_a_stream_are_videos_too(folder: Path) -> None:
    (folder / "shots").mkdir()
    for number, color in ((9, RED), (10, GREEN), (11, BLUE)):
        (folder / "shots" / f"img_{number}.png").write_bytes(cv2.imencode(".png", plain(color))[1].tobytes())
    (folder / "shots" / "img_12.png").write_bytes(b"no picture")
    for source, output in (("shots", "shots_cam.mp4"), ("shots/img_%d.png", "shots/img_cam.mp4")):
        result = call(source, "-m", "colors.cam.onnx", "--json", "--rate", "4")
        assert result.exit_code == 0, result.output
        assert [json.loads(line)["time"] for line in result.stdout.splitlines()] == [0, 0.25, 0.5]
        assert [json.loads(line)["label"] for line in result.stdout.splitlines()] == ["red", "green", "blue"]
        assert result.stderr.startswith(f"Warning: '{source}': ")
        assert result.stderr.endswith("3 of 4 pictures could be read\n")
        assert len(times(folder / output)) == 3
    with MjpegCamera() as camera:
        threading.Timer(0.5, camera.close).start()
        address = camera.address.replace("//", "//user:secret@") + f"?key={'secret' * 60}"  # longer than any file name
        result = call(address, "-m", "colors.cam.onnx")
    assert result.exit_code == 0, result.output
    assert "secret" not in result.output
    assert f"Warning: '{camera.address}': the stream " in result.stderr
    assert len(times(folder / "127.0.0.1_cam.mp4")) >= 3


def test_what_came_of_a_stream_outlives_a_kill(folder: Path) -> None:
    part = folder / "out.recording.mp4"

    def is_playable() -> bool:
        try:
            return len(times(part)) > 3
        except av.FFmpegError:
            return False

    with MjpegCamera() as camera:
        process = subprocess.Popen(
            [sys.executable, "-m", "onnxcam", "video", camera.address, "-o", "out.mp4", "-m", "colors.cam.onnx"],
            cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        try:
            eventually(is_playable, seconds=30)
        finally:
            process.kill()
            process.wait()
    assert is_playable()
    assert not (folder / "out.mp4").exists()
