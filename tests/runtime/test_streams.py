"""Streams over the network, from a camera on loopback."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest

from onnxcam.errors import InputError
from onnxcam.runtime.opening import default_output, is_live, open_source
from onnxcam.runtime.sequences import PictureSequence
from onnxcam.runtime.sources import VideoSource
from onnxcam.runtime.streams import StreamSource, is_address, masked

from .clips import GREEN, RED, plain, write_clip
from .streaming import HEIGHT, WIDTH, MjpegCamera


def test_what_a_text_names():
    live, files = ("0", "/dev/video1", "rtsp://a/b", "HTTP://a"), ("clip.mp4", "c:\\clip.mp4", "ftp://a", "a b")
    assert [text for text in live + files if is_live(text)] == list(live)
    assert not is_address("clip.mp4")


@pytest.mark.parametrize(
    ("text", "output"),
    [
        ("clip.mov", "clip_cam.mp4"),
        ("a/clip.mp4", "a/clip_cam.mp4"),
        ("a/img_%04d.png", "a/img_cam.mp4"),
        ("*.jpg", "pictures_cam.mp4"),
        ("rtsp://user:secret@door/stream?key=1", "door_cam.mp4"),
        ("0", "camera0_cam.mp4"),
        ("/dev/video2", "cameravideo2_cam.mp4"),
    ],
)
def test_where_the_explained_video_goes(text, output):
    assert default_output(text) == Path(output)


def test_a_folder_goes_beside_itself(tmp_path):
    (tmp_path / "photos").mkdir()
    assert default_output(str(tmp_path / "photos")) == tmp_path / "photos_cam.mp4"


def test_a_password_is_in_no_message():
    assert masked("rtsp://user:secret@door:554/stream?key=hidden") == "rtsp://door:554/stream"
    with pytest.raises(InputError) as caught:
        open_source("http://user:secret@127.0.0.1:9/x?key=hidden")
    assert "secret" not in str(caught.value)
    assert "hidden" not in str(caught.value)
    assert str(caught.value).startswith("'http://127.0.0.1:9/x' cannot be opened: ")
    assert str(caught.value).count("\n") == 0


def test_an_mjpeg_camera_is_read_until_its_plug_is_pulled():
    with MjpegCamera() as camera:
        with open_source(camera.address) as stream:
            assert isinstance(stream, StreamSource)
            assert (stream.info.width, stream.info.height, stream.info.frames) == (WIDTH, HEIGHT, None)
            shades = []
            for frame in stream:
                shades.append(int(np.median(frame.picture)))
                if len(shades) == 5:
                    camera.close()
        assert stream.problem is not None
        assert stream.problem.startswith("the stream ")
    assert len(shades) >= 5
    np.testing.assert_allclose(np.diff(shades)[:4], 4, atol=2)  # one after another


def test_a_camera_that_sends_nothing_is_given_up_in_time():
    with MjpegCamera() as camera:
        camera.behaviour = "stall"
        with pytest.raises(InputError, match=r"cannot be opened: nothing came for 0\.5 s"):
            StreamSource(camera.address, stall_after=0.5)
        camera.behaviour = "run"
        with StreamSource(camera.address, stall_after=0.5) as stream:
            for _ in stream:
                camera.behaviour = "stall"
        assert stream.problem == "the stream broke off: nothing came for 0.5 s"


def test_a_stream_that_changes_its_size_goes_on_at_its_first():
    with MjpegCamera() as camera, StreamSource(camera.address) as stream:
        shapes = set()
        for number, frame in enumerate(stream):
            shapes.add(frame.picture.shape)
            camera.behaviour = "large" if number > 2 else "run"
            if number == 30:
                break
        assert shapes == {(HEIGHT, WIDTH, 3)}


def test_a_transport_stream_over_tcp(tmp_path):
    clip = write_clip(tmp_path / "clip.ts", [plain(RED)] * 5 + [plain(GREEN)] * 5)
    listener = socket.create_server(("127.0.0.1", 0))

    def send():
        connection, _ = listener.accept()
        with connection, listener:
            connection.sendall(clip.read_bytes())

    threading.Thread(target=send, daemon=True).start()
    with open_source(f"tcp://127.0.0.1:{listener.getsockname()[1]}") as stream:
        colors = [frame.picture[5, 5].argmax() for frame in stream]
    assert colors == [2] * 5 + [1] * 5  # BGR
    assert stream.problem == "the stream ended"


def test_no_address_leads_to_a_file(tmp_path):
    write_clip(tmp_path / "clip.mp4", [plain(RED)] * 3)
    (tmp_path / "list.m3u8").write_text(f"#EXTM3U\n#EXTINF:1,\nfile:{tmp_path}/clip.mp4\n#EXT-X-ENDLIST\n")
    listener = socket.create_server(("127.0.0.1", 0))

    def send():
        connection, _ = listener.accept()
        body = (tmp_path / "list.m3u8").read_bytes()
        with connection, listener:
            connection.recv(4096)
            connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Type: application/x-mpegurl\r\n\r\n" + body)

    threading.Thread(target=send, daemon=True).start()
    with pytest.raises(InputError):
        open_source(f"http://127.0.0.1:{listener.getsockname()[1]}/list.m3u8")


def numbered(folder, names, values):
    for name, value in zip(names, values, strict=True):
        cv2.imwrite(str(folder / name), np.full((12, 20, 3), value, np.uint8))


def test_pictures_come_in_the_order_of_their_numbers(tmp_path):
    numbered(tmp_path, ["img10.png", "img9.png", "img2.png"], [10, 9, 2])
    for source in (str(tmp_path), str(tmp_path / "img%d.png"), str(tmp_path / "*.png")):
        with open_source(source) as sequence:
            assert isinstance(sequence, PictureSequence)
            frames = list(sequence)
        assert [int(frame.picture[0, 0, 0]) for frame in frames] == [2, 9, 10]
        assert [frame.time for frame in frames] == [0, 0.04, 0.08]
        assert sequence.problem is None


def test_a_picture_that_cannot_be_read_is_named_and_the_others_come(tmp_path):
    numbered(tmp_path, ["a1.png", "a2.png", "a3.png"], [1, 2, 3])
    (tmp_path / "a2.png").write_bytes(b"no picture")
    with PictureSequence(tmp_path) as sequence:
        assert [int(frame.picture[0, 0, 0]) for frame in sequence] == [1, 3]
    assert "a2.png" in sequence.problem
    assert sequence.problem.endswith("2 of 3 pictures could be read")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{}", "there is no picture in '"),
        ("{}/img_%04d.png", "there is no picture named '"),
        ("{}/none/img_%04d.png", "there is no folder '"),
    ],
)
def test_no_picture_is_a_sentence(tmp_path, text, words):
    with pytest.raises(InputError) as caught:
        open_source(text.format(tmp_path))
    assert str(caught.value).startswith(words)


def test_a_file_whose_name_has_a_star_is_a_file(tmp_path):
    clip = write_clip(tmp_path / "a*b.mp4", [plain(RED)] * 2)
    with open_source(str(clip)) as source:
        assert type(source) is VideoSource
