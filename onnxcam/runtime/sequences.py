"""Pictures in a folder, or numbered ones, as the frames of a video."""

from __future__ import annotations

__all__ = ["PictureSequence", "is_pattern"]

import os
import re
from collections.abc import Generator
from fnmatch import fnmatch
from fractions import Fraction
from os import PathLike
from pathlib import Path

from onnxcam.errors import InputError
from onnxcam.runtime.closing import Closing
from onnxcam.runtime.fitting import fitted
from onnxcam.runtime.pictures import SUFFIXES, read_picture
from onnxcam.runtime.preprocess import Picture, as_bgr
from onnxcam.runtime.sources import Frame, VideoInfo, frame_rate

_NUMBER = re.compile(r"%0?(\d*)d")
_DIGITS = re.compile(r"(\d+)")


def is_pattern(text: str) -> bool:
    """Whether ``text`` stands for numbered pictures, as ``img_%04d.png`` does, or for several, as ``*.jpg``."""
    return bool(_NUMBER.search(text)) or any(letter in text for letter in "*?")


class PictureSequence(Closing):
    """The pictures of the folder ``path``, or those that a pattern (``img_%04d.png``, ``*.jpg``) names, as frames.

    rate: of the frames, per second. They come in the order of the numbers in their names, at the size of the first.
    A picture that cannot be read is left out, and ``problem`` names it. Hidden files are none.

    Raises `InputError` if there is no such picture, none can be read, or ``rate`` is none.
    """

    def __init__(self, path: str | PathLike[str], *, rate: Fraction | float = 25) -> None:
        self.path = Path(path)
        self.problem: str | None = None
        self._rate = frame_rate(rate)
        self._files = sorted(_files(self.path), key=_natural)
        if not self._files:
            where = f"in '{path}'" if os.path.isdir(self.path) else f"named '{path}'"
            raise InputError(f"there is no picture {where}")
        self._unread: list[str] = []
        readable = (picture for picture in map(self._read, range(len(self._files))) if picture is not None)
        first = next(readable, None)
        if first is None:
            raise InputError(f"no picture of '{path}' can be read: {self._unread[0]}")
        self._height, self._width = first.shape[:2]
        self._unread.clear()
        self.info = VideoInfo(
            width=self._width,
            height=self._height,
            average_rate=self._rate,
            time_base=1 / self._rate,
            frames=len(self._files),
            duration=float(len(self._files) / self._rate),
            has_audio=False,
        )

    def close(self) -> None:
        """Nothing is held open."""

    def __iter__(self) -> Generator[Frame, None, None]:
        count = 0
        for number in range(len(self._files)):
            picture = self._read(number)
            if picture is None:
                continue
            yield Frame(count, number, 1, self.info.time_base, fitted(picture, self._height, self._width))
            count += 1
        if self._unread:
            left = len(self._unread) - 1
            others = f", and {left} other{'s' * (left > 1)}" if left else ""
            self.problem = f"{self._unread[0]}{others}; {count} of {len(self._files)} pictures could be read"

    def _read(self, number: int) -> Picture | None:
        try:
            return as_bgr(read_picture(self._files[number]))
        except InputError as error:
            self._unread.append(str(error))
            return None


def _files(path: Path) -> list[Path]:
    whole = os.path.isdir(path)
    folder = path if whole else path.parent
    named = None if whole else _named(path.name)
    try:
        files = [file for file in folder.iterdir() if not file.name.startswith(".") and file.is_file()]
    except FileNotFoundError:
        raise InputError(f"there is no folder '{folder}'") from None
    except OSError as error:
        raise InputError(f"'{folder}' cannot be read: {error.strerror}") from None
    if named:
        return [file for file in files if named.fullmatch(file.name)]
    return [file for file in files if (file.suffix.casefold() in SUFFIXES if whole else fnmatch(file.name, path.name))]


def _named(pattern: str) -> re.Pattern[str] | None:
    """What ``img_%04d.png`` names: ``img_``, four digits or more, ``.png``. None if no number stands in it."""
    if not _NUMBER.search(pattern):
        return None
    parts = _NUMBER.split(pattern)  # text, digits, text, ...
    parts[::2] = map(re.escape, parts[::2])
    parts[1::2] = [rf"\d{{{digits or 1},}}" for digits in parts[1::2]]
    return re.compile("".join(parts))


def _natural(path: Path) -> tuple[list[tuple[int, int, str]], str]:
    """A key under which ``img9`` comes before ``img10``."""
    parts = _DIGITS.split(path.name.casefold())
    return [(1, int(part), "") if part.isdecimal() else (0, 0, part) for part in parts if part], path.name
