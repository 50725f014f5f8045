"""One picture, many viewers: the newest frame for each, as soon as it can take it."""

from __future__ import annotations

__all__ = ["Facts", "FullError", "Hub", "View", "Viewer"]

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from threading import Lock

import cv2

from onnxcam.errors import ServerError
from onnxcam.runtime.closing import Closing
from onnxcam.runtime.live.frames import LiveFrame
from onnxcam.runtime.preprocess import Picture
from onnxcam.runtime.server.metrics import Histogram


class FullError(ServerError):
    """As many look on as may."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a frame says, without its pixels.

    top: the five likeliest classes as (index, label, probability), best first; empty where there are no classes.
    """

    number: int
    taken: float
    rate: float
    class_index: int | None
    label: str | None
    name: str
    score: float
    method: str | None
    top: tuple[tuple[int, str | None, float], ...]

    @classmethod
    def of(cls, frame: LiveFrame) -> Facts:
        """Those of ``frame``."""
        shown = frame.explanation
        return cls(
            number=frame.number,
            taken=frame.taken,
            rate=frame.rate,
            class_index=shown.class_index,
            label=shown.label,
            name=shown.name,
            score=shown.score,
            method=shown.method,
            top=tuple(shown.top(5)),
        )


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """A frame as it is sent: the ``sequence``-th that was published, as JPEG."""

    sequence: int
    facts: Facts
    jpeg: bytes


class Hub(Closing):
    """Takes frames from the loop's thread and gives the newest to every viewer.

    A frame becomes a JPEG once, however many look on, and only while somebody does. The hub holds the newest frame and
    the JPEG of the newest that was looked at, no more: who cannot keep up misses frames.

    limit: how many may look on at once.
    quality: of the JPEGs, 1-100; largest: their longer side in pixels, to which larger frames are reduced.
    ages: how old frames were when they were published, in seconds.
    encoded, skipped: how many frames became JPEGs, and how many some viewer missed.
    """

    def __init__(
        self,
        *,
        limit: int = 16,
        quality: int = 80,
        largest: int = 1920,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limit, self.clock = limit, clock
        self.ages = Histogram()
        self.encoded = self.skipped = 0
        self._quality, self._largest = quality, largest
        self._lock = Lock()
        self._newest: LiveFrame | None = None
        self._sequence = 0
        self._view: View | None = None
        self._viewers: set[Viewer] = set()
        self._encoder = ThreadPoolExecutor(max_workers=1, thread_name_prefix="onnxcam-jpeg")
        self._closed = False

    @property
    def viewers(self) -> int:
        """How many look on now."""
        return len(self._viewers)

    @property
    def newest(self) -> LiveFrame | None:
        """The frame that was published last."""
        return self._newest

    @property
    def closed(self) -> bool:
        """Whether there will be no further frame."""
        return self._closed

    def publish(self, frame: LiveFrame) -> None:
        """Make ``frame`` the newest. Any thread; never waits for a viewer."""
        self.ages.observe(max(self.clock() - frame.taken, 0.0))
        with self._lock:
            if self._closed:
                return
            self._newest = frame
            self._sequence += 1
            viewers = list(self._viewers)
        for viewer in viewers:
            viewer.wake()

    def close(self) -> None:
        """End all viewers. May be called twice."""
        with self._lock:
            self._closed = True
            viewers = list(self._viewers)
        for viewer in viewers:
            viewer.wake()
        self._encoder.shutdown(wait=True, cancel_futures=True)
        with self._lock:
            self._newest = self._view = None

    @asynccontextmanager
    async def viewer(self) -> AsyncIterator[Viewer]:
        """One who looks on, in the running event loop. Raises `FullError` if there are ``limit`` already."""
        viewer = Viewer(self)
        with self._lock:
            if len(self._viewers) >= self.limit:
                raise FullError(f"{self.limit} viewers look on already, as many as may: close one of their pages")
            self._viewers.add(viewer)
        try:
            yield viewer
        finally:
            with self._lock:
                self._viewers.discard(viewer)
                if not self._viewers:
                    self._view = None

    def news(self, seen: int) -> bool:
        """Whether a frame came after the ``seen``-th."""
        return self._sequence > seen

    async def view(self) -> View | None:
        """The newest frame as JPEG; None if there is none, or the hub was closed."""
        try:
            made = self._encoder.submit(self._encode)
        except RuntimeError:  # closed
            return None
        try:
            return await asyncio.wrap_future(made)
        except asyncio.CancelledError:
            if self._closed:  # it was the hub that cancelled, not the caller
                return None
            raise

    def _encode(self) -> View | None:
        """In the encoder's thread alone, so that a frame asked for by several is encoded once."""
        with self._lock:
            sequence, frame, view = self._sequence, self._newest, self._view
        if frame is None or (view is not None and view.sequence == sequence):
            return view
        jpeg = _jpeg(frame.drawn, self._quality, self._largest)
        view = View(sequence, Facts.of(frame), jpeg)
        with self._lock:
            self.encoded += 1
            self._view = view if self._viewers else None
        return view


class Viewer:
    """One who looks on, at the pace it asks for frames. Made by `Hub.viewer`."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._seen = 0
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()

    def wake(self) -> None:
        """Tell it of a new frame, or of the end. Any thread."""
        with suppress(RuntimeError):  # its event loop has ended
            self._loop.call_soon_threadsafe(self._event.set)

    async def next(self, patience: float = 1.0) -> View | None:
        """The newest frame that it has not seen yet; None if none came within ``patience`` seconds, or at the end."""
        self._event.clear()
        if not self._hub.news(self._seen) and not self._hub.closed:
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._event.wait(), patience)
        if self._hub.closed or not self._hub.news(self._seen):
            return None
        view = await self._hub.view()
        if view is not None:
            self._hub.skipped += view.sequence - self._seen - 1 if self._seen else 0
            self._seen = view.sequence
        return view


def _jpeg(picture: Picture, quality: int, largest: int) -> bytes:
    ratio = largest / max(picture.shape[:2])
    if ratio < 1:
        picture = cv2.resize(picture, None, fx=ratio, fy=ratio, interpolation=cv2.INTER_AREA)
    done, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise ServerError(f"a frame of {picture.shape[1]} x {picture.shape[0]} pixels cannot be made a JPEG")
    return bytes(data)
