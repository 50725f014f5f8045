"""Pictures in a folder, or numbered ones, as a video."""

from __future__ import annotations

from fractions import Fraction

import cv2
import numpy as np
import pytest

from onnxcam.errors import InputError
from onnxcam.runtime.pictures import write_picture
from onnxcam.runtime.sequences import PictureSequence, is_pattern


def numbered(folder, *names, height=12, width=20):
    """Grey pictures of 1, 2, 3, ... in the order of the names."""
    for value, name in enumerate(names, 1):
        picture = np.full((height, width, 3), value, np.uint8)
        (folder / name).write_bytes(cv2.imencode(".png", picture)[1].tobytes())


def values(source, **options):
    with PictureSequence(source, **options) as sequence:
        found = [int(frame.picture[0, 0, 0]) for frame in sequence]
    assert sequence.problem is None
    return found


def test_pictures_come_in_the_order_of_their_numbers_whatever_is_missing(tmp_path):
    numbered(tmp_path, "img100.png", "img9.png", "img10.png", "img2.png")
    for source in (tmp_path, str(tmp_path), tmp_path / "img%d.png", tmp_path / "*.png", tmp_path / "img?*.png"):
        assert values(source) == [4, 2, 3, 1]


def test_every_number_in_a_name_counts_and_names_without_come_first(tmp_path):
    numbered(tmp_path, "b2_10.png", "b2_9.png", "b10_1.png", "a3.png", "1²2.png", "b02_9.png")
    with PictureSequence(tmp_path) as sequence:
        assert [file.name for file in sequence._files] == [
            "a3.png", "b02_9.png", "b2_9.png", "b2_10.png", "b10_1.png", "1²2.png"
        ]  # fmt: skip


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("img_%04d.png", [3, 1, 4]),
        ("img_%d.png", [3, 2, 1, 4]),
        ("img_*.png", [3, 2, 1, 4, 5]),
        ("img_00?0.png", [1]),
        ("**.jpg", [6]),
        ("img_[0-9]*.png", [3, 2, 1, 4]),
        ("s%02d_e%02d.png", [7]),
        ("f(%d).png", [8]),
    ],
)
def test_what_a_pattern_names(tmp_path, pattern, expected):
    numbered(tmp_path, "img_0030.png", "img_7.png", "img_0001.png", "img_12345.png", "img_x0004.png", "t40.jpg")
    numbered(tmp_path, *"123456", "s01_e08.png", "f(9).png", ".img_0003.png")
    assert values(tmp_path / pattern) == expected


def test_frames_are_counted_and_timed(tmp_path):
    numbered(tmp_path, "a1.png", "a5.png", "a7.png")
    with PictureSequence(tmp_path, rate=10) as sequence:
        info, frames = sequence.info, list(sequence)
    assert [(frame.index, frame.time, frame.duration) for frame in frames] == [(0, 0.0, 1), (1, 0.1, 1), (2, 0.2, 1)]
    assert (info.height, info.width, info.frames, info.duration, info.has_audio) == (12, 20, 3, 0.3, False)
    assert (info.average_rate, info.time_base) == (10, Fraction(1, 10))


@pytest.mark.parametrize(("rate", "kept"), [(30000 / 1001, Fraction(30000, 1001)), (0.5, Fraction(1, 2)), (1000, 1000)])
def test_rates_of_television_and_of_time_lapses(tmp_path, rate, kept):
    numbered(tmp_path, "a1.png")
    with PictureSequence(tmp_path, rate=rate) as sequence:
        assert sequence.info.average_rate == kept


@pytest.mark.parametrize("rate", [0, -1, 0.0001, 1e9, float("inf"), float("nan")])
def test_what_is_no_rate_is_refused(tmp_path, rate):
    numbered(tmp_path, "a1.png")
    with pytest.raises(InputError, match=r"a rate is from 0\.001 to 1000 frames per second, not "):
        PictureSequence(tmp_path, rate=rate)


def test_pictures_of_another_size_are_fitted_into_the_first(tmp_path):
    numbered(tmp_path, "a1.png")
    write_picture(tmp_path / "a2.png", np.full((48, 40, 3), 255, np.uint8))
    with PictureSequence(tmp_path) as sequence:
        _, other = [frame.picture for frame in sequence]
    assert other.shape == (12, 20, 3)
    np.testing.assert_array_equal(np.flatnonzero(other[6, :, 0]), np.arange(5, 15))
    assert other[:, 5:15].min() == 255


def test_a_picture_that_cannot_be_read_is_named_and_the_others_come(tmp_path):
    numbered(tmp_path, "a1.png", "a2.png", "a3.png", "a4.png")
    for broken, words in ((1, "and 0"), (2, ", and 1 other;"), (3, ", and 2 others;")):
        (tmp_path / f"a{broken}.png").write_bytes(b"no picture")
        with PictureSequence(tmp_path) as sequence:
            frames = list(sequence)
        assert [int(frame.picture[0, 0, 0]) for frame in frames] == list(range(broken + 1, 5))
        assert (frames[0].index, frames[0].pts) == (0, broken)
        assert sequence.problem.startswith(f"'{tmp_path / 'a1.png'}' is no picture")
        assert sequence.problem.endswith(f"; {4 - broken} of 4 pictures could be read")
        assert (words in sequence.problem) == (broken > 1)


def test_of_a_folder_pictures_alone_are_taken(tmp_path):
    numbered(tmp_path, "a1.png", "a2.JPG", ".hidden3.png")
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "folder.png").mkdir()
    assert values(tmp_path) == [1, 2]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{}", "there is no picture in '{}'"),
        ("{}/img_%04d.png", "there is no picture named '{}/img_%04d.png'"),
        ("{}/**.png", "there is no picture named '{}/**.png'"),
        ("{}/none/img_%04d.png", "there is no folder '{}/none'"),
        ("{}/file/*.png", "'{}/file' cannot be read: "),
    ],
)
def test_no_picture_is_a_sentence(tmp_path, text, words):
    (tmp_path / "file").touch()
    with pytest.raises(InputError) as caught:
        PictureSequence(text.format(tmp_path))
    assert str(caught.value).replace("\\", "/").startswith(words.format(tmp_path.as_posix()))


def test_a_folder_of_which_nothing_can_be_read_is_a_sentence(tmp_path):
    (tmp_path / "a1.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(InputError, match=r"^no picture of '.*' can be read: '.*a1.png' is cut short or damaged"):
        PictureSequence(tmp_path)


def test_what_is_a_pattern():
    texts = (
        "img_%04d.png",
        "%d.jpg",
        "%3d",
        "*.jpg",
        "a?.png",
        "100%.mp4",
        "50% day.mp4",
        "%s.png",
        "a.png",
        "[1].png",
    )
    assert [text for text in texts if is_pattern(text)] == ["img_%04d.png", "%d.jpg", "%3d", "*.jpg", "a?.png"]
