"""Frames into video files that browsers and phones play, with the sound of the source."""

from __future__ import annotations

__all__ = ["SUFFIXES", "VideoSink", "check_output"]

import errno
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from itertools import count
from os import PathLike
from pathlib import Path
from types import TracebackType

import av
import cv2
from av.audio.stream import AudioStream
from av.container.output import OutputContainer
from av.packet import Packet
from av.video.frame import PictureType
from av.video.reformatter import ColorRange
from av.video.stream import VideoStream

from onnxcam.errors import OutputError, nearest_names
from onnxcam.runtime.sources import Frame, VideoInfo, open_media
from onnxcam.runtime.yuv import yuv420p

SUFFIXES = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska"}
"""What can be written, and FFmpeg's name for it."""

_SOUND_COPIED = {"aac", "ac3", "alac", "eac3", "flac", "mp3", "opus"}
"""Codecs that players expect in all of `SUFFIXES`; others (a camera's PCM, Vorbis) become AAC."""
_AAC_RATES = {8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000}
_RECORDED_AT_ONCE = Fraction(2)  # seconds
_BT709 = 1  # in FFmpeg's tables of primaries, transfer and matrix alike


class VideoSink:
    """Writes frames as H.264 to ``path``; a context manager that leaves a whole file there, or nothing.

    frames, duration: what was written so far, in frames and seconds.
    info: of the source: its time base, rate and pixel aspect are kept, and with it every frame's own time.
    sound_from: a media file whose sound is carried along, packet by packet.
    recording: what is written can be played at any time, but for the last two seconds, even if the program is killed
        or the power fails; until it is whole it is called ``NAME.recording.mp4``, and ``part`` is that file. An
        exception does not remove it once it holds a frame.

    The picture is BT.709 4:2:0, tagged so; odd sizes get one more row or column, a repeat of the last. Until it is
    whole the file has a hidden name in the same folder. Leaving the ``with`` block by an exception removes it.

    Raises `OutputError` before anything is written if ``path`` exists (unless ``overwrite``), is ``sound_from``
    itself under whatever name, has an unknown suffix or lies in no folder; later, if the disk is full.
    """

    def __init__(
        self,
        path: str | PathLike[str],
        info: VideoInfo,
        *,
        sound_from: str | PathLike[str] | None = None,
        overwrite: bool = False,
        recording: bool = False,
    ) -> None:
        self.path = Path(path)
        self.frames = 0
        self.duration = 0.0
        self._info = info
        self._stream: VideoStream | None = None
        self._last_pts: int | None = None
        self._sound: _Sound | None = None
        source = Path(sound_from) if sound_from is not None and info.has_audio else None
        check_output(self.path, source=sound_from, overwrite=overwrite)
        self._recording = recording
        self._last_key: Fraction | None = None
        hidden = self.path.with_name(f".{self.path.name}.partial-{os.getpid()}")
        self._temporary = self.part = _unused_name(self.path) if recording else hidden
        kind = SUFFIXES[self.path.suffix.casefold()]
        ticks = str(info.time_base.denominator)  # by default a late first frame is placed to the millisecond
        flags = "+frag_keyframe+empty_moov+default_base_moof" if recording else "+faststart"
        options = {} if kind == "matroska" else {"movflags": flags, "movie_timescale": ticks}
        if recording:
            options |= {"flush_packets": "1"} | ({"cluster_time_limit": "1000"} if kind == "matroska" else {})
        with self._writing():
            self._temporary.touch()  # PyAV opens it with the first packet: too late to learn that it cannot be
            try:
                self._container: OutputContainer = av.open(
                    os.fspath(self._temporary), "w", format=kind, options=options
                )
            except BaseException:
                self._temporary.unlink()
                raise
        try:
            if source:
                self._sound = _Sound(source, self._container, info.origin)
        except BaseException:
            self.discard()
            raise

    def __enter__(self) -> VideoSink:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self.finish()
        else:
            self.discard()

    def write(self, frame: Frame) -> None:
        """Add ``frame``; all have the size of the first. Raises `OutputError` if the disk is full."""
        picture = frame.picture
        height, width = picture.shape[:2]
        if height % 2 or width % 2:
            picture = cv2.copyMakeBorder(picture, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
        with self._writing():
            if self._stream is None:
                self._stream = self._video_stream(*picture.shape[:2])
            encoded = yuv420p(picture)
            # a broken file may repeat a time stamp, which no file format takes
            pts = frame.pts if self._last_pts is None else max(frame.pts, self._last_pts + 1)
            encoded.pts, encoded.time_base, encoded.duration = pts, frame.time_base, frame.duration
            if self._recording and self._key_is_due(pts * frame.time_base):
                encoded.pict_type = PictureType.I
            self._container.mux(self._stream.encode(encoded))
            if self._sound:
                self._sound.write(until=pts * frame.time_base)
        self._last_pts = pts
        self.frames += 1
        self.duration = float(pts * frame.time_base) + (
            float(frame.duration * frame.time_base) or float(1 / self._info.average_rate)
        )

    def finish(self, *, rest_of_sound: bool = True) -> None:
        """Make the file whole and give it its name. Without a frame there is none. A second call does nothing.

        rest_of_sound: whether sound that goes on after the last frame is written too.
        """
        stream, self._stream = self._stream, None
        try:
            if stream is None:
                return
            with self._writing():
                self._container.mux(stream.encode(None))
                if self._sound:
                    self._sound.finish(rest=rest_of_sound)
                self._container.close()
                os.replace(self._temporary, self.path)
        finally:
            self.discard()

    def discard(self) -> None:
        """Close and remove what was written so far, but for a recording. After `finish` nothing is left to remove."""
        if self._sound:
            self._sound.close()
        with suppress(OSError, av.FFmpegError):
            self._container.close()
        if self._recording and self.frames:
            return
        with suppress(OSError):
            self._temporary.unlink()

    def _key_is_due(self, time: Fraction) -> bool:
        """Whether what came before is to be written out: by the clock, for frames may come slower than was thought."""
        if self._last_key is not None and time - self._last_key < _RECORDED_AT_ONCE:
            return False
        self._last_key = time
        return True

    def _video_stream(self, height: int, width: int) -> VideoStream:
        stream = self._container.add_stream("libx264", rate=self._info.average_rate)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"crf": "22", "preset": "superfast"}  # half of veryfast's time for a third more bytes
        if self._recording:
            stream.options |= {"g": "1000000", "keyint_min": "1", "forced-idr": "1", "tune": "zerolatency"}
        stream.thread_type = "FRAME"
        context = stream.codec_context
        context.time_base = stream.time_base = self._info.time_base
        context.sample_aspect_ratio = self._info.pixel_aspect
        context.colorspace = context.color_primaries = context.color_trc = _BT709
        context.color_range = int(ColorRange.MPEG)
        return stream

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """FFmpeg's errors as an `OutputError` of one sentence."""
        try:
            yield
        except (OSError, av.FFmpegError) as error:
            if error.errno == errno.ENOSPC:
                raise OutputError(f"'{self.path}' cannot be written: the disk is full") from None
            reason = error.strerror or str(error)
            raise OutputError(f"'{self.path}' cannot be written: {reason[:1].lower()}{reason[1:]}") from None


