"""What is shown, recorded as a video while it goes on."""

from __future__ import annotations

__all__ = ["Recorder", "Tape", "recording_path"]

import time
from collections.abc import Callable
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from queue import Empty, Full, Queue
from threading import Thread

from onnxcam.errors import OnnxCamError
from onnxcam.runtime.closing import Closing
from onnxcam.runtime.fitting import fitted
from onnxcam.runtime.live.frames import LiveFrame
from onnxcam.runtime.live.newest import Tell
from onnxcam.runtime.sinks import VideoSink
from onnxcam.runtime.sources import Frame, VideoInfo, VideoSource

_NAME = "onnxcam_%Y%m%d_%H%M%S.mp4"  # of a recording that nobody named
_DEPTH = 4  # frames that wait for the encoder
_TICKS = 1000  # time stamps to the millisecond


class Recorder(Closing):
    """Writes `LiveFrame`s to the video ``path`` in a thread of its own; a context manager.

    rate: about how many frames come each second, which tells how long the last is shown.
    wait: whether whoever gives frames waits for the encoder, where none may be missed; otherwise those that it has no
        time for are left out, and counted as ``missed``.
    tell: is told ``recording``, ``recorded``, and ``recording failed`` with the reason: the disk may fill, and what is
        seen goes on. ``trouble`` is then that reason, and names the file that holds what came before.

    The file can be played up to its last two seconds whatever happens (see `VideoSink`). Frames of another size are
    fitted into that of the first; without a frame there is no file. Raises `OutputError` if ``path`` must not be
    written.
    """

    def __init__(
        self,
        path: Path,
        *,
        rate: Fraction,
        overwrite: bool = False,
        wait: bool = False,
        tell: Tell = lambda event, **facts: None,
    ) -> None:
        info = VideoInfo(
            width=0,
            height=0,
            average_rate=rate,
            time_base=Fraction(1, _TICKS),
            frames=None,
            duration=None,
            has_audio=False,
        )
        self.path = path
        self.missed = 0
        self.trouble: str | None = None
        self._wait, self._tell = wait, tell
        self._sink = VideoSink(path, info, overwrite=overwrite, recording=True)
        self._queue: Queue[LiveFrame | None] = Queue(_DEPTH)
        self._begun: float | None = None
        self._size: tuple[int, int] | None = None
        self._thread: Thread | None = Thread(target=self._run, name="onnxcam-recording", daemon=True)
        self._thread.start()
        tell("recording", file=str(path))

    def publish(self, frame: LiveFrame) -> None:
        """Record ``frame``."""
        if self.trouble or self._thread is None:
            return
        try:
            self._queue.put(frame, block=self._wait, timeout=None)
        except Full:
            self.missed += 1

    def close(self) -> None:
        """Make the recording whole and give it its name. May be called twice."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        self._queue.put(None)
        thread.join()
        if self.trouble is None and self._sink.frames:
            self._tell("recorded", file=str(self.path), frames=self._sink.frames, seconds=round(self._sink.duration, 3))

    def _run(self) -> None:
        try:
            with self._sink as sink:
                while (frame := self._queue.get()) is not None:
                    sink.write(self._frame(frame))
        except OnnxCamError as error:
            self._fail(str(error))
        except Exception as error:  # noqa: BLE001 whoever gives frames must neither wait for it nor end with it
            self._fail(f"'{self.path}' cannot be written: {type(error).__name__}: {error}")

    def _fail(self, reason: str) -> None:
        part = self._sink.part
        try:
            VideoSource(part).close()
            reason += f"; what came before is in '{part}'"
        except OnnxCamError:
            with suppress(OSError):
                part.unlink()
        self.trouble = reason
        self._tell("recording failed", reason=reason)
        self._drain()

    def _drain(self) -> None:
        """Let nobody wait for an encoder that is gone."""
        while True:
            with suppress(Empty):
                if self._queue.get(timeout=1.0) is None:
                    return

    def _frame(self, live: LiveFrame) -> Frame:
        self._begun = live.taken if self._begun is None else self._begun
        self._size = self._size or live.drawn.shape[:2]
        pts = round((live.taken - self._begun) * _TICKS)
        return Frame(live.number, pts, 0, Fraction(1, _TICKS), fitted(live.drawn, *self._size))


def recording_path(text: str) -> Path:
    """The file that ``text`` names; ``%Y-%m-%d_%H%M%S`` and the like stand for the time now, as in `time.strftime`."""
    return Path(time.strftime(text)) if "%" in text else Path(text)


class Tape(Closing):
    """A recording that is started and ended while frames come; a context manager.

    start: makes the `Recorder` of the file that a text names. trouble: why one of them failed, or None.
    """

    def __init__(self, start: Callable[[str], Recorder]) -> None:
        self._start = start
        self._recorder: Recorder | None = None
        self.trouble: str | None = None

    @property
    def recording(self) -> bool:
        """Whether one is on, and goes well."""
        recorder = self._recorder
        return recorder is not None and recorder.trouble is None

    def publish(self, frame: LiveFrame) -> None:
        """Record ``frame``, if a recording is on."""
        recorder = self._recorder
        if recorder is not None:
            recorder.publish(frame)

    def start(self, text: str) -> None:
        """Begin to record into the file that ``text`` names. Raises `OutputError`."""
        self._recorder = self._start(text)

    def switch(self) -> str:
        """Begin, or end, and say so."""
        if self._recorder is None:
            self.start(_NAME)
            return "recording"
        name = self._recorder.path.name
        self.close()
        return self.trouble or f"recorded {name}"

    def close(self) -> None:
        """End the recording, if there is one, and make it whole."""
        recorder, self._recorder = self._recorder, None
        if recorder is not None:
            recorder.close()
            self.trouble = recorder.trouble or self.trouble
