"""Picture files: read as they would be shown, written all or nothing."""

from __future__ import annotations

__all__ = ["MAX_PIXELS", "SUFFIXES", "decoded", "encoded", "is_picture", "pixels", "read_picture", "write_picture"]

import os
import struct
import uuid
from contextlib import suppress
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from onnxcam.errors import InputError, OutputError, nearest_names
from onnxcam.runtime.preprocess import Picture, as_bgr
from onnxcam.runtime.quiet import opencv_quiet

MAX_PIXELS = 178_956_970
"""What a picture may have unless told otherwise: 512 MiB of colour, Pillow's limit against decompression bombs."""

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")
"""Of the files that are taken from a folder. What a file is, its content decides."""

_WRITTEN = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
_EXIF_ORIENTATION, _TIFF_WIDTH, _TIFF_HEIGHT = 0x112, 0x100, 0x101


def read_picture(path: str | PathLike[str], *, max_pixels: int | None = None) -> Picture:
    """The picture at ``path`` as a viewer shows it: uint8 BGR [H, W, 3].

    The EXIF orientation is applied, grey is repeated, 16 bits become 8, what is transparent (PNG, WebP, GIF) becomes
    white; of an animation the first frame is taken. ``max_pixels`` (None: `MAX_PIXELS`) is held against the header,
    before anything is decoded.

    Raises `InputError` if the file is missing, empty, cut short, damaged, too large, or no JPEG, PNG, WebP, BMP, TIFF
    or GIF.
    """
    path = Path(path)
    data = _content(path)
    count = pixels(data, f"'{path}'")
    limit = MAX_PIXELS if max_pixels is None else max_pixels
    if count > limit:
        header = _header(data)
        raise InputError(
            f"'{path}' has {header.width} x {header.height} pixels, over the limit of {limit}: "
            f"if you trust the file, raise it with --max-pixels {count} (in Python max_pixels=)"
        )
    return decoded(data, f"'{path}'")


def is_picture(data: bytes) -> bool:
    """Whether a file that begins so is of a kind that `decoded` takes."""
    known = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"BM", b"II*\0", b"MM\0*")
    return data.startswith(known) or (data[:4] == b"RIFF" and data[8:12] == b"WEBP")


def pixels(data: bytes, name: str = "the picture") -> int:
    """How many pixels the picture in ``data`` has by its header, before anything is decoded.

    name: what an error calls it. Raises `InputError` if the header is cut short or damaged.
    """
    header = _checked_header(data, name)
    return header.height * header.width


def decoded(data: bytes, name: str = "the picture") -> Picture:
    """The content of a picture file as `read_picture` gives it, however many pixels it has.

    name: what an error calls it. Raises `InputError` if it is cut short, damaged, or none that can be shown.
    """
    header = _checked_header(data, name)
    if not header.complete:
        raise InputError(f"{name} is cut short: copy or download it again")
    image = _decoded(data, header)
    if image is None:
        raise InputError(f"{name} is damaged or of an unusual kind and cannot be decoded: save it again as PNG")
    try:
        return as_bgr(image)
    except InputError:
        raise InputError(f"{name} holds {image.dtype} pixels of a kind no screen shows: save it as PNG") from None


def _checked_header(data: bytes, name: str) -> _Header:
    if not is_picture(data):
        raise InputError(f"{name} is no picture that can be read: it takes JPEG, PNG, WebP, BMP, TIFF and GIF")
    try:
        return _header(data)
    except (IndexError, struct.error):
        raise InputError(f"{name} is cut short or damaged: copy or download it again") from None


