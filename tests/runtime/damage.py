"""Picture and video files that are damaged by chance, and what is made of them.

Run as a program (``damage.py FOLDER SEED FIRST COUNT``) it reads that many of them, one after another, each announced
before on a line of its own, so that a crash or a hang tells which file did it.
"""

from __future__ import annotations

import faulthandler
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from onnxcam.errors import OnnxCamError
from onnxcam.runtime.pictures import read_picture
from onnxcam.runtime.sources import VideoSource

PICTURES = (".jpg", ".png", ".webp", ".gif", ".tiff", ".bmp")
VIDEOS = {
    ".mp4": ("libx264", "yuv420p"),
    ".mkv": ("libx264", "yuv420p"),
    ".avi": ("mjpeg", "yuvj420p"),
    ".ts": ("mpeg2video", "yuv420p"),
}
_MAX_PIXELS = 4_000_000  # a damaged header may promise gigabytes of black
_MOST_FRAMES = 200


def originals(folder: Path, picture: np.ndarray) -> None:
    """Write ``picture``, and 25 frames that pan over it, in every format."""
    from .clips import write_clip

    for suffix in PICTURES:
        (folder / f"whole{suffix}").write_bytes(cv2.imencode(suffix, picture)[1].tobytes())
    height, width = picture.shape[:2]
    frames = [np.ascontiguousarray(picture[: height // 2, i : i + width // 2]) for i in range(25)]
    for suffix, (codec, pixels) in VIDEOS.items():
        write_clip(folder / f"whole{suffix}", frames, codec=codec, pixels=pixels, sound="aac", g="8")


def flipped(data: bytearray, random: np.random.Generator) -> None:
    for position in random.integers(len(data), size=2 ** int(random.integers(8))):
        data[position] ^= int(random.integers(1, 256))


def flipped_at_the_start(data: bytearray, random: np.random.Generator) -> None:
    for position in random.integers(min(len(data), 400), size=2 ** int(random.integers(4))):
        data[position] = int(random.choice([0, 1, 127, 128, 255, random.integers(256)]))


def cut(data: bytearray, random: np.random.Generator) -> None:
    del data[int(random.integers(1, len(data))) :]


def taken_out(data: bytearray, random: np.random.Generator) -> None:
    start = int(random.integers(len(data)))
    del data[start : start + 2 ** int(random.integers(12))]


def put_in(data: bytearray, random: np.random.Generator) -> None:
    start, length = int(random.integers(len(data))), 2 ** int(random.integers(12))
    data[start:start] = random.bytes(length) if random.integers(2) else bytes(length)


def swapped(data: bytearray, random: np.random.Generator) -> None:
    size = int(random.integers(1, max(len(data) // 4, 2)))
    a, b = sorted(int(start) for start in random.integers(max(len(data) - 2 * size, 1), size=2))
    data[a : a + size], data[b + size : b + 2 * size] = data[b + size : b + 2 * size], data[a : a + size]


MUTATIONS: tuple[Callable[[bytearray, np.random.Generator], None], ...] = (
    flipped, flipped_at_the_start, cut, taken_out, put_in, swapped,
)  # fmt: skip


def damaged(folder: Path, seed: int, number: int) -> Path:
    """The file ``number``: one of the originals after one to three mutations."""
    random = np.random.default_rng([seed, number])
    suffixes = [*PICTURES, *VIDEOS]
    suffix = suffixes[number % len(suffixes)]
    data = bytearray((folder / f"whole{suffix}").read_bytes())
    for _ in range(int(random.integers(1, 4))):
        if data:
            MUTATIONS[int(random.integers(len(MUTATIONS)))](data, random)
    path = folder / f"damaged{suffix}"
    path.write_bytes(data)
    return path


def complaint(path: Path) -> str | None:
    """What is wrong with how ``path`` is read, or None: it gives pictures, or one sentence that names it."""
    try:
        if path.suffix in VIDEOS:
            with VideoSource(path) as source:
                for frame in source:
                    if frame.picture.shape != (source.info.height, source.info.width, 3):
                        return f"a frame has the shape {frame.picture.shape}"
                    if frame.index == _MOST_FRAMES:
                        return f"more than {_MOST_FRAMES} frames came of 25"
            sentence = source.problem
        else:
            picture = read_picture(path, max_pixels=_MAX_PIXELS)
            return None if picture.dtype == np.uint8 and picture.ndim == 3 else f"it is {picture.dtype}"
    except OnnxCamError as error:
        sentence = str(error)
        if str(path) not in sentence:
            return f"it does not say which file: {sentence}"
    if sentence is None:
        return None
    return None if sentence.strip() and "\n" not in sentence and len(sentence) < 400 else f"no sentence: {sentence}"


def main(folder: Path, seed: int, first: int, count: int) -> int:
    """Print every number before its file is read, and what is wrong with it after; how many complaints there were."""
    faulthandler.enable()
    warnings.simplefilter("error")
    wrong = 0
    for number in range(first, first + count):
        print(number, flush=True)
        path = damaged(folder, seed, number)
        try:
            found = complaint(path)
        except Exception as error:  # noqa: BLE001 that is what is looked for
            found = f"{type(error).__name__}: {error}"
        if found:
            wrong += 1
            print(f"{number} {path.suffix}: {found}", file=sys.stderr, flush=True)
    return wrong


if __name__ == "__main__":
    sys.exit(bool(main(Path(sys.argv[1]), *map(int, sys.argv[2:]))))
