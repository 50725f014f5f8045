"""The live loop: the newest frame, explained and drawn, to everyone who looks on."""

from __future__ import annotations

__all__ = ["Live", "View"]

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from threading import Event, Thread
from types import TracebackType
from typing import Any, TypeAlias

from onnxcam.runtime.calm import Calm
from onnxcam.runtime.explainer import DrawnFrame, Explainer, Look
from onnxcam.runtime.live.controls import Controls, Settings
from onnxcam.runtime.live.frames import LiveFrame
from onnxcam.runtime.live.newest import Grabber
from onnxcam.runtime.live.statistics import Rate
from onnxcam.runtime.pipeline import pipeline
from onnxcam.runtime.render import caption
from onnxcam.runtime.session import CamModel
from onnxcam.runtime.sources import Frame

View: TypeAlias = Callable[[LiveFrame], None]
"""Takes a frame from the loop's thread, and must not wait."""

_PATIENCE = 0.1  # seconds in which the loop notices that it is to end


class Live:
    """Explains the newest frame of ``grabber``, again and again, in a thread of its own; a context manager.

    One frame is in work at a time: what is shown is as new as the model is quick, whatever the camera's rate.

    views: everyone who gets the frames. choice: what else `CamModel.run` is told.
    explained: how many frames were. error: what ended it, None if its source's end or `stop` did.
    ended: is set when no more frames come.
    """

    def __init__(
        self,
        model: CamModel,
        grabber: Grabber,
        controls: Controls,
        views: Sequence[View],
        *,
        calm: Calm,
        choice: Mapping[str, Any] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.explained = 0
        self.error: BaseException | None = None
        self.ended = Event()
        self._model, self._grabber, self._controls, self._views = model, grabber, controls, views
        self._choice = dict(choice or {})
        self._clock = clock
        self._settings = controls.settings
        self._explainer = Explainer(model, self._look, calm)
        self._rate = Rate()
        self._stopped = Event()
        self._thread = Thread(target=self._run, name="onnxcam-live", daemon=True)

    def __enter__(self) -> Live:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()
        self._thread.join()

    def stop(self) -> None:
        """End after the frame in work."""
        self._stopped.set()

    def _run(self) -> None:
        try:
            shown = pipeline(self._frames(), self._model, self._explainer, self._show, overlapping=False)
            with closing(shown):
                for _ in shown:
                    pass
        except Exception as error:  # noqa: BLE001 raised again by whoever runs the loop
            self.error = error
        finally:
            self.ended.set()

    def _frames(self) -> Generator[Frame, None, None]:
        """The newest, or while it stands still the last, again whenever the settings change."""
        latest: Frame | None = None
        while not self._stopped.is_set():
            before, self._settings = self._settings, self._controls.settings
            if self._settings.paused and latest is not None:
                if before == self._settings:
                    self._stopped.wait(_PATIENCE / 2)
                else:
                    yield replace(latest, taken=self._clock())
                continue
            frame = self._grabber.next(timeout=_PATIENCE)
            if frame is not None:
                latest = frame
                yield frame
            elif self._grabber.ended:
                return

    def _show(self, drawn: DrawnFrame) -> LiveFrame:
        self.explained += 1
        rate = self._rate.add(self._clock())
        picture, taken = drawn.frame.picture, drawn.frame.taken
        if self._settings.figures:
            picture = caption(picture, [f"{rate:.0f} fps  {(self._clock() - taken) * 1e3:.0f} ms"], corner="right")
        frame = LiveFrame(
            number=self.explained - 1, taken=taken, explanation=drawn.explanation, drawn=picture, rate=rate
        )
        for view in self._views:
            view(frame)
        return frame

    def _look(self) -> Look:
        return look(self._settings, self._model, self._choice)

    def raise_error(self) -> None:
        """Raise what ended the loop, if anything did."""
        if self.error is not None:
            raise self.error


def look(settings: Settings, model: CamModel, choice: Mapping[str, Any]) -> Look:
    """What ``settings`` mean to the model and to the drawing; ``choice`` is what they leave open."""
    wanted = settings.class_choice
    several = None if wanted == -1 else [wanted] * model.explained
    asked = several if model.explained > 1 else None if wanted == -1 else wanted
    style = {name: getattr(settings, name) for name in ("layout", "alpha", "colormap", "caption")}
    return Look(choice={**choice, "method": settings.method, "class_index": asked}, style=style)
