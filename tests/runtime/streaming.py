"""An MJPEG camera on loopback that does what a real one does on its bad days."""

from __future__ import annotations

import itertools
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import cv2
import numpy as np

WIDTH, HEIGHT = 64, 48


def shade(number: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """A picture that tells its number: grey of 4 times it."""
    return np.full((height, width, 3), 4 * number % 256, np.uint8)


class MjpegCamera:
    """Serves ``/`` as multipart JPEGs, 50 per second, numbered on; a context manager.

    behaviour: ``run``; ``stall``: accepts, and sends nothing more; ``garbage``: bytes that are no picture; ``large``:
    pictures of twice the size; ``refuse``: closes every connection at once.
    """

    def __init__(self, port: int = 0) -> None:
        self.behaviour = "run"
        self.connections = 0
        self.sent = itertools.count()
        camera = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                camera.connections += 1
                if camera.behaviour == "refuse":
                    self.close_connection = True
                    return
                self.send_response(200)
                self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
                self.end_headers()
                try:
                    while not camera._over.wait(0.02):
                        self._send()
                except OSError:
                    pass  # the reader left
                self.close_connection = True

            def _send(self) -> None:
                if camera.behaviour == "stall":
                    return
                number = next(camera.sent)
                scale = 2 if camera.behaviour == "large" else 1
                data = cv2.imencode(".jpg", shade(number, WIDTH * scale, HEIGHT * scale))[1].tobytes()
                if camera.behaviour == "garbage":
                    data = np.random.default_rng(number).bytes(700)
                head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
                self.wfile.write(head.encode() + data + b"\r\n")

            def log_message(self, *_: object) -> None:
                pass

        class Quiet(ThreadingHTTPServer):
            allow_reuse_address = True
            daemon_threads = True

            def handle_error(self, *_: object) -> None:
                pass  # a reader that left

        self._over = threading.Event()
        self._server = Quiet(("127.0.0.1", port), Handler)
        self.port = self._server.server_address[1]
        self.address = f"http://127.0.0.1:{self.port}/"
        self._thread = threading.Thread(target=lambda: self._server.serve_forever(0.02), daemon=True)
        self._thread.start()

    def __enter__(self) -> MjpegCamera:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Pull the plug."""
        self._over.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def eventually(condition, seconds: float = 10.0) -> None:
    """Wait until ``condition()`` holds; fail if it does not."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)
