"""An RTSP camera on loopback: H.264 in RTP over the connection itself (RFC 2326, section 10.12, and RFC 6184)."""

from __future__ import annotations

import base64
import contextlib
import socket
import threading
from collections.abc import Iterator

import av

from .streaming import HEIGHT, WIDTH, shade

_DESCRIPTION = """v=0
o=- 0 0 IN IP4 127.0.0.1
s=camera
c=IN IP4 0.0.0.0
t=0 0
m=video 0 RTP/AVP 96
a=rtpmap:96 H264/90000
a=fmtp:96 packetization-mode=1
a=control:track
""".replace("\n", "\r\n")

_X264 = {"preset": "ultrafast", "tune": "zerolatency", "qp": "4"}


class RtspCamera:
    """Serves ``/stream`` to one after another, 50 pictures per second, numbered on from 10; a context manager.

    login: ``user:password`` that it asks for. behaviour: ``run``, or ``stall``: it sends nothing more.
    """

    def __init__(self, port: int = 0, login: str = "") -> None:
        self.behaviour = "run"
        self._login = login
        self._over = threading.Event()
        self._server = socket.create_server(("127.0.0.1", port))
        self._server.settimeout(0.05)
        self.port = self._server.getsockname()[1]
        self.address = f"rtsp://127.0.0.1:{self.port}/stream"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def __enter__(self) -> RtspCamera:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Pull the plug."""
        self._over.set()
        self._thread.join()

    def _serve(self) -> None:
        with self._server:
            while not self._over.is_set():
                with contextlib.suppress(OSError), self._server.accept()[0] as connection:  # a reader that left
                    connection.settimeout(5)
                    self._attend(connection)

    def _attend(self, connection: socket.socket) -> None:
        """Answer until it is told to play, then play."""
        requests = connection.makefile("rb")
        while True:
            head = list(iter(lambda: requests.readline().decode().strip(), ""))
            if not head:
                return
            method, address, _ = head[0].split()
            headers = dict(line.split(": ", 1) for line in head[1:])
            status, body = self._answer(method, address, headers)
            lines = [f"RTSP/1.0 {status}", f"CSeq: {headers['CSeq']}", "Session: 1", f"Content-Length: {len(body)}"]
            lines += ["Transport: RTP/AVP/TCP;unicast;interleaved=0-1"] if method == "SETUP" else []
            lines += ["Content-Type: application/sdp"] if body else []
            lines += ['WWW-Authenticate: Basic realm="camera"'] if status.startswith("401") else []
            connection.sendall("\r\n".join([*lines, "", body]).encode())
            if method == "PLAY":
                self._play(connection)
                return

    def _answer(self, method: str, address: str, headers: dict[str, str]) -> tuple[str, str]:
        expected = f"Basic {base64.b64encode(self._login.encode()).decode()}"
        if self._login and method != "OPTIONS" and headers.get("Authorization") != expected:
            return "401 Unauthorized", ""
        if "/stream" not in address:
            return "404 Not Found", ""
        return "200 OK", _DESCRIPTION if method == "DESCRIBE" else ""

    def _play(self, connection: socket.socket) -> None:
        for packet in self._packets():
            connection.sendall(b"$\0" + len(packet).to_bytes(2, "big") + packet)

    def _packets(self) -> Iterator[bytes]:
        """RTP packets of pictures that go on until the plug is pulled."""
        written = _Packets()
        with av.open(written, "w", format="rtp", options={"packetsize": "1200"}) as media:
            stream = media.add_stream("libx264", rate=50, options=_X264)
            stream.width, stream.height, stream.pix_fmt, stream.gop_size = WIDTH, HEIGHT, "yuv420p", 10
            number = 0
            while not self._over.wait(0.02):
                if self.behaviour == "stall":
                    continue
                picture = av.VideoFrame.from_ndarray(shade(number + 10), format="bgr24")
                picture.pts = number
                media.mux(stream.encode(picture))
                yield from written.taken()
                number += 1


class _Packets:
    """A file that keeps each packet written to it, those of RTCP (RFC 5761, section 4) apart."""

    def __init__(self) -> None:
        self._kept: list[bytes] = []

    def write(self, packet: bytes) -> int:
        if not 72 <= packet[1] & 0x7F <= 76:
            self._kept.append(bytes(packet))
        return len(packet)

    def taken(self) -> list[bytes]:
        kept, self._kept = self._kept, []
        return kept
