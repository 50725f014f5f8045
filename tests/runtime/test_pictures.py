"""Pictures as a viewer shows them, or one sentence on why not."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from onnxcam.errors import InputError, OutputError
from onnxcam.runtime.pictures import decoded, is_picture, pixels, read_picture, write_picture

BLOCKS = np.zeros((16, 24, 3), np.uint8)
BLOCKS[:8, :8] = (0, 0, 255)  # red in the upper left corner
BLOCKS[8:, 16:] = (255, 0, 0)


def save(path: Path, picture: np.ndarray) -> Path:
    path.write_bytes(cv2.imencode(path.suffix, picture)[1].tobytes())
    return path


def test_colour_grey_alpha_and_sixteen_bits(tmp_path):
    np.testing.assert_array_equal(read_picture(save(tmp_path / "größe 图.png", BLOCKS)), BLOCKS)
    grey = read_picture(save(tmp_path / "g.png", np.full((3, 5), 77, np.uint8)))
    assert (grey.shape, grey[1, 2].tolist()) == ((3, 5, 3), [77, 77, 77])
    deep = read_picture(save(tmp_path / "d.png", np.full((3, 5, 3), 0x8000, np.uint16)))
    assert deep.dtype == np.uint8
    assert abs(int(deep[0, 0, 0]) - 128) <= 1
    clear = np.zeros((3, 5, 4), np.uint8)
    clear[:, 0] = (10, 20, 30, 255)
    shown = read_picture(save(tmp_path / "a.png", clear))
    assert shown[0, :2].tolist() == [[10, 20, 30], [255, 255, 255]]


@pytest.mark.parametrize(("orientation", "corner"), [(1, (0, 0)), (3, (15, 23)), (6, (0, 15)), (8, (23, 0))])
def test_exif_orientation_is_applied(tmp_path, orientation, corner):
    jpeg = cv2.imencode(".jpg", BLOCKS, [cv2.IMWRITE_JPEG_QUALITY, 100])[1].tobytes()
    entry = struct.pack(">HHIHH", 0x0112, 3, 1, orientation, 0)
    exif = b"Exif\0\0MM\0*" + struct.pack(">IH", 8, 1) + entry + struct.pack(">I", 0)
    path = tmp_path / "e.jpg"
    path.write_bytes(jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + jpeg[2:])
    picture = read_picture(path)
    assert picture.shape[:2] == ((24, 16) if orientation in (6, 8) else (16, 24))
    blue, _, red = picture[corner].astype(int)
    assert red > 200 > 60 > blue


UPRIGHT = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
    8: lambda x: np.rot90(x),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_orientation_is_applied_at_any_depth_and_with_opacity(tmp_path, orientation):
    tiff = b"II*\0" + struct.pack("<IH", 8, 1) + struct.pack("<HHIHH", 0x0112, 3, 1, orientation, 0) + bytes(4)
    chunk = struct.pack(">I", len(tiff)) + b"eXIf" + tiff + struct.pack(">I", zlib.crc32(b"eXIf" + tiff))
    colours = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3) * 10
    opaque = np.dstack([colours, np.full((2, 3), 255, np.uint8)])
    for picture in (colours, opaque, colours.astype(np.uint16) * 257):
        png = cv2.imencode(".png", picture)[1].tobytes()
        path = tmp_path / "e.png"
        path.write_bytes(png[:33] + chunk + png[33:])  # behind the header
        np.testing.assert_array_equal(read_picture(path), UPRIGHT[orientation](colours))


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".bmp", ".tiff"])
def test_every_format_is_measured_before_it_is_decoded(tmp_path, suffix):
    path = save(tmp_path / f"p{suffix}", BLOCKS)
    with pytest.raises(InputError, match="has 24 x 16 pixels"):
        read_picture(path, max_pixels=1)
    np.testing.assert_allclose(read_picture(path)[2, 2], [0, 0, 255], atol=40)


def test_a_video_is_sent_to_its_own_command(tmp_path):
    path = tmp_path / "clip.jpg"
    path.write_bytes(b"\0\0\0\x20ftypisom" + bytes(100))
    with pytest.raises(InputError, match="is a video, not a picture: run 'onnxcam video"):
        read_picture(path)


def test_a_broken_picture_says_so_once(tmp_path, capfd):
    path = save(tmp_path / "w.bmp", BLOCKS)
    path.write_bytes(path.read_bytes()[:600])
    with pytest.raises(InputError, match="damaged"):
        read_picture(path)
    assert capfd.readouterr() == ("", "")


def test_what_is_no_picture_is_refused_in_a_sentence(tmp_path):
    whole = save(tmp_path / "w.jpg", cv2.resize(BLOCKS, (240, 160))).read_bytes()
    cases = {
        "none.jpg": (None, "no file"),
        "zero.jpg": (b"", "empty"),
        "text.jpg": (b"hello", "no picture"),
        "cut.jpg": (whole[: len(whole) // 2], "cut short"),
        "cut.png": (save(tmp_path / "w.png", BLOCKS).read_bytes()[:60], "cut short"),
    }
    for name, (content, message) in cases.items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=message):
            read_picture(tmp_path / name)
    with pytest.raises(InputError, match="folder"):
        read_picture(tmp_path)


def test_a_huge_picture_is_refused_before_it_is_decoded_unless_allowed(tmp_path):
    path = save(tmp_path / "p.png", BLOCKS)
    with pytest.raises(InputError, match=r"24 x 16 pixels, over the limit of 383.*--max-pixels"):
        read_picture(path, max_pixels=383)
    assert read_picture(path, max_pixels=384).shape == (16, 24, 3)


def test_writing_is_all_or_nothing(tmp_path, monkeypatch):
    write_picture(tmp_path / "ö.png", BLOCKS)
    np.testing.assert_array_equal(read_picture(tmp_path / "ö.png"), BLOCKS)
    with pytest.raises(OutputError, match=r"not as '\.xyz'"):
        write_picture(tmp_path / "p.xyz", BLOCKS)
    with pytest.raises(OutputError):
        write_picture(tmp_path / "no" / "p.png", BLOCKS)
    assert [p.name for p in tmp_path.iterdir()] == ["ö.png"]


def test_a_picture_that_lies_in_no_file_is_decoded_as_one_that_does(tmp_path):
    path = save(tmp_path / "a.png", BLOCKS)
    data = path.read_bytes()
    np.testing.assert_array_equal(decoded(data), BLOCKS)
    assert (is_picture(data), pixels(data)) == (True, 16 * 24)
    for damaged, words in (
        (data[:-20], "the upload is cut short: "),
        (data[:20], "the upload is cut short or damaged: "),
        (b"GET / HTTP/1.1", "the upload is no picture that can be read: "),
        (b"", "the upload is no picture that can be read: "),
    ):
        with pytest.raises(InputError, match=f"^{words}"):
            decoded(damaged, "the upload")
    assert not is_picture(b"GET / HTTP/1.1")