def write_picture(path: str | PathLike[str], picture: Picture) -> None:
    """Write ``picture`` (uint8 BGR) as what the suffix of ``path`` names, through a temporary file beside it.

    Raises `OutputError` for an unknown suffix or a place that cannot be written to; ``path`` is then as it was.
    """
    path = Path(path)
    data = encoded(picture, path.suffix)
    temporary = path.parent / f".{uuid.uuid4().hex}.tmp"
    try:
        with open(temporary, "xb") as file:
            file.write(data)
        os.replace(temporary, path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise OutputError(f"'{path}' cannot be written: {error.strerror}") from None


def encoded(picture: Picture, suffix: str) -> bytes:
    """``picture`` as the content of a file of this suffix. Raises `OutputError` if the suffix is unknown."""
    if suffix.casefold() not in _WRITTEN:
        near = nearest_names(suffix, _WRITTEN)
        raise OutputError(
            f"a picture is written as {', '.join(_WRITTEN)}, not as '{suffix}'" + (f": {near}" if near else "")
        )
    try:
        with opencv_quiet():
            done, data = cv2.imencode(suffix, picture)
    except cv2.error:
        done = False
    if not done:
        height, width = picture.shape[:2]
        raise OutputError(f"{width} x {height} pixels do not fit into a '{suffix}' file: write a .png")
    return bytes(data)


@dataclass(frozen=True, slots=True)
class _Header:
    """Size in pixels before the EXIF orientation (1-8) is applied.

    complete: False where the file ends before the picture does, which some decoders fill with grey.
    opaque: False where the format may carry an opacity; OpenCV then leaves the orientation to us.
    """

    height: int
    width: int
    complete: bool = True
    opaque: bool = True
    orientation: int = 1


def _content(path: Path) -> bytes:
    """The whole of a picture file; of anything else, however large, only the start is read."""
    try:
        with open(path, "rb") as file:
            start = file.read(64)
            if not start:
                raise InputError(f"'{path}' is empty: copy or download it again")
            if not is_picture(start):
                if _is_video(start):
                    raise InputError(f"'{path}' is a video, not a picture: run 'onnxcam video {path}'")
                raise InputError(
                    f"'{path}' is no picture that can be read: it takes JPEG, PNG, WebP, BMP, TIFF and GIF"
                )
            return start + file.read()
    except FileNotFoundError:
        raise InputError(f"there is no file '{path}'") from None
    except IsADirectoryError:
        raise InputError(f"'{path}' is a folder, not a picture") from None
    except OSError as error:
        raise InputError(f"'{path}' cannot be read: {error.strerror}") from None


def _is_video(start: bytes) -> bool:
    mp4 = start[4:8] == b"ftyp" and start[8:12] not in (b"avif", b"avis", b"heic", b"heix", b"mif1", b"msf1")
    avi = start[:4] == b"RIFF" and start[8:12] == b"AVI "
    return mp4 or avi or start.startswith((b"\x1aE\xdf\xa3", b"FLV", b"OggS", b"\0\0\x01\xba", b"\0\0\x01\xb3"))


def _header(data: bytes) -> _Header:
    """What the first bytes say. Raises `struct.error` or `IndexError` where they end too early."""
    if data.startswith(b"\xff\xd8"):
        return _jpeg_header(data)
    if data.startswith(b"\x89PNG"):
        return _png_header(data)
    if data.startswith(b"RIFF"):
        return _webp_header(data)
    if data.startswith(b"BM"):
        old = struct.unpack_from("<I", data, 14)[0] == 12
        width, height = struct.unpack_from("<HH" if old else "<ii", data, 18)
        return _Header(abs(height), abs(width))
    if data.startswith(b"GIF"):
        width, height = struct.unpack_from("<HH", data, 6)
        return _Header(height, width, opaque=False)
    tags = _tiff_tags(data)
    return _Header(tags.get(_TIFF_HEIGHT, 0), tags.get(_TIFF_WIDTH, 0))


def _jpeg_header(data: bytes) -> _Header:
    height = width = 0
    position, marker = 2, 0
    while marker != 0xDA:  # the scan follows; an end marker before it belongs to a thumbnail
        marker = data[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        (length,) = struct.unpack_from(">H", data, position + 2)
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", data, position + 5)
        position += 2 + length
    return _Header(height, width, complete=data.find(b"\xff\xd9", position) >= 0)


def _png_header(data: bytes) -> _Header:
    width, height = struct.unpack_from(">II", data, 16)
    position, kind, orientation = 8, b"", 1
    while kind != b"IEND" and position + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        if kind == b"eXIf":
            orientation = _tiff_tags(data[position + 8 :]).get(_EXIF_ORIENTATION, 1)
        position += 12 + length
    return _Header(height, width, complete=kind == b"IEND", opaque=False, orientation=orientation)


def _webp_header(data: bytes) -> _Header:
    (size,) = struct.unpack_from("<I", data, 4)
    kind = data[12:16]
    if kind == b"VP8X":
        low_width, high_width, low_height, high_height = struct.unpack_from("<HBHB", data, 24)
        width, height = (high_width << 16 | low_width) + 1, (high_height << 16 | low_height) + 1
    elif kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    else:
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
    position, orientation = 12, 1
    while position + 8 <= len(data):
        kind, length = struct.unpack_from("<4sI", data, position)
        if kind == b"EXIF":
            exif = data[position + 8 : position + 8 + length].removeprefix(b"Exif\0\0")
            orientation = _tiff_tags(exif).get(_EXIF_ORIENTATION, 1)
        position += 8 + length + length % 2
    return _Header(height, width, complete=len(data) >= 8 + size, opaque=False, orientation=orientation)


def _tiff_tags(data: bytes) -> dict[int, int]:
    """The whole numbers of the first directory of a TIFF file, or of an EXIF block, which is one too."""
    order = "<" if data[:2] == b"II" else ">"
    (start,) = struct.unpack_from(f"{order}I", data, 4)
    (count,) = struct.unpack_from(f"{order}H", data, start)
    tags = {}
    for entry in range(start + 2, start + 2 + 12 * count, 12):
        tag, kind = struct.unpack_from(f"{order}HH", data, entry)
        if kind in (3, 4):  # SHORT, LONG
            (tags[tag],) = struct.unpack_from(f"{order}{'H' if kind == 3 else 'I'}", data, entry + 8)
    return tags


def _decoded(data: bytes, header: _Header) -> NDArray[Any] | None:
    """The picture upright and in full depth, [H, W], [H, W, 3] or BGRA [H, W, 4]; None if it cannot be decoded."""
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH if header.opaque else cv2.IMREAD_UNCHANGED
    with opencv_quiet():
        try:
            image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
        except cv2.error:
            return None
    return image if image is None or header.opaque else _upright(image, header.orientation)


def _upright(image: NDArray[Any], orientation: int) -> NDArray[Any]:
    """``image`` with EXIF orientation 1-8 undone."""
    if orientation in (5, 6, 7, 8):
        image = cv2.transpose(image)
    if orientation in (2, 6):
        return cv2.flip(image, 1)
    if orientation in (4, 8):
        return cv2.flip(image, 0)
    return cv2.flip(image, -1) if orientation in (3, 7) else image