class _Sound:
    """The sound streams of the file at ``path``, on their way into ``output``.

    They are read apart from the pictures, so that a packet waits for no frame but that of its own time.
    """

    def __init__(self, path: Path, output: OutputContainer, origin: Fraction) -> None:
        self._input = open_media(path)
        self._output = output
        self._origin = origin
        self._targets: dict[int, AudioStream] = {}
        self._copied: set[int] = set()
        self._last_dts: dict[int, int] = {}
        for stream in self._input.streams.audio:
            if stream.codec_context.name in _SOUND_COPIED:
                target = output.add_stream_from_template(stream)
                self._copied.add(stream.index)
            elif stream.codec_context.sample_rate:
                rate = stream.codec_context.sample_rate
                target = output.add_stream("aac", rate=rate if rate in _AAC_RATES else 48000)
                target.layout = "mono" if stream.channels == 1 else "stereo"
            else:
                warnings.warn(f"the sound of '{path}' cannot be decoded, and is left out", RuntimeWarning, stacklevel=4)
                continue
            self._targets[stream.index] = target
        wanted = [stream for stream in self._input.streams.audio if stream.index in self._targets]
        self._packets = self._input.demux(*wanted) if wanted else iter(())
        self._next = self._following()

    def write(self, *, until: Fraction | None) -> None:
        """Write what sounds up to ``until`` seconds; None is all there is."""
        while self._next is not None and (until is None or self._time(self._next) <= until):
            packet, self._next = self._next, None
            target = self._targets[packet.stream.index]
            if packet.stream.index in self._copied:
                self._copy(packet, target)
            else:
                self._encode(packet, target)
            self._next = self._following()

    def finish(self, *, rest: bool) -> None:
        if rest:
            self.write(until=None)
        for index, target in self._targets.items():
            if index not in self._copied and target.codec_context.is_open:
                self._output.mux(target.encode(None))

    def close(self) -> None:
        self._input.close()

    def _following(self) -> Packet[AudioStream] | None:
        """The next packet that holds sound; None at the end, or where the file is damaged beyond reading."""
        with suppress(av.FFmpegError, IndexError):  # the second at the end: github.com/PyAV-Org/PyAV/issues/692
            for packet in self._packets:
                if packet.dts is not None:
                    return packet  # type: ignore[return-value]
        return None

    def _time(self, packet: Packet[AudioStream]) -> Fraction:
        return packet.dts * packet.time_base - self._origin  # type: ignore[operator]

    def _copy(self, packet: Packet[AudioStream], target: AudioStream) -> None:
        index, shift = packet.stream.index, round(self._origin / packet.time_base)
        packet.dts -= shift  # type: ignore[operator]
        packet.pts = packet.dts if packet.pts is None else packet.pts - shift
        if packet.dts <= self._last_dts.get(index, packet.dts - 1):
            return  # a damaged file goes back in time, which no file format takes
        if packet.pts < 0 and self._output.format.name == "matroska":
            return  # an encoder's run-up, silent, before which FFmpeg would delay everything else
        self._last_dts[index] = packet.dts
        packet.stream = target
        self._output.mux(packet)

    def _encode(self, packet: Packet[AudioStream], target: AudioStream) -> None:
        try:
            frames = packet.decode()
        except av.FFmpegError:
            return  # damaged: silence
        for frame in frames:
            if frame.pts is not None and frame.time_base:
                frame.pts -= round(self._origin / frame.time_base)
            self._output.mux(target.encode(frame))


def _unused_name(path: Path) -> Path:
    """``NAME.recording.mp4``, or with a number where an earlier recording was cut off."""
    for number in count(1):
        name = path.with_name(f"{path.stem}.recording{f'-{number}' if number > 1 else ''}{path.suffix}")
        if not name.exists():
            return name
    raise AssertionError("numbers do not end")


def check_output(path: Path, *, source: str | PathLike[str] | None, overwrite: bool) -> None:
    """Raise `OutputError` if a video cannot, or must not, be written to ``path``."""
    if path.is_dir():
        raise OutputError(f"'{path}' is a folder: name a file")
    if path.suffix.casefold() not in SUFFIXES:
        near = nearest_names(path.suffix, SUFFIXES)
        raise OutputError(
            f"a video is written as {', '.join(SUFFIXES)}, and '{path.name}' is not so called"
            + (f": {near}" if near else "")
        )
    if not path.parent.is_dir():
        raise OutputError(f"'{path}' cannot be written: there is no folder '{path.parent}'")
    if path.exists():
        if source is not None and os.path.samefile(path, source):
            raise OutputError(f"'{path}' is the input itself: choose another name for the output")
        if not overwrite:
            raise OutputError(f"'{path}' exists: choose another name, or replace it with --overwrite")
