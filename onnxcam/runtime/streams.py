"""Frames out of network streams."""

from __future__ import annotations

__all__ = ["SCHEMES", "StreamSource", "is_address", "masked"]

import re
from pathlib import Path
from urllib.parse import urlsplit

import av
from av.container.input import InputContainer

from onnxcam.errors import InputError
from onnxcam.runtime.sources import FORMATS, Frame, VideoSource

SCHEMES = ("rtsp", "rtsps", "http", "https", "udp", "tcp", "rtmp", "srt")
_PROTOCOLS = "rtsp,rtsps,rtp,tcp,udp,tls,http,https,httpproxy,crypto,rtmp,srt"
"""What a stream may lead FFmpeg to open: no file."""
_FORMATS = f"{FORMATS},rtsp,sdp,rtp,mpjpeg,hls,mp3,aac"
_TIMED_OUT = re.compile("timed out|immediate exit", re.IGNORECASE)


def is_address(text: str) -> bool:
    """Whether ``text`` names a network stream rather than a file."""
    return text.partition("://")[0].casefold() in SCHEMES and "://" in text


def masked(address: str) -> str:
    """``address`` without user, password and query, fit for messages and logs."""
    parts = urlsplit(address)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


class StreamSource(VideoSource):
    """The frames of the stream at ``address`` as they come; a context manager, to be iterated over once.

    address: of RTSP, HTTP (MJPEG, MPEG-TS, HLS), UDP, TCP, RTMP or SRT.
    stall_after: seconds without data after which opening or reading ends; ``problem`` then says so.

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
        try:
            return av.open(
                self._address,
                "r",
                container_options=options,
                timeout=(self._stall_after, self._stall_after),
                metadata_errors="replace",
            )
        except (OSError, av.FFmpegError, ValueError) as error:
            raise InputError(f"'{self.path}' cannot be opened: {self._reason(str(error))}") from None

    def _reason(self, error: str) -> str:
        if _TIMED_OUT.search(error):
            return f"nothing came for {self._stall_after:g} s"
        text = error.replace(self._address, "").strip(" :'")
        return text.partition("] ")[2].strip(" :'").casefold() or text or "no reason is given"

    def _missing(self, last: Frame, step: int) -> str | None:
        return "the stream ended" if self._lost is None else f"the stream broke off: {self._reason(self._lost)}"
