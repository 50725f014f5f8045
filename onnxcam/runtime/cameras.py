"""Frames out of cameras at this machine."""

from __future__ import annotations

__all__ = ["CameraInfo", "CameraSource", "cameras"]

import os
import sys
import time
from collections.abc import Generator
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2

from onnxcam.errors import InputError
from onnxcam.runtime.closing import Closing
from onnxcam.runtime.quiet import quieten_opencv
from onnxcam.runtime.sources import Frame, VideoInfo, frame_rate

_TICKS = 1000  # time stamps to the millisecond
_PROBED = 5  # numbers tried where the system does not list its cameras
_LINUX = Path("/sys/class/video4linux")


@dataclass(frozen=True, slots=True)
class CameraInfo:
    """A camera: the number by which it is opened, its name, and the device's path where there is one."""

    index: int
    name: str
    path: str | None = None


class CameraSource(Closing):
    """The frames of the camera ``device``, a number or a path such as ``/dev/video0``; a context manager.

    size: width and height in pixels; rate: frames per second; pixel_format: four letters such as ``MJPG`` or ``YUYV``.
    None is what the camera gives by itself.

    Raises `InputError` if there is no such camera, it is in use, or it has no such size, rate or format.
    """

    def __init__(
        self,
        device: int | str,
        *,
        size: tuple[int, int] | None = None,
        rate: float | None = None,
        pixel_format: str | None = None,
    ) -> None:
        self.problem: str | None = None
        self._name = f"camera {device}" if isinstance(device, int) else f"'{device}'"
        wanted = _wanted(size, rate, pixel_format)
        quieten_opencv()
        on_linux = isinstance(device, str) and sys.platform.startswith("linux")
        # by any backend FFmpeg would be asked first, which prints why it cannot
        self._capture = cv2.VideoCapture(device, cv2.CAP_V4L2 if on_linux else cv2.CAP_ANY)
        try:
            if not self._capture.isOpened():
                raise InputError(self._why_not(device))
            self._ask(wanted, size)
            first, reason = self._read()
            if first is None:
                raise InputError(f"{self._name} gives no picture: {reason or 'another program may use it'}")
        except BaseException:
            self.close()
            raise
        self._first = first
        given = self._capture.get(cv2.CAP_PROP_FPS)
        self.info = VideoInfo(
            width=first.shape[1],
            height=first.shape[0],
            average_rate=frame_rate(given if 1 <= given <= 1000 else rate or 30),
            time_base=Fraction(1, _TICKS),
            frames=None,
            duration=None,
            has_audio=False,
        )

    def close(self) -> None:
        """Give the camera back. May be called twice."""
        self._capture.release()

    def __iter__(self) -> Generator[Frame, None, None]:
        begun = time.monotonic()
        index = 0
        picture: Any = self._first
        while True:
            yield Frame(index, round((time.monotonic() - begun) * _TICKS), 0, self.info.time_base, picture)
            picture, reason = self._read()
            if picture is None:
                self.problem = f"{self._name} gives no more pictures{f': {reason}' if reason else ''}"
                return
            index += 1

    def _read(self) -> tuple[Any, str]:
        """The next picture, or None and the driver's own words, if it has any."""
        try:
            read, picture = self._capture.read()
        except cv2.error as error:
            return None, " ".join(str(error).split())
        return (picture, "") if read else (None, "")

    def _ask(self, wanted: list[tuple[int, float, str]], size: tuple[int, int] | None) -> None:
        for setting, value, _ in wanted:
            self._capture.set(setting, value)
        sides = [round(self._capture.get(setting)) for setting in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)]
        if size is not None and sides != list(size):
            given = f"the nearest it gives is {sides[0]}x{sides[1]}"
            raise InputError(f"{self._name} has no {size[0]}x{size[1]}: {given}")
        for setting, value, text in wanted:
            if setting == cv2.CAP_PROP_FOURCC and round(self._capture.get(setting)) != round(value):
                raise InputError(f"{self._name} has no {text}: leave it out to see what it gives by itself")

    def _why_not(self, device: int | str) -> str:
        known = ", ".join(f"{camera.index} ({camera.name})" for camera in cameras())
        if isinstance(device, str) and not os.path.exists(device) and sys.platform.startswith("linux"):
            return f"there is no device {self._name}: " + (f"there are {known}" if known else "no camera is connected")
        listed = sys.platform.startswith("linux") and isinstance(device, int)
        if known and listed and device not in [camera.index for camera in cameras()]:
            return f"there is no {self._name}: there are {known}"
        if known:
            return f"{self._name} cannot be opened: another program may use it; there are {known}"
        return f"{self._name} cannot be opened: no camera is connected"


def cameras() -> list[CameraInfo]:
    """The cameras that are connected: those Linux lists, or else those of the first numbers that can be opened."""
    if sys.platform.startswith("linux"):
        return _listed(_LINUX)
    quieten_opencv()
    found = []
    for index in range(_PROBED):
        capture = cv2.VideoCapture(index)
        if capture.isOpened():
            found.append(CameraInfo(index, f"camera {index}"))
        capture.release()
    return found


def _listed(folder: Path) -> list[CameraInfo]:
    """Cameras among Linux's video devices: of those of one camera, the first, which gives the pictures."""
    found = []
    for entry in folder.glob("video*"):
        with suppress(OSError, ValueError):
            if int((entry / "index").read_text()) == 0:
                index = int(entry.name.removeprefix("video"))
                name = (entry / "name").read_text("utf-8", errors="replace").strip()
                found.append(CameraInfo(index, name, f"/dev/{entry.name}"))
    return sorted(found, key=lambda camera: camera.index)


def _wanted(size: tuple[int, int] | None, rate: float | None, pixel_format: str | None) -> list[tuple[int, float, str]]:
    """What is to be set, to what, and how a message calls it. On the format depends which sizes there are."""
    wanted: list[tuple[int, float, str]] = []
    if pixel_format is not None:
        if len(pixel_format) != 4 or not pixel_format.isascii():
            raise InputError(f"a pixel format has four letters, such as MJPG or YUYV, not '{pixel_format}'")
        wanted.append((cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*pixel_format.upper()), pixel_format))
    if size is not None:
        wanted += [(cv2.CAP_PROP_FRAME_WIDTH, size[0], "width"), (cv2.CAP_PROP_FRAME_HEIGHT, size[1], "height")]
    if rate is not None:
        frame_rate(rate)
        wanted.append((cv2.CAP_PROP_FPS, rate, "rate"))
    return wanted
