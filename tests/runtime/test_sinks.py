"""What is written: playable anywhere, in time, with the sound, and all or nothing."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from onnxcam.errors import OutputError
from onnxcam.runtime.sinks import VideoSink
from onnxcam.runtime.sources import VideoSource

from .clips import BLUE, GRAY, GREEN, RED, packets, pictures, plain, times, write_clip


def copy(path: Path, output: Path, *, frames: int | None = None) -> Path:
    """The video at ``path`` through source and sink."""
    with VideoSource(path) as source, VideoSink(output, source.info, sound_from=path) as sink:
        for frame in source:
            if frame.index != frames:
                sink.write(frame)
            else:
                break
        sink.finish(rest_of_sound=frames is None)
    return output


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write_clip(tmp_path / "clip.mp4", [plain(RED)] * 10, sound="aac")


def test_it_is_what_browsers_and_phones_play(tmp_path: Path, clip: Path) -> None:
    output = copy(clip, tmp_path / "out.mp4")
    with av.open(str(output)) as written:
        context = written.streams.video[0].codec_context
        assert (context.name, context.pix_fmt) == ("h264", "yuv420p")
        assert (context.colorspace, context.color_primaries, context.color_trc, context.color_range) == (1, 1, 1, 1)
    data = output.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")


@pytest.mark.parametrize("color", [RED, GREEN, BLUE, GRAY, (255, 255, 255), (0, 0, 0), (30, 120, 220), (200, 90, 40)])
def test_colours_do_not_shift(tmp_path: Path, color: tuple[int, int, int]) -> None:
    clip = write_clip(tmp_path / "clip.mkv", [plain(color)] * 2, codec="ffv1", pixels="bgr0")
    output = copy(clip, tmp_path / "out.mp4")
    assert np.abs(pictures(output)[1].mean(axis=(0, 1)) - color).max() <= 2
    with VideoSource(output) as source:
        assert np.abs(next(iter(source)).picture.mean(axis=(0, 1)) - color).max() <= 2


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".MP4"])
@pytest.mark.parametrize(
    ("stamps", "time_base"),
    [
        ([0, 1, 2, 3, 4, 5, 6, 7], Fraction(1, 25)),
        ([500, 530, 540, 590, 600, 731, 732, 790], Fraction(1, 1000)),
        ([5, 6, 8, 9, 20, 21, 22, 23], Fraction(1001, 30000)),
    ],
)
def test_every_frame_keeps_its_time(tmp_path: Path, suffix: str, stamps: Sequence[int], time_base: Fraction) -> None:
    name = "clip.mp4" if time_base.numerator > 1 else "clip.mkv"
    clip = write_clip(tmp_path / name, [plain(RED)] * 8, pts=stamps, time_base=time_base)
    written = times(copy(clip, tmp_path / f"out{suffix}"))
    assert len(written) == 8
    if suffix == ".mkv":  # its clock ticks in milliseconds
        assert [float(t) for t in written] == pytest.approx([float(t) for t in times(clip)], abs=5.01e-4)
    else:
        assert written == times(clip)


def test_a_broadcast_late_by_a_fraction_of_a_millisecond_stays_so(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.ts", [plain(RED)] * 10, sound="aac", pts=range(100, 110))
    with VideoSource(clip) as source:
        expected = [frame.pts * frame.time_base for frame in source]
    assert times(copy(clip, tmp_path / "out.mp4")) == expected


def test_odd_sizes_get_a_repeated_row_and_column(tmp_path: Path) -> None:
    picture = plain(GRAY, 25, 33)
    picture[-9:], picture[:, -9:] = BLUE, BLUE
    clip = write_clip(tmp_path / "clip.mkv", [picture] * 3, codec="ffv1", pixels="bgr0")
    written = pictures(copy(clip, tmp_path / "out.mp4"))[0]
    assert written.shape == (26, 34, 3)
    for edge in (written[25, :], written[:, 33]):
        assert np.abs(edge.astype(int) - BLUE).max() < 16
    assert np.abs(written[4:12, 4:12].astype(int) - GRAY).max() < 8


def test_one_pixel(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mkv", [plain(RED, 1, 1)], codec="ffv1", pixels="bgr0")
    assert pictures(copy(clip, tmp_path / "out.mp4"))[0].shape == (2, 2, 3)


def test_oblong_pixels_stay_oblong(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", [plain(RED)] * 2)
    with VideoSource(clip) as source, VideoSink(tmp_path / "out.mp4", source.info) as sink:
        object.__setattr__(source.info, "pixel_aspect", Fraction(16, 11))
        for frame in source:
            sink.write(frame)
    with VideoSource(tmp_path / "out.mp4") as written:
        assert written.info.pixel_aspect == Fraction(16, 11)


@pytest.mark.parametrize("suffix", [".mp4", ".mov"])
def test_sound_is_copied_packet_by_packet(tmp_path: Path, clip: Path, suffix: str) -> None:
    assert packets(copy(clip, tmp_path / f"out{suffix}")) == packets(clip)


def test_sound_in_matroska_starts_with_the_picture(tmp_path: Path, clip: Path) -> None:
    output = copy(clip, tmp_path / "out.mkv")
    assert packets(clip)[0][0] < 0
    assert [content for _, content in packets(output)] == [content for _, content in packets(clip)[1:]]
    assert times(output) == times(clip)


@pytest.mark.parametrize(("name", "codec"), [("clip.avi", "pcm_s16le"), ("clip.mov", "pcm_s16le")])
def test_sound_that_players_lack_becomes_aac(tmp_path: Path, name: str, codec: str) -> None:
    clip = write_clip(tmp_path / name, [plain(RED)] * 10, codec="mjpeg", pixels="yuvj420p", sound=codec)
    with av.open(str(copy(clip, tmp_path / "out.mp4"))) as written:
        assert written.streams.audio[0].codec_context.name == "aac"
        wave = np.concatenate([frame.to_ndarray()[0] for frame in written.decode(audio=0)])
    assert len(wave) == pytest.approx(0.4 * 44100, abs=2048)
    spectrum = np.abs(np.fft.rfft(wave[4096:12288]))
    assert np.fft.rfftfreq(8192, 1 / 44100)[spectrum.argmax()] == pytest.approx(440, abs=6)
    assert np.abs(wave[:12288]).max() == pytest.approx(0.3, abs=0.05)  # FFmpeg 9's AAC cracks where a tone breaks off


def test_stopped_early_the_sound_stops_with_the_picture(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", [plain(RED)] * 50, sound="aac")
    output = copy(clip, tmp_path / "out.mp4", frames=20)
    assert len(times(output)) == 20
    assert packets(output)[-1][0] / 44100 == pytest.approx(0.76, abs=0.03)


def test_an_existing_file_is_refused(tmp_path: Path, clip: Path) -> None:
    output = tmp_path / "out.mp4"
    output.write_bytes(b"precious")
    with pytest.raises(OutputError, match="--overwrite"):
        copy(clip, output)
    assert output.read_bytes() == b"precious"
    with VideoSource(clip) as source, VideoSink(output, source.info, overwrite=True) as sink:
        sink.write(next(iter(source)))
    assert len(times(output)) == 1


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_the_input_is_never_overwritten(tmp_path: Path, clip: Path, link: object) -> None:
    content = clip.read_bytes()
    link(clip, tmp_path / "other.mp4")  # type: ignore[operator]
    for output in (clip, tmp_path / "." / "clip.mp4", tmp_path / "other.mp4"):
        with VideoSource(clip) as source, pytest.raises(OutputError, match="is the input itself"):
            VideoSink(output, source.info, sound_from=clip, overwrite=True)
    assert clip.read_bytes() == content


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("out.webm", r"written as .mp4, .m4v, .mov, .mkv, and 'out.webm' is not"),
        ("out", "and 'out' is not so called"),
        ("missing/out.mp4", "there is no folder"),
        ("folder.mp4", "is a folder"),
    ],
)
def test_where_no_video_can_go(tmp_path: Path, clip: Path, name: str, message: str) -> None:
    (tmp_path / "folder.mp4").mkdir()
    before = sorted(tmp_path.iterdir())
    with pytest.raises(OutputError, match=message):
        copy(clip, tmp_path / name)
    assert sorted(tmp_path.iterdir()) == before


def test_until_it_is_whole_it_is_hidden_and_an_error_leaves_nothing(tmp_path: Path, clip: Path) -> None:
    def fail() -> None:
        with VideoSource(clip) as source, VideoSink(tmp_path / "out.mp4", source.info) as sink:
            sink.write(next(iter(source)))
            assert [p.name for p in tmp_path.iterdir() if p != clip] == [f".out.mp4.partial-{os.getpid()}"]
            raise ValueError("bang")

    with pytest.raises(ValueError, match="bang"):
        fail()
    assert list(tmp_path.iterdir()) == [clip]


def test_without_a_frame_there_is_no_file(tmp_path: Path, clip: Path) -> None:
    with VideoSource(clip) as source, VideoSink(tmp_path / "out.mp4", source.info, sound_from=clip):
        pass
    assert list(tmp_path.iterdir()) == [clip]


def test_a_full_disk_is_one_sentence(tmp_path: Path, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OutputError, match=r"out.mp4' cannot be written: the disk is full$"):
        copy(clip, tmp_path / "out.mp4")
    assert list(tmp_path.iterdir()) == [clip]


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on file sizes")
def test_a_file_that_cannot_grow_is_one_sentence(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (40, 96, 128, 3), np.uint8)
    clip = write_clip(tmp_path / "clip.mp4", list(noise))
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (60000, 60000))\n"
        "from onnxcam.errors import OutputError; from onnxcam.runtime.sources import VideoSource\n"
        "from onnxcam.runtime.sinks import VideoSink\n"
        "try:\n"
        "    with VideoSource(sys.argv[1]) as source, VideoSink(sys.argv[2], source.info) as sink:\n"
        "        for frame in source: sink.write(frame)\n"
        "except OutputError as error: print(error)\n"
    )
    arguments = [sys.executable, "-c", code, str(clip), str(tmp_path / "out.mp4")]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == (f"'{tmp_path / 'out.mp4'}' cannot be written: file too large\n", "")
    assert list(tmp_path.iterdir()) == [clip]


def test_a_time_stamp_given_twice_moves_on_by_one_tick(tmp_path: Path, clip: Path) -> None:
    from dataclasses import replace

    with VideoSource(clip) as source, VideoSink(tmp_path / "out.mp4", source.info) as sink:
        for frame in source:
            sink.write(replace(frame, pts=512 * (frame.index // 2)))
    assert [t * 12800 for t in times(tmp_path / "out.mp4")] == [0, 1, 512, 513, 1024, 1025, 1536, 1537, 2048, 2049]
