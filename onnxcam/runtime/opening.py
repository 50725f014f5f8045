"""The source that a text names: a camera, a stream, a folder, numbered pictures or a file."""

from __future__ import annotations

__all__ = ["CameraOptions", "default_output", "is_live", "open_source"]

import os
import re
from dataclasses import dataclass
from pathlib import Path

from onnxcam.errors import InputError
from onnxcam.runtime.sequences import PictureSequence, is_pattern
from onnxcam.runtime.sources import Source, VideoSource
from onnxcam.runtime.streams import StreamSource, is_address, masked


@dataclass(frozen=True, slots=True, kw_only=True)
class CameraOptions:
    """What is asked of a camera, as `CameraSource` takes it, and for how many seconds a stream may give nothing.

    Of these, pictures have a rate alone.
    """

    size: tuple[int, int] | None = None
    rate: float | None = None
    pixel_format: str | None = None
    stall_after: float = 10.0


def is_live(text: str) -> bool:
    """Whether ``text`` names a camera or a stream, whose frames do not wait. Raises `InputError` for an address whose
    scheme is unknown."""
    device = text.startswith("/dev/") and not text.startswith("/dev/shm/")  # where files lie in memory
    return text.isdecimal() or device or is_address(text)


def open_source(text: str, options: CameraOptions | None = None) -> Source:
    """The source named ``text``: a number or ``/dev/…`` is a camera, ``scheme://…`` a stream, and the rest a folder of
    pictures, a pattern of their names, or a video file. Raises `InputError`."""
    options = options or CameraOptions()
    _check(text, options)
    if is_address(text):
        return StreamSource(text, stall_after=options.stall_after)
    if is_live(text):
        from onnxcam.runtime.cameras import CameraSource

        device = int(text) if text.isdecimal() else text
        try:
            return CameraSource(device, size=options.size, rate=options.rate, pixel_format=options.pixel_format)
        except InputError as error:
            if text.isdecimal() and os.path.exists(text):
                raise InputError(f"{error} (what lies here under this name is called './{text}')") from None
            raise
    if _are_pictures(text):
        return PictureSequence(text, rate=options.rate or 25)
    return VideoSource(text)


def _check(text: str, options: CameraOptions) -> None:
    """Raise `InputError` for what is asked in vain."""
    if is_live(text) and not is_address(text):
        return
    name = masked(text) if is_address(text) else text
    if options.size or options.pixel_format:
        raise InputError(f"size and pixel format are asked of a camera, and '{name}' has its own: leave them out")
    if options.rate and not _are_pictures(text):
        raise InputError(f"a rate is asked of a camera, or of pictures, and '{name}' has its own: leave it out")


def _are_pictures(text: str) -> bool:
    return os.path.isdir(text) or (is_pattern(Path(text).name) and not os.path.exists(text))


def default_output(text: str) -> Path:
    """Where the explained video of the source ``text`` goes: beside a file, and here for what lies in no folder."""
    if is_address(text):
        host = re.split(r"/|:\d*(/|$)", masked(text).partition("://")[2], maxsplit=1)[0]
        return Path(f"{host.strip('[]').replace(':', '-').casefold() or 'stream'}_cam.mp4")
    if is_live(text):
        return Path(f"camera{text.rpartition('/')[2]}_cam.mp4")
    path = Path(text)
    if os.path.isdir(path):
        path = path.resolve()
        return path.parent / f"{path.name}_cam.mp4"
    stem = path.stem
    if is_pattern(path.name) and not os.path.exists(path):
        stem = "".join(letter for letter in stem.partition("%")[0] if letter not in "*?").rstrip("_-. ")
    return path.parent / f"{stem or 'pictures'}_cam.mp4"
