"""Cameras, with a driver that is none."""

from __future__ import annotations

import itertools
import sys
from fractions import Fraction

import cv2
import numpy as np
import pytest

from onnxcam.errors import InputError
from onnxcam.runtime import cameras
from onnxcam.runtime.cameras import CameraInfo, CameraSource

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the system lists no cameras")


class Driver:
    """Stands for `cv2.VideoCapture`: gives ``frames`` pictures, numbered by their grey, of one of its sizes."""

    frames = 3
    sizes = ((640, 480), (64, 48))
    missing: tuple = ()
    reported_rate = 30.0

    def __init__(self, device, *arguments):
        self.device, self.arguments, self.released = device, arguments, 0
        self.settings = {cv2.CAP_PROP_FRAME_WIDTH: 64, cv2.CAP_PROP_FRAME_HEIGHT: 48, cv2.CAP_PROP_FOURCC: 0}
        self.asked: list = []
        self.count = itertools.count()
        Driver.last = self

    def isOpened(self):
        return self.device not in self.missing

    def set(self, setting, value):
        self.asked.append(setting)
        sides = [size[setting - cv2.CAP_PROP_FRAME_WIDTH] for size in self.sizes] if setting in (3, 4) else [value]
        self.settings[setting] = min(sides, key=lambda side: abs(side - value))  # as drivers do
        return True

    def get(self, setting):
        return self.reported_rate if setting == cv2.CAP_PROP_FPS else float(self.settings[setting])

    def read(self):
        if (number := next(self.count)) >= self.frames:
            return False, None
        height, width = (int(self.settings[setting]) for setting in (4, 3))
        return True, np.full((height, width, 3), number, np.uint8)

    def release(self):
        self.released += 1


@pytest.fixture(autouse=True)
def driver(monkeypatch, tmp_path):
    monkeypatch.setattr(cv2, "VideoCapture", Driver)
    monkeypatch.setattr(cameras, "_LINUX", tmp_path / "video4linux")
    for name in ("frames", "sizes", "missing", "reported_rate"):
        monkeypatch.setattr(Driver, name, getattr(Driver, name))
    return Driver


def test_every_frame_comes_once_in_order_and_timed():
    with CameraSource(0) as camera:
        frames = list(camera)
    assert [int(frame.picture[0, 0, 0]) for frame in frames] == [0, 1, 2]  # the first, read on opening, too
    assert [frame.index for frame in frames] == [0, 1, 2]
    assert frames[0].pts <= frames[1].pts <= frames[2].pts < 5000
    assert camera.problem == "camera 0 gives no more pictures"
    assert (camera.info.height, camera.info.width, camera.info.average_rate) == (48, 64, 30)
    assert Driver.last.released == 1


def test_size_rate_and_format_are_asked_for_the_format_first():
    with CameraSource(0, size=(640, 480), rate=15, pixel_format="mjpg") as camera:
        assert (camera.info.height, camera.info.width) == (480, 640)
    asked = Driver.last
    assert asked.asked == [cv2.CAP_PROP_FOURCC, cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT, cv2.CAP_PROP_FPS]
    assert asked.settings[cv2.CAP_PROP_FOURCC] == cv2.VideoWriter.fourcc(*"MJPG")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"size": (600, 400)}, "camera 0 has no 600x400: the nearest it gives is 640x480"),
        ({"size": (64, 480)}, None),
        ({"pixel_format": "MJPEG"}, "a pixel format has four letters, such as MJPG or YUYV, not 'MJPEG'"),
        ({"pixel_format": "日本語字"}, "a pixel format has four letters, such as MJPG or YUYV, not '日本語字'"),
        ({"rate": 0}, "a rate is from 0.001 to 1000 frames per second, not 0"),
        ({"rate": float("inf")}, "a rate is from 0.001 to 1000 frames per second, not inf"),
    ],
)
def test_what_the_camera_does_not_have_is_refused_and_it_is_given_back(options, words):
    if words is None:
        CameraSource(0, **options).close()
        return
    Driver.last = None
    with pytest.raises(InputError) as caught:
        CameraSource(0, **options)
    assert str(caught.value) == words
    assert Driver.last is None or Driver.last.released == 1


def test_a_format_that_the_camera_lacks_is_refused(monkeypatch):
    monkeypatch.setattr(Driver, "get", lambda self, setting: float(cv2.VideoWriter.fourcc(*"YUYV")))
    with pytest.raises(InputError, match=r"^camera 0 has no MJPG: leave it out to see what it gives by itself$"):
        CameraSource(0, pixel_format="MJPG")


