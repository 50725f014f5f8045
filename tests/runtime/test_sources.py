"""What comes out of video files: upright, in time, and as many frames as can be read."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest

from onnxcam.errors import InputError
from onnxcam.runtime import sources
from onnxcam.runtime.sources import VideoSource

from .clips import BLUE, GRAY, GREEN, RED, plain, times, write_clip


def read(path: Path) -> tuple[VideoSource, list[np.ndarray]]:
    with VideoSource(path) as source:
        return source, [frame.picture for frame in source]


def corners() -> np.ndarray:
    """Red, green / blue, grey: every turn and mirror of it differs."""
    picture = plain(GRAY)
    picture[:12, :17], picture[:12, 17:], picture[12:, :17] = RED, GREEN, BLUE
    return picture


def corner_colors(picture: np.ndarray) -> list[tuple[int, int, int]]:
    """The nearest of the four colours at each corner, row by row."""
    known = np.array([RED, GREEN, BLUE, GRAY])
    return [
        tuple(known[np.abs(known - picture[row, column].astype(int)).sum(axis=1).argmin()].tolist())
        for row in (3, -4)
        for column in (3, -4)
    ]


def test_frames_are_counted_timed_and_in_colour(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", [plain((30, 120, 220)), plain((200, 90, 40))], crf="1")
    with VideoSource(path) as source:
        frames = list(source)
    assert [frame.index for frame in frames] == [0, 1]
    assert [frame.time for frame in frames] == [0.0, 0.04]
    assert [frame.duration * frame.time_base for frame in frames] == [Fraction(1, 25)] * 2
    for frame, color in zip(frames, [(30, 120, 220), (200, 90, 40)], strict=True):
        assert frame.picture.shape == (24, 34, 3)
        assert np.abs(frame.picture.mean(axis=(0, 1)) - color).max() < 3
    assert source.problem is None


@pytest.mark.parametrize(("height", "width", "shares"), [(16, 720, (0.299, 0.114)), (720, 16, (0.2126, 0.0722))])
def test_the_stored_rows_tell_the_matrix_that_a_file_does_not_name(
    tmp_path: Path, height: int, width: int, shares: tuple[float, float]
) -> None:
    """BT.601 below 720 rows, also of a video that is shown turned upright."""
    path = write_clip(
        tmp_path / "clip.mkv",
        [np.full((height, width, 3), (40, 200, 90), np.uint8)],
        codec="ffv1",
        rotation=(90, False),
    )
    with av.open(str(path)) as clip:
        stored = next(clip.decode(video=0)).to_ndarray()
    luma, blue, red = (float(stored[row, 0]) for row in (0, height, height + height // 4))
    with VideoSource(path) as source:
        picture = next(iter(source)).picture
    assert picture.shape == (width, height, 3)
    kr, kb = shares
    y, cb, cr = (luma - 16) / 219, (blue - 128) / 224, (red - 128) / 224
    r, b = y + 2 * (1 - kr) * cr, y + 2 * (1 - kb) * cb
    expected = 255 * np.array([b, (y - kr * r - kb * b) / (1 - kr - kb), r])
    assert np.abs(picture[8, 8] - expected).max() <= 1


def test_info(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", [plain(RED)] * 10, sound="aac")
    with VideoSource(path) as source:
        info = source.info
    assert (info.height, info.width, info.frames, info.duration) == (24, 34, 10, 0.4)
    assert (info.average_rate, info.has_audio, info.rotation) == (25, True, 0)


def test_uneven_time_stamps_are_kept(tmp_path: Path) -> None:
    stamps = [500, 530, 540, 590, 600, 731]
    path = write_clip(tmp_path / "clip.mkv", [plain(RED)] * 6, pts=stamps, time_base=Fraction(1, 1000))
    with VideoSource(path) as source:
        assert [frame.pts * frame.time_base for frame in source] == [Fraction(s, 1000) for s in stamps]
    assert source.problem is None


def test_the_clock_of_a_broadcast_starts_at_zero(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.ts", [plain(RED)] * 4, pts=[100, 101, 102, 103])
    assert times(path)[0] == 4
    with VideoSource(path) as source:
        assert [frame.time for frame in source] == pytest.approx([0, 0.04, 0.08, 0.12])


# A stored frame has red, green / blue, grey in its corners. Rotation is counter-clockwise, the mirror comes first.
@pytest.mark.parametrize(
    ("rotation", "mirrored", "expected", "reported"),
    [
        (0, False, [RED, GREEN, BLUE, GRAY], 0),
        (90, False, [GREEN, GRAY, RED, BLUE], 90),
        (180, False, [GRAY, BLUE, GREEN, RED], 180),
        (270, False, [BLUE, RED, GRAY, GREEN], 270),
        (0, True, [GREEN, RED, GRAY, BLUE], 0),
    ],
)
def test_the_display_matrix_is_applied(
    tmp_path: Path, rotation: int, mirrored: bool, expected: list[tuple[int, int, int]], reported: int
) -> None:
    path = write_clip(tmp_path / "clip.mp4", [corners()], crf="1", rotation=(rotation, mirrored))
    source, (picture,) = read(path)
    assert picture.shape == ((34, 24, 3) if rotation in (90, 270) else (24, 34, 3))
    assert (source.info.height, source.info.width) == picture.shape[:2]
    assert corner_colors(picture) == expected
    assert source.info.rotation == reported


def test_odd_sizes_and_ten_bits(tmp_path: Path) -> None:
    picture = plain((30, 120, 220), 25, 33)
    path = write_clip(tmp_path / "clip.mkv", [picture], codec="ffv1", pixels="yuv420p10le")
    _, (read_back,) = read(path)
    assert read_back.shape == (25, 33, 3)
    assert np.abs(read_back.astype(int) - picture).max() <= 2


def test_names_beyond_ascii_and_like_addresses(tmp_path: Path) -> None:
    for name in ("видео 動画 é.mp4", "http:clip%03d.mp4"):
        path = write_clip(tmp_path / "clip.mp4", [plain(RED)]).rename(tmp_path / name)
        assert len(read(path)[1]) == 1


def test_a_file_that_ends_early_gives_what_it_has(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (40, 24, 34, 3), np.uint8)
    path = write_clip(tmp_path / "clip.mp4", list(noise), faststart=True, g="5")
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 5])
    source, frames = read(path)
    assert 15 < len(frames) < 30
    assert source.problem == f"the file ends early: {len(frames)} of 40 frames could be read"
    assert capfd.readouterr() == ("", "")


def test_a_matroska_file_that_ends_early(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (50, 24, 34, 3), np.uint8)
    path = write_clip(tmp_path / "clip.mkv", list(noise), g="5", bf="0")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    source, frames = read(path)
    assert 15 < len(frames) < 35
    assert source.problem == f"the file ends early: {len(frames) / 25:.1f} of 2.0 s could be read"


def test_damaged_packets_are_skipped(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.avi", [plain(RED, 48, 64)] * 10, codec="png", pixels="rgb24")
    data = bytearray(path.read_bytes())
    third = [i for i in range(len(data)) if data[i : i + 4] == b"\x89PNG"][2]
    data[third + 12 : third + 16] = bytes(4)
    path.write_bytes(data)
    source, frames = read(path)
    assert len(frames) == 9
    assert source.problem == "the file is damaged: 1 packets were skipped, 9 frames could be read"


def test_a_damaged_length_is_none(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mkv", [plain(RED)] * 25)
    data = path.read_bytes()
    assert b"00:00:01.000000000" in data
    for written in (b"00:00:01.0\xff0000000", b"00:00 01.000000000"):
        path.write_bytes(data.replace(b"00:00:01.000000000", written))
        source, frames = read(path)
        assert (len(frames), source.problem) == (25, None)


def test_a_frame_whose_colours_cannot_be_converted_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_clip(tmp_path / "clip.mp4", [plain(RED)] * 5)
    convert, failing = VideoSource._picture, [1, 3]

    def picture(source: VideoSource, decoded: av.VideoFrame) -> np.ndarray:
        if round(decoded.time * 25) in failing:
            raise av.error.OSError(errno.EOPNOTSUPP, "Operation not supported")
        return convert(source, decoded)

    monkeypatch.setattr(VideoSource, "_picture", picture)
    source, frames = read(path)
    assert len(frames) == 3
    assert source.problem == "the file is damaged: 2 packets were skipped, 3 frames could be read"
    failing[:] = range(5)
    source, frames = read(path)
    assert (frames, source.problem) == ([], f"'{path}' is damaged: not one frame of it can be read")


class Growing:
    """A container in which a stream began on the way, which PyAV knows not at the end."""

    def __init__(self, container: Any) -> None:
        self._container = container

    def __getattr__(self, name: str) -> Any:
        return getattr(self._container, name)

    def demux(self, stream: av.VideoStream) -> Iterator[av.Packet]:
        yield from self._container.demux(stream)
        raise IndexError("list index out of range")


def test_a_stream_that_begins_on_the_way_is_no_trouble(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_clip(tmp_path / "clip.ts", [plain(RED)] * 5)
    open_media = sources.open_media
    monkeypatch.setattr(sources, "open_media", lambda path: Growing(open_media(path)))
    source, frames = read(path)
    assert (len(frames), source.problem) == (5, None)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.mp4", b"", "is empty"),
        ("noise.mp4", bytes(range(256)) * 20, "is not a video"),
        ("notes.txt", b"a page of text\n" * 50, "is not a video"),
        ("list.m3u8", b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nclip.ts\n", "is not a video"),
    ],
)
def test_what_is_no_video_is_refused(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        VideoSource(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no file"):
        VideoSource(tmp_path / "missing.mp4")
    with pytest.raises(InputError, match="is a folder"):
        VideoSource(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_is_refused_rather_than_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(InputError, match="is not a file"):
        VideoSource(tmp_path / "pipe.mp4")


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".bmp", ".tiff"])
def test_a_picture_is_sent_to_the_other_command(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"cat{suffix}"
    cv2.imwrite(str(path), plain(RED))
    with pytest.raises(InputError, match="run 'onnxcam image"):
        VideoSource(path)


def test_sound_alone_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tone.m4a"
    with av.open(str(path), "w", format="mp4") as output:
        tone = output.add_stream("aac", rate=44100, layout="mono")
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), format="fltp", layout="mono")
        samples.sample_rate = 44100
        output.mux(tone.encode(samples))
        output.mux(tone.encode(None))
    with pytest.raises(InputError, match="sound alone"):
        VideoSource(path)


def test_an_mp4_without_its_index_is_refused(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", [plain(RED)] * 20)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(InputError, match="cut off"):
        VideoSource(path)


def test_animations_are_videos(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.gif", [plain(RED), plain(BLUE)], codec="gif", pixels="rgb8")
    _, frames = read(path)
    assert [corner_colors(frame)[0] for frame in frames] == [RED, BLUE]
