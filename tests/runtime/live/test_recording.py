"""A recording that plays, whatever ends it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from onnxcam.errors import OutputError
from onnxcam.runtime.live import recording
from onnxcam.runtime.live.frames import LiveFrame
from onnxcam.runtime.live.recording import Recorder, Tape, recording_path
from onnxcam.runtime.sinks import VideoSink
from onnxcam.runtime.sources import VideoSource

from ..clips import pictures, times  # noqa: TID252 tests are no package
from ..streaming import eventually  # noqa: TID252

ROOT = Path(__file__).parents[3]
SEED = 0


def live(number, taken, height=24, width=34, shade=None, noise=False):
    """A frame whose grey tells its number or is ``shade``, or one that does not compress."""
    drawn = np.full((height, width, 3), 8 * number % 256 if shade is None else shade, np.uint8)
    if noise:
        drawn = np.random.default_rng(SEED + number).integers(0, 256, drawn.shape, np.uint8)
    return LiveFrame(number=number, taken=taken, explanation=None, drawn=drawn, rate=25.0)


def recorded(path, frames, **options):
    told = []
    with Recorder(
        path, rate=Fraction(25), wait=True, tell=lambda event, **facts: told.append((event, facts)), **options
    ) as recorder:
        for frame in frames:
            recorder.publish(frame)
    return recorder, told


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_every_frame_is_there_at_its_time_under_the_final_name_alone(tmp_path, suffix):
    path = tmp_path / f"out{suffix}"
    taken = [100.0, 100.2, 100.21, 103.0, 109.5]
    recorder, told = recorded(path, [live(number, time) for number, time in enumerate(taken)])
    assert [float(time) for time in times(path)] == pytest.approx([0, 0.2, 0.21, 3, 9.5])
    assert [round(picture.mean() / 8) for picture in pictures(path)] == [0, 1, 2, 3, 4]
    assert list(tmp_path.iterdir()) == [path]
    assert told == [
        ("recording", {"file": str(path)}),
        ("recorded", {"file": str(path), "frames": 5, "seconds": 9.54}),
    ]
    recorder.close()
    for number in range(9):
        recorder.publish(live(number, 200.0))
    assert (recorder.missed, recorder.trouble, len(told)) == (0, None, 2)


def test_frames_of_another_size_are_fitted_into_the_first(tmp_path):
    recorded(tmp_path / "out.mp4", [live(0, 0.0, shade=200), live(1, 0.1, 96, 68, 200), live(2, 0.2, 12, 34, 200)])
    found = pictures(tmp_path / "out.mp4")
    assert [picture.shape for picture in found] == [(24, 34, 3)] * 3
    lit = [(picture[..., 1] > 100) for picture in found]
    assert [(mask.any(1).sum(), mask.any(0).sum()) for mask in lit] == [(24, 34), (24, 17), (12, 34)]


def test_without_a_frame_there_is_no_file(tmp_path):
    _, told = recorded(tmp_path / "out.mp4", [])
    assert list(tmp_path.iterdir()) == []
    assert [event for event, _ in told] == ["recording"]


def test_an_existing_file_and_one_that_was_cut_off_are_kept(tmp_path):
    (tmp_path / "out.mp4").write_bytes(b"precious")
    (tmp_path / "out.recording.mp4").write_bytes(b"precious too")
    with pytest.raises(OutputError, match=r"exists: choose another name"):
        recorded(tmp_path / "out.mp4", [])
    with Recorder(tmp_path / "out.mp4", rate=Fraction(25), overwrite=True) as recorder:
        recorder.publish(live(0, 0.0))
        assert (tmp_path / "out.recording-2.mp4").exists()
        assert (tmp_path / "out.mp4").read_bytes() == b"precious"
    assert len(times(tmp_path / "out.mp4")) == 1
    assert (tmp_path / "out.recording.mp4").read_bytes() == b"precious too"
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("rate", [25, 4, 0.4])
@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_while_it_is_written_all_but_two_seconds_can_be_played(tmp_path, suffix, rate):
    path = tmp_path / f"out{suffix}"
    info = recording.VideoInfo(
        width=34, height=24, average_rate=Fraction(30), time_base=Fraction(1, 1000), frames=None, duration=None,
        has_audio=False,
    )  # fmt: skip
    length = 10 if rate > 1 else 30
    with VideoSink(path, info, recording=True) as sink:
        for number in range(round(length * rate)):
            frame = live(number, 0.0, noise=True).drawn
            sink.write(recording.Frame(number, round(1000 * number / rate), 0, Fraction(1, 1000), frame))
        last = (number - 1) / rate  # what was written before is out when the next comes
        assert times(sink.part)[-1] >= last - 2.1
    assert len(times(path)) == round(length * rate)


RECORD = """
import sys, numpy as np
from fractions import Fraction
from pathlib import Path
from onnxcam.runtime.live.frames import LiveFrame
from onnxcam.runtime.live.recording import Recorder
picture = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
with Recorder(Path(sys.argv[1]), rate=Fraction(30), wait=True) as recorder:
    for number in range(100_000):
        recorder.publish(LiveFrame(number=number, taken=number / 10, explanation=None, drawn=picture, rate=10.0))
        if number % 10 == 0:
            print(number, flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_killed_it_leaves_what_it_recorded(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", RECORD, str(tmp_path / "out.mp4")],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as process:
        assert process.stdout is not None
        number = 0
        while number < 200:
            number = int(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
        process.wait(10)
    assert [path.name for path in tmp_path.iterdir()] == ["out.recording.mp4"]
    played = times(tmp_path / "out.recording.mp4")
    assert float(played[-1]) >= (number - 6) / 10 - 2.1  # four waited, and one or two were in work
    assert len(played) == round(float(played[-1]) * 10) + 1


def test_a_disk_that_fills_ends_the_recording_and_nothing_else(tmp_path, monkeypatch):
    write = VideoSink.write

    def full(sink, frame):
        if frame.index == 80:
            raise OutputError(f"'{sink.path}' cannot be written: the disk is full")
        write(sink, frame)

    monkeypatch.setattr(VideoSink, "write", full)
    frames = [live(number, number / 10) for number in range(300)]
    recorder, told = recorded(tmp_path / "out.mp4", frames)
    part = tmp_path / "out.recording.mp4"
    assert recorder.trouble == (
        f"'{tmp_path / 'out.mp4'}' cannot be written: the disk is full; what came before is in '{part}'"
    )
    assert told[1:] == [("recording failed", {"reason": recorder.trouble})]
    assert len(times(part)) == 80
    assert list(tmp_path.iterdir()) == [part]


def test_an_encoder_that_fails_in_its_own_way_hangs_nobody(tmp_path, monkeypatch):
    def fail(sink, frame):
        raise RuntimeError("it broke")

    monkeypatch.setattr(VideoSink, "write", fail)
    recorder, told = recorded(tmp_path / "out.mp4", [live(number, number / 10) for number in range(20)])
    assert recorder.trouble == f"'{tmp_path / 'out.mp4'}' cannot be written: RuntimeError: it broke"
    assert [event for event, _ in told] == ["recording", "recording failed"]
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    if (
        not sys.platform.startswith("linux")
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=300k", "none", str(folder)], capture_output=True
        ).returncode
    ):
        pytest.skip("only root may mount a small disk")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_is_really_full(small_disk):
    frames = (live(number, number / 5, 96, 128, noise=True) for number in range(200))
    recorder, _ = recorded(small_disk / "out.mp4", frames)
    part = small_disk / "out.recording.mp4"
    assert recorder.trouble == (
        f"'{small_disk / 'out.mp4'}' cannot be written: the disk is full; what came before is in '{part}'"
    )
    with VideoSource(part) as source:
        assert len(list(source)) > 10
    assert list(small_disk.iterdir()) == [part]


def test_frames_that_the_encoder_has_no_time_for_are_left_out_and_counted(tmp_path, monkeypatch):
    hold, write = threading.Event(), VideoSink.write

    def slow(sink, frame):
        hold.wait(10)
        write(sink, frame)

    monkeypatch.setattr(VideoSink, "write", slow)
    with Recorder(tmp_path / "out.mp4", rate=Fraction(25)) as recorder:
        recorder.publish(live(0, 0.0))
        eventually(lambda: recorder._queue.empty())
        for number in range(1, 10):
            recorder.publish(live(number, number / 10))
        hold.set()
    assert recorder.missed == 5
    assert [round(picture.mean() / 8) for picture in pictures(tmp_path / "out.mp4")] == [0, 1, 2, 3, 4]


def test_a_tape_is_switched_on_and_off(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tape = Tape(lambda text: Recorder(recording_path(text), rate=Fraction(25), wait=True))
    with tape:
        tape.publish(live(0, 0.0))
        assert tape.switch() == "recording"
        tape.publish(live(1, 1.0))
        said = tape.switch()
        tape.publish(live(2, 2.0))
    (file,) = tmp_path.iterdir()
    assert said == f"recorded {file.name}"
    assert [round(picture.mean() / 8) for picture in pictures(file)] == [1]


def test_the_time_stands_in_the_name(monkeypatch):
    monkeypatch.setattr(recording.time, "strftime", lambda text: text.replace("%Y", "2031"))
    assert recording_path("a/%Y.mp4") == Path("a/2031.mp4")
    assert recording_path("a/b.mp4") == Path("a/b.mp4")
