"""What a text names, and where its explanation goes."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from onnxcam.errors import InputError
from onnxcam.runtime import cameras, opening
from onnxcam.runtime.opening import CameraOptions, default_output, is_live, open_source
from onnxcam.runtime.sequences import PictureSequence
from onnxcam.runtime.sources import VideoSource

from .clips import RED, plain, write_clip


def test_what_is_live():
    live = ("0", "12", "/dev/video1", "/dev/v4l/by-id/usb-camera", "rtsp://a/b", "HTTP://a", "udp://@239.0.0.1:5000")
    files = ("clip.mp4", "c:\\clip.mp4", "c://clip.mp4", "a b", "./0", "-1", "/dev/shm/clip.mp4", "1.mp4", "http:clip")
    assert [text for text in live + files if is_live(text)] == list(live)


@pytest.mark.parametrize("text", ["ftp://user:secret@a/b.mp4", "file:///a.mp4", "rtps://user:secret@door/s?key=secret"])
def test_an_address_of_another_kind_is_refused_without_its_password(text):
    for function in (is_live, open_source, default_output):
        with pytest.raises(InputError) as caught:
            function(text)
        assert "is no stream that can be read: its address begins with rtsp://, " in str(caught.value)
        assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "output"),
    [
        ("clip.mov", "clip_cam.mp4"),
        ("a/clip.mp4", "a/clip_cam.mp4"),
        ("a/clip_.mp4", "a/clip__cam.mp4"),
        ("a/100% real.mp4", "a/100% real_cam.mp4"),
        ("a/img_%04d.png", "a/img_cam.mp4"),
        ("a/%04d.png", "a/pictures_cam.mp4"),
        ("*.jpg", "pictures_cam.mp4"),
        ("rtsp://user:secret@Door:554/stream?key=1", "door_cam.mp4"),
        ("http://user:secret@[fe80::1]:80", "fe80--1_cam.mp4"),
        ("udp://:5000", "stream_cam.mp4"),
        ("0", "camera0_cam.mp4"),
        ("/dev/video2", "cameravideo2_cam.mp4"),
    ],
)
def test_where_the_explained_video_goes(text, output):
    assert default_output(text) == Path(output)


def test_a_folder_goes_beside_itself_and_a_file_with_a_percent_sign_keeps_its_name(tmp_path, monkeypatch):
    (tmp_path / "photos").mkdir()
    monkeypatch.chdir(tmp_path / "photos")
    assert default_output(".") == tmp_path / "photos_cam.mp4"
    Path("a_%d.mp4").touch()
    assert default_output("a_%d.mp4") == Path("a_%d_cam.mp4")


def test_each_kind_of_file_is_opened_as_what_it_is(tmp_path):
    (tmp_path / "1.png").write_bytes(cv2.imencode(".png", plain(RED))[1].tobytes())
    for source in (tmp_path, tmp_path / "%d.png", tmp_path / "*.png"):
        with open_source(str(source), CameraOptions(rate=5)) as opened:
            assert isinstance(opened, PictureSequence)
            assert opened.info.average_rate == 5
    for name in ("clip.mp4", "a%2db.mp4"):
        clip = write_clip(tmp_path / "clip.mp4", [plain(RED)] * 2).rename(tmp_path / name)
        with open_source(str(clip)) as opened:
            assert type(opened) is VideoSource


@pytest.mark.parametrize("text", ["a" * 300 + ".mp4", "a" * 300, "*" * 300, "b" * 300 + "/a.mp4", "c" * 300 + "/*.png"])
def test_a_name_that_no_folder_can_hold_is_a_sentence(text):
    with pytest.raises(InputError):
        open_source(text)
    assert isinstance(default_output(text), Path)


class Camera:
    """Notes with what it was opened."""

    opened: tuple = ()

    def __init__(self, device, **options):
        Camera.opened = (device, options)
        if device == 2024:
            raise InputError("camera 2024 cannot be opened: no camera is connected")


@pytest.mark.parametrize(("text", "device"), [("0", 0), ("007", 7), ("/dev/video3", "/dev/video3")])
def test_a_camera_is_opened_as_it_was_asked_for(monkeypatch, text, device):
    monkeypatch.setattr(cameras, "CameraSource", Camera)
    assert isinstance(open_source(text, CameraOptions(size=(640, 480), rate=15, pixel_format="MJPG")), Camera)
    assert Camera.opened == (device, {"size": (640, 480), "rate": 15, "pixel_format": "MJPG"})


def test_a_folder_whose_name_is_a_number_is_pointed_to(monkeypatch, tmp_path):
    monkeypatch.setattr(cameras, "CameraSource", Camera)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"connected$"):
        open_source("2024")
    Path("2024").mkdir()
    with pytest.raises(InputError, match=r"connected \(what lies here under this name is called '\./2024'\)$"):
        open_source("2024")
    Path("2024/1.png").write_bytes(cv2.imencode(".png", np.zeros((4, 6, 3), np.uint8))[1].tobytes())
    with open_source("./2024") as source:
        assert isinstance(source, PictureSequence)


def test_streams_are_given_up_after_the_time_that_was_asked(monkeypatch):
    monkeypatch.setattr(opening, "StreamSource", lambda text, stall_after: (text, stall_after))
    assert open_source("rtsp://a/b", CameraOptions(stall_after=3)) == ("rtsp://a/b", 3)