@pytest.mark.parametrize(
    ("reported", "asked", "rate"),
    [(15.0, None, 15), (0.0, None, 30), (0.0, 12, 12), (-1.0, 0.01, Fraction(1, 100)), (float("nan"), None, 30)],
)
def test_the_rate_is_what_the_driver_says_or_what_was_asked(driver, reported, asked, rate):
    driver.reported_rate = reported
    with CameraSource(0, rate=asked) as camera:
        assert camera.info.average_rate == rate


def test_a_camera_that_opens_and_gives_nothing_is_refused_and_given_back(driver):
    driver.frames = 0
    with pytest.raises(InputError, match="camera 0 gives no picture: another program may use it"):
        CameraSource(0)
    assert Driver.last.released == 1


def test_a_driver_that_fails_in_its_own_words_is_a_sentence(driver, monkeypatch):
    def fail(self):
        raise cv2.error("Unknown C++ exception from OpenCV code")

    monkeypatch.setattr(Driver, "read", fail)
    with pytest.raises(InputError, match=r"^camera 0 gives no picture: .*Unknown C\+\+ exception"):
        CameraSource(0)
    assert Driver.last.released == 1


def test_a_driver_that_fails_on_the_way_ends_the_frames(driver, monkeypatch):
    with CameraSource(0) as camera:
        frames = iter(camera)
        next(frames)

        def fail(self):
            raise cv2.error("the plug\nwas pulled")

        monkeypatch.setattr(Driver, "read", fail)
        assert list(frames) == []
    assert camera.problem == "camera 0 gives no more pictures: the plug was pulled"


def listed(folder, *entries):
    for entry, name, index in entries:
        (folder / entry).mkdir(parents=True)
        if name is not None:
            (folder / entry / "name").write_bytes(name)
        (folder / entry / "index").write_text(f"{index}\n")


@linux
def test_linux_lists_its_cameras_by_number_the_first_device_of_each(tmp_path):
    assert cameras.cameras() == []
    listed(
        tmp_path / "video4linux",
        ("video10", b"Desk\n", 0),
        ("video2", "Tür".encode(), 0),
        ("video3", b"its description", 1),
        ("video4", b"caf\xe9", 0),
        ("video5", None, 0),
        ("videofoo", b"no number", 0),
        ("v4l-subdev0", b"a sensor", 0),
    )
    (tmp_path / "video4linux" / "video6").touch()
    assert cameras.cameras() == [
        CameraInfo(2, "Tür", "/dev/video2"),
        CameraInfo(4, "caf\ufffd", "/dev/video4"),
        CameraInfo(10, "Desk", "/dev/video10"),
    ]


def test_elsewhere_the_first_numbers_are_tried_and_given_back(driver, monkeypatch):
    monkeypatch.setattr(cameras.sys, "platform", "darwin")
    driver.missing = (0, 2, 3, 4)
    assert cameras.cameras() == [CameraInfo(1, "camera 1")]
    assert Driver.last.released == 1


@linux
@pytest.mark.parametrize(
    ("device", "known", "message"),
    [
        (7, False, "camera 7 cannot be opened: no camera is connected"),
        (7, True, "there is no camera 7: there are 2 (Tür)"),
        (2, True, "camera 2 cannot be opened: another program may use it; there are 2 (Tür)"),
        ("/dev/none", False, "there is no device '/dev/none': no camera is connected"),
        ("/dev/none", True, "there is no device '/dev/none': there are 2 (Tür)"),
        ("/dev/null", True, "'/dev/null' cannot be opened: another program may use it; there are 2 (Tür)"),
    ],
)
def test_a_camera_that_cannot_be_opened(driver, tmp_path, device, known, message):
    driver.missing = (device,)
    if known:
        listed(tmp_path / "video4linux", ("video2", "Tür".encode(), 0))
    with pytest.raises(InputError) as caught:
        CameraSource(device)
    assert str(caught.value) == message
    assert Driver.last.released == 1


@linux
def test_a_device_is_opened_by_the_driver_of_cameras_alone():
    """By any, FFmpeg is tried first, and prints why it fails."""
    with CameraSource("/dev/video0"):
        assert (Driver.last.device, Driver.last.arguments) == ("/dev/video0", (cv2.CAP_V4L2,))
    with CameraSource(0):
        assert (Driver.last.device, Driver.last.arguments) == (0, (cv2.CAP_ANY,))
