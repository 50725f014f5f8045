"""Frames out of network streams."""

from __future__ import annotations

__all__ = ["SCHEMES", "StreamSource", "is_address", "masked"]

import errno
import re
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import av
from av.container.input import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from onnxcam.errors import InputError
from onnxcam.runtime.sources import FORMATS, LENIENT, Frame, VideoSource

SCHEMES = ("rtsp", "rtsps", "http", "https", "udp", "tcp", "rtmp", "srt")
_ADDRESS = re.compile(r"([a-z][a-z0-9+.-]+)://", re.IGNORECASE)
_PROTOCOLS = "rtsp,rtsps,rtp,tcp,udp,tls,http,https,httpproxy,crypto,rtmp,srt"
"""What a stream may lead FFmpeg to open: no file."""
_FORMATS = f"{FORMATS},rtsp,sdp,rtp,mpjpeg,hls,mp3,aac"
_TIMED_OUT = re.compile("timed out|immediate exit", re.IGNORECASE)
_REASONS = {
    "invalid argument": "it is no whole address, such as rtsp://host:554/path",
    "invalid data": "what it sends is no video that can be read",
    "input/output error": "the connection failed, or it leads to no video: check host and path",
    "protocol not found": "FFmpeg was built without this protocol here",
}
"""What FFmpeg means, where its own words do not say."""


def is_address(text: str) -> bool:
    """Whether ``text`` names a network stream rather than a file. Raises `InputError` if its scheme is unknown."""
    found = _ADDRESS.match(text)
    if found and found[1].casefold() not in SCHEMES:
        raise InputError(f"'{masked(text)}' is no stream that can be read: its address begins with {_listed()}")
    return bool(found)


def masked(address: str) -> str:
    """``address`` without user, password and query, fit for messages and logs."""
    scheme, _, rest = address.partition("://")
    host = re.split(r"[/?#]", rest, maxsplit=1)[0]
    if "@" in host:
        rest = rest[host.rindex("@") + 1 :]
    elif "@" in rest and not re.fullmatch(r"[^:]*(:\d+)?|\[.*\](:\d+)?", host):
        rest = rest[rest.rindex("@") + 1 :]  # the password has a / ? or # that should have been escaped
    return f"{scheme}://{re.split('[?#]', rest, maxsplit=1)[0]}"


class StreamSource(VideoSource):
    """The frames of the stream at ``address`` as they come; a context manager, to be iterated over once.

    address: of RTSP, HTTP (MJPEG, MPEG-TS, HLS), UDP, TCP, RTMP or SRT.
    stall_after: seconds without data, or with none that makes a frame, after which opening or reading ends; ``problem``
        then says so.

    A stream that changes its size keeps that of its first frame. Raises `InputError` if it cannot be opened.
    """

    def __init__(self, address: str, *, stall_after: float = 10.0) -> None:
        self._address, self._stall_after = address, stall_after
        super().__init__(Path(masked(address)))

    def _open(self) -> InputContainer:
        self.path = masked(self._address)  # type: ignore[assignment]  # it stands in messages alone
        options = {"protocol_whitelist": _PROTOCOLS, "format_whitelist": _FORMATS}
        if self._address.casefold().startswith("rtsp"):
            options["rtsp_transport"] = "tcp"  # over UDP a lost packet smears the picture until the next key frame
        begun = time.monotonic()
        try:
            container: InputContainer = av.open(
                self._address,
                "r",
                container_options=options,
                timeout=(self._stall_after, self._stall_after),
                **LENIENT,
            )
            return container
        except (OSError, av.FFmpegError, ValueError) as error:
            waited = time.monotonic() - begun >= self._stall_after  # FFmpeg may call a silent server a garbled one
            reason = f"no picture came for {self._stall_after:g} s" if waited else self._reason(str(error))
            raise InputError(f"'{self.path}' cannot be opened: {reason}") from None

    def _packets(self) -> Iterator[Packet[VideoStream]]:
        """Of the picture; while only sound comes, or what cannot be decoded, time runs on."""
        self._decoded_at = time.monotonic()
        with suppress(IndexError):  # at the end, if a stream began on the way: github.com/PyAV-Org/PyAV/issues/692
            for packet in self._container.demux():
                if packet.stream_index == self._stream.index:
                    yield packet  # type: ignore[misc]
                if time.monotonic() - self._decoded_at > self._stall_after:
                    raise av.error.TimeoutError(errno.ETIMEDOUT, "timed out")

    def _frames_of(self, packet: Packet[VideoStream] | None) -> Iterator[VideoFrame]:
        for frame in super()._frames_of(packet):
            yield frame
            self._decoded_at = time.monotonic()  # whoever takes the frames may be slow

    def _no_frame(self) -> str:
        if self._lost is None:
            return f"'{self.path}' ended before one frame of it could be read"
        return f"'{self.path}' cannot be read: {self._reason(self._lost)}"

    def _reason(self, error: str) -> str:
        if _TIMED_OUT.search(error):
            return f"no picture came for {self._stall_after:g} s"
        if "input/output error" in error.casefold() and (host := _unknown_host(self._address)):
            return f"no host '{host}' can be found"
        known = next((text for words, text in _REASONS.items() if words in error.casefold()), None)
        text = error.replace(self._address, "").strip(" :'")
        return known or text.partition("] ")[2].strip(" :'").casefold() or text or "no reason is given"

    def _missing(self, last: Frame, step: int) -> str | None:
        return "the stream ended" if self._lost is None else f"the stream broke off: {self._reason(self._lost)}"


def _unknown_host(address: str) -> str | None:
    """The host in ``address``, if there is none of that name: FFmpeg says no more than that the connection failed."""
    try:
        host = urlsplit(address).hostname
    except ValueError:
        return None
    try:
        socket.getaddrinfo(host or "127.0.0.1", None)
    except (OSError, UnicodeError):
        return host
    return None


def _listed() -> str:
    *others, last = (f"{scheme}://" for scheme in SCHEMES)
    return f"{', '.join(others)} or {last}"
