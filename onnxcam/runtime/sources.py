"""Frames out of video files: upright, in time, and as many as can be read."""

from __future__ import annotations

__all__ = [
    "FORMATS",
    "LENIENT",
    "Frame",
    "Source",
    "VideoInfo",
    "VideoSource",
    "frame_rate",
    "open_media",
]

import errno
from collections.abc import Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import av
import cv2
import numpy as np
from av.container.input import InputContainer
from av.packet import Packet
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.reformatter import Colorspace
from av.video.stream import VideoStream

from onnxcam.errors import InputError
from onnxcam.runtime.closing import Closing
from onnxcam.runtime.preprocess import Picture
from onnxcam.runtime.yuv import picture_of

_INTERPOLATION = 0x40002
"""swscale's BILINEAR | ACCURATE_RND, for the formats that `onnxcam.runtime.yuv` does not take."""

_DEFAULT_RATE = Fraction(25)  # FFmpeg's own, for files that do not say
_HD = 720  # rows from which a video that does not name its YUV matrix is taken to mean BT.709, as players do
_UNCERTAINTY = 0.5  # seconds by which the duration may differ of a video that does not count its frames
_UNSPECIFIED = 2  # AVCOL_SPC_UNSPECIFIED
LENIENT: dict[str, Any] = {} if int(av.__version__.split(".")[0]) >= 19 else {"metadata_errors": "replace"}
"""What makes `av.open` take titles that are no UTF-8; PyAV 19 always does."""
FORMATS = (
    "mov,matroska,avi,mpegts,mpeg,mpegvideo,flv,asf,ogg,gif,apng,ivf,h264,hevc,m4v,mjpeg,mxf,dv,nut,rm,wtv,yuv4mpegpipe"
)
"""FFmpeg's readers that are used. Of the others some follow lists of files and addresses (HLS waits for ever for a list
to grow), and one takes any text for a video."""
_PICTURES = "image2,bmp_pipe,gif_pipe,jpeg_pipe,jpegxl_pipe,png_pipe,tiff_pipe,webp_pipe"
_CLOCK_ANYWHERE = {"mpegts", "mpeg"}  # broadcast formats, whose time does not begin at 0


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoInfo:
    """What a video file says of itself.

    width, height: in pixels, as shown, after ``rotation``.
    rotation: degrees counter-clockwise (0, 90, 180, 270) by which the stored frames were turned.
    average_rate: frames per second. time_base: the unit of the time stamps, in seconds.
    frames, duration: number of frames, and seconds; None where the file does not say.
    pixel_aspect: width over height of a pixel as shown.
    origin: seconds on the file's clock that are time 0; 0 unless its format starts its clock anywhere.
    """

    width: int
    height: int
    average_rate: Fraction
    time_base: Fraction
    frames: int | None
    duration: float | None
    has_audio: bool
    rotation: int = 0
    pixel_aspect: Fraction = Fraction(1)
    origin: Fraction = Fraction(0)


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One picture (uint8 BGR [H, W, 3]) of a video, shown from ``pts`` on for ``duration``, in units of ``time_base``.

    index: counts the frames from 0. duration: 0 where the file does not say. taken: of a camera, `time.monotonic` when
    it gave the frame.
    """

    index: int
    pts: int
    duration: int
    time_base: Fraction
    picture: Picture
    taken: float = 0.0

    @property
    def time(self) -> float:
        """Seconds from the start of the video."""
        return float(self.pts * self.time_base)


class Source(Protocol):
    """Frames to be iterated over once; a context manager.

    info: what is known of them before. problem: once the iteration is over, what is missing, or None.
    """

    info: VideoInfo
    problem: str | None

    def __enter__(self) -> Source: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...

    def __iter__(self) -> Generator[Frame, None, None]: ...

    def close(self) -> None:
        """Give device, file or connection back. May be called twice."""
        ...


class VideoSource(Closing):
    """The frames of the video file at ``path``; a context manager, to be iterated over once.

    The display matrix is applied, every pixel format becomes uint8 BGR, and time stamps are the file's own, however
    uneven. Damaged packets are skipped, and a file that ends early gives what it has: ``problem`` then says, once the
    iteration is over, what is missing.

    Raises `InputError` if the file is missing, no video, or not one frame of it can be read.

    ::

        with VideoSource("input.mp4") as source:
            for frame in source:
                print(frame.time, frame.picture.shape)
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        self.path = Path(path)
        self.problem: str | None = None
        self._damaged = 0
        self._lost: str | None = None
        self._container = self._open()
        try:
            self._stream = self._video_stream()
            self._stream.thread_type = "SLICE"  # with frame threads, a damaged last frame takes those in work with it
            decoded = self._decoded()
            first = next(decoded, None)
            if first is None:
                raise InputError(self._no_frame())
            self._orientation = _orientation(first)
            self.info = self._info(first)
            self._decoded_frames = chain([first], decoded)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file. May be called twice."""
        self._container.close()

    def __iter__(self) -> Generator[Frame, None, None]:
        info = self.info
        origin = round(info.origin / info.time_base)
        step = max(round(1 / (info.average_rate * info.time_base)), 1)
        last: Frame | None = None
        for decoded in self._decoded_frames:
            try:
                picture = self._picture(decoded)
            except av.FFmpegError:  # a damaged header may name colours that cannot be converted
                self._damaged += 1
                continue
            expected = last.pts + step if last else 0
            pts = expected if decoded.pts is None else decoded.pts - origin
            last = Frame(last.index + 1 if last else 0, pts, decoded.duration or 0, info.time_base, picture)
            yield last
        self.problem = self._missing(last, step) if last else self._no_frame()

    def _open(self) -> InputContainer:
        return open_media(self.path)

    def _video_stream(self) -> VideoStream:
        if self._container.format.name in _PICTURES.split(","):
            raise InputError(f"'{self.path}' is a picture, not a video: run 'onnxcam image {self.path}'")
        for stream in self._container.streams.video:
            if not stream.disposition & Disposition.attached_pic:
                return stream
        kind = "sound alone" if self._container.streams.audio else "no video"
        raise InputError(f"'{self.path}' holds {kind}: name a file with a video stream")

    def _info(self, first: VideoFrame) -> VideoInfo:
        stream = self._stream
        if not stream.time_base:
            raise InputError(f"'{self.path}' has no time base: convert it to .mp4 first")
        self._start = float((stream.start_time or 0) * stream.time_base)
        swapped, flip_rows, flip_columns = self._orientation
        width, height = (first.height, first.width) if swapped else (first.width, first.height)
        pixel_aspect = Fraction(stream.sample_aspect_ratio or 1)
        arbitrary_clock = _CLOCK_ANYWHERE & set(self._container.format.name.split(","))
        return VideoInfo(
            width=width,
            height=height,
            average_rate=Fraction(stream.average_rate or stream.guessed_rate or _DEFAULT_RATE),
            time_base=Fraction(stream.time_base),
            frames=stream.frames or None,
            duration=_duration(self._container, stream),
            has_audio=bool(self._container.streams.audio),
            rotation=(90 if flip_rows else 270) if swapped else 180 if flip_rows and flip_columns else 0,
            pixel_aspect=1 / pixel_aspect if swapped else pixel_aspect,
            origin=Fraction(self._container.start_time or 0, av.time_base) if arbitrary_clock else Fraction(0),
        )

    def _decoded(self) -> Iterator[VideoFrame]:
        """Every frame that can be decoded, counting the packets that cannot."""
        try:
            for packet in self._packets():
                yield from self._frames_of(packet)
        except av.FFmpegError as error:  # the demuxer is lost; what the decoder still holds is good
            self._damaged += 1
            self._lost = error.strerror or str(error)
            yield from self._frames_of(None)

    def _packets(self) -> Iterator[Packet[VideoStream]]:
        with suppress(IndexError):  # at the end, if a stream began on the way: github.com/PyAV-Org/PyAV/issues/692
            yield from self._container.demux(self._stream)

    def _frames_of(self, packet: Packet[VideoStream] | None) -> Iterator[VideoFrame]:
        try:
            yield from self._stream.decode(packet)
        except av.error.EOFError:
            pass  # already flushed
        except av.FFmpegError:
            self._damaged += 1

    def _picture(self, decoded: VideoFrame) -> Picture:
        swapped, flip_rows, flip_columns = self._orientation
        bgr = self._as_stored(decoded)
        if swapped:
            bgr = cv2.transpose(bgr)
        if flip_rows or flip_columns:
            bgr = cv2.flip(bgr, -1 if flip_rows and flip_columns else 0 if flip_rows else 1)
        return bgr

    def _as_stored(self, decoded: VideoFrame) -> Picture:
        """``decoded`` as it lies in the file, uint8 BGR of the size of the first: a stream may change it on the way."""
        width, height = self.info.width, self.info.height
        if self._orientation[0]:
            width, height = height, width
        guess = Colorspace.ITU709 if height >= _HD else Colorspace.ITU601
        unspecified = decoded.colorspace == _UNSPECIFIED
        if (decoded.width, decoded.height) == (width, height):
            picture = picture_of(decoded, guess if unspecified else decoded.colorspace)
            if picture is not None:
                return picture
        return decoded.reformat(
            width=width,
            height=height,
            format="bgr24",
            src_colorspace=guess if unspecified else None,
            interpolation=_INTERPOLATION,
        ).to_ndarray()

    def _no_frame(self) -> str:
        return f"'{self.path}' is damaged: not one frame of it can be read"

    def _missing(self, last: Frame, step: int) -> str | None:
        read, info = last.index + 1, self.info
        end = float((last.pts + (last.duration or step)) * info.time_base + info.origin) - self._start
        if info.frames is not None:
            if read < info.frames and info.duration and end < info.duration - 1.5 * step * float(info.time_base):
                return f"the file ends early: {read} of {info.frames} frames could be read"
        elif info.duration is not None and end < info.duration - _UNCERTAINTY:
            return f"the file ends early: {end:.1f} of {info.duration:.1f} s could be read"
        if self._damaged:
            return f"the file is damaged: {self._damaged} packets were skipped, {read} frames could be read"
        return None


def open_media(path: Path) -> InputContainer:
    """The container at ``path``, which opens no other file and no network. Raises `InputError`."""
    try:
        if path.is_dir():
            raise InputError(f"'{path}' is a folder, not a video")
        if path.stat().st_size == 0 and path.is_file():
            raise InputError(f"'{path}' is empty: copy or download it again")
        if not path.is_file():
            raise InputError(f"'{path}' is not a file: a video is read from a file")
        options = {"protocol_whitelist": "file", "format_whitelist": f"{FORMATS},{_PICTURES}"}
        container: InputContainer = av.open(f"file:{path}", "r", container_options=options, **LENIENT)
        return container
    except FileNotFoundError:
        raise InputError(f"there is no file '{path}'") from None
    except (av.error.InvalidDataError, av.error.ArgumentError):  # the second: its format is not among these
        raise InputError(f"'{path}' is not a video, or it is cut off so that nothing of it can be read") from None
    except (OSError, av.FFmpegError) as error:
        reason = error.strerror if error.errno in errno.errorcode else str(error)
        raise InputError(f"'{path}' cannot be read: {reason}") from None


def frame_rate(value: Fraction | float) -> Fraction:
    """``value`` frames per second as a fraction. Raises `InputError` if nothing runs so slow or fast."""
    if not 0.001 <= value <= 1000:
        raise InputError(f"a rate is from 0.001 to 1000 frames per second, not {float(value):g}")
    return Fraction(value).limit_denominator(1001)


def _duration(container: InputContainer, stream: VideoStream) -> float | None:
    """Seconds of the video stream, or else of the longest stream."""
    if stream.duration is not None and stream.time_base:
        return float(stream.duration * stream.time_base)
    if written := stream.metadata.get("DURATION"):  # Matroska's, HH:MM:SS.fraction
        start = float((stream.start_time or 0) * (stream.time_base or 0))
        with suppress(ValueError):  # it is damaged
            hours, minutes, seconds = written.split(":")
            return int(hours) * 3600 + int(minutes) * 60 + float(seconds) - start
    return container.duration / av.time_base if container.duration else None


def _orientation(decoded: VideoFrame) -> tuple[bool, bool, bool]:
    """Whether to swap rows and columns, and then to flip rows and columns, to show the frame as it is meant.

    The display matrix maps a stored (x, y) to ``(a·x + c·y, b·x + d·y)``; what is left of it after quarter turns and
    mirrors is nothing that cameras write.
    """
    matrix: Any = decoded.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return False, False, False
    a, b, _, c, d = np.frombuffer(matrix, np.int32)[:5].tolist()
    return (True, b < 0, c < 0) if abs(b) > abs(a) else (False, d < 0, a < 0)
