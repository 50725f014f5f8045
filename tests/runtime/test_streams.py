"""Streams over the network, from a camera on loopback."""

from __future__ import annotations

import contextlib
import socket
import threading
import time

import numpy as np
import pytest

from onnxcam.errors import InputError
from onnxcam.runtime.opening import open_source
from onnxcam.runtime.streams import StreamSource, masked

from .clips import GREEN, RED, plain, write_clip
from .rtsp import RtspCamera
from .streaming import HEIGHT, WIDTH, MjpegCamera


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("rtsp://user:secret@door:554/stream?key=secret", "rtsp://door:554/stream"),
        ("rtsp://user:p@secret@door/s", "rtsp://door/s"),
        ("rtsp://user:#secret@door/s", "rtsp://door/s"),  # not escaped as it should be
        ("rtsp://user:se/secret@door/s", "rtsp://door/s"),
        ("rtsp://user:?secret@door/s", "rtsp://door/s"),
        ("http://door:8080/@gate/s?mail=secret@x", "http://door:8080/@gate/s"),
        ("http://[::1]:80/a@b#secret", "http://[::1]:80/a@b"),
        ("http://[::1", "http://[::1"),
    ],
)
def test_a_password_is_in_no_message(address, shown):
    assert masked(address) == shown


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("http://user:secret@127.0.0.1:{port}/x?key=secret", "connection refused"),
        ("rtsp://user:secret@127.0.0.1:{port}/x", "connection refused"),
        ("tcp://127.0.0.1", "it is no whole address, such as rtsp://host:554/path"),
        ("http://user:secret@[::1/x", "it is no whole address, such as rtsp://host:554/path"),
    ],
)
def test_what_cannot_be_opened_is_one_sentence_without_the_password(address, reason):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    address = address.format(port=port)
    with pytest.raises(InputError) as caught:
        open_source(address)
    assert str(caught.value) == f"'{masked(address)}' cannot be opened: {reason}"
    assert "secret" not in str(caught.value)


def serve(parts, head=b""):
    """The address of a server that gives ``parts`` to the first who comes: over HTTP if there is a ``head``."""
    listener = socket.create_server(("127.0.0.1", 0))

    def send():
        connection, _ = listener.accept()
        with connection, listener, contextlib.suppress(OSError):
            if head:
                connection.recv(4096)
            connection.sendall(head)
            for part in parts:
                connection.sendall(part)

    threading.Thread(target=send, daemon=True).start()
    return f"{'http' if head else 'tcp'}://127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"HTTP/1.0 401 No\r\n\r\n", "server returned 401 unauthorized (authorization failed)"),
        (b"HTTP/1.0 404 No\r\n\r\n", "server returned 404 not found"),
        (
            b"HTTP/1.0 200 OK\r\nContent-Type: text/html\r\n\r\n<html>a page</html>",
            "the connection failed, or it leads to no video: check host and path",
        ),
    ],
)
def test_a_server_that_has_no_video_is_one_sentence(answer, reason):
    address = serve([], head=answer)
    with pytest.raises(InputError) as caught:
        open_source(f"{address}/camera")
    assert str(caught.value) == f"'{address}/camera' cannot be opened: {reason}"


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


def test_an_rtsp_camera_is_read_until_its_plug_is_pulled():
    with RtspCamera(login="user:secret") as camera:
        address = camera.address.replace("://", "://user:secret@")
        with open_source(address) as stream:
            assert (stream.info.width, stream.info.height, stream.info.frames) == (WIDTH, HEIGHT, None)
            shades, times = [], []
            for frame in stream:
                shades.append(int(np.median(frame.picture)))
                times.append(frame.time)
                if len(shades) == 5:
                    camera.close()
        assert stream.problem == "the stream ended"
    np.testing.assert_allclose(np.diff(shades)[:4], 4, atol=2)
    np.testing.assert_allclose(np.diff(times)[:4], 0.02, atol=0.001)


def test_an_rtsp_camera_that_stalls_goes_and_comes_back():
    with RtspCamera() as camera, StreamSource(camera.address, stall_after=0.5) as stream:
        for _ in stream:
            camera.behaviour = "stall"
        assert stream.problem == "the stream broke off: no picture came for 0.5 s"
    with pytest.raises(InputError, match="cannot be opened: connection refused"):
        StreamSource(camera.address)
    with RtspCamera(camera.port) as again, StreamSource(again.address) as stream:
        assert next(iter(stream)).picture.shape == (HEIGHT, WIDTH, 3)


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("stream", "server returned 401 unauthorized (authorization failed)"),
        ("nothing", "server returned 404 not found"),
    ],
)
def test_an_rtsp_camera_that_refuses_is_one_sentence(path, reason):
    with RtspCamera(login="" if path == "nothing" else "user:secret") as camera:
        address = f"rtsp://user:wrong@127.0.0.1:{camera.port}/{path}"
        with pytest.raises(InputError) as caught:
            open_source(address)
    assert str(caught.value) == f"'{masked(address)}' cannot be opened: {reason}"


def test_a_host_that_there_is_not():
    with pytest.raises(InputError, match=r"cannot be opened: no host 'nowhere\.invalid' can be found"):
        open_source("rtsp://nowhere.invalid/stream")


def test_a_camera_that_sends_nothing_is_given_up_in_time():
    with MjpegCamera() as camera:
        camera.behaviour = "stall"
        with pytest.raises(InputError, match=r"cannot be opened: no picture came for 0\.5 s"):
            StreamSource(camera.address, stall_after=0.5)
        camera.behaviour = "run"
        with StreamSource(camera.address, stall_after=0.5) as stream:
            for _ in stream:
                camera.behaviour = "stall"
        assert stream.problem == "the stream broke off: no picture came for 0.5 s"


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
    with open_source(serve([clip.read_bytes()])) as stream:
        colors = [frame.picture[5, 5].argmax() for frame in stream]
    assert colors == [2] * 5 + [1] * 5  # BGR
    assert stream.problem == "the stream ended"


def test_no_address_leads_to_a_file(tmp_path):
    write_clip(tmp_path / "clip.mp4", [plain(RED)] * 3)
    body = f"#EXTM3U\n#EXTINF:1,\nfile:{tmp_path}/clip.mp4\n#EXT-X-ENDLIST\n".encode()
    address = serve([body], head=b"HTTP/1.0 200 OK\r\nContent-Type: application/x-mpegurl\r\n\r\n")
    with pytest.raises(InputError):
        open_source(f"{address}/list.m3u8")


def test_a_stream_whose_pictures_turn_to_garbage_is_given_up_in_time():
    with MjpegCamera() as camera, StreamSource(camera.address, stall_after=0.4) as stream:
        for _ in stream:
            camera.behaviour = "garbage"
    assert stream.problem == "the stream broke off: no picture came for 0.4 s"


def test_a_stream_of_which_the_sound_alone_goes_on_is_given_up_in_time(tmp_path):
    clip = write_clip(tmp_path / "clip.ts", [plain(RED)] * 5, sound="mp2", seconds=12)
    tail = clip.read_bytes()[-188 * 200 :]  # whole packets, of sound

    def parts():
        yield clip.read_bytes()
        while True:
            time.sleep(0.02)
            yield tail

    with StreamSource(serve(parts()), stall_after=0.4) as stream:
        assert len(list(stream)) >= 3  # an MPEG-TS picture ends where the next begins
    assert stream.problem == "the stream broke off: no picture came for 0.4 s"
