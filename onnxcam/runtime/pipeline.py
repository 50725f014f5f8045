"""From a source over the model to a sink: one piece of code for pictures in a folder, videos and cameras.

::

    sink ◄── draw ◄── explain ◄── prepare ◄── source

Where every frame counts, each stage runs a few frames `ahead` of the next in a thread of its own: FFmpeg, ONNX Runtime
and OpenCV release the interpreter lock while they work. Where the newest frame counts, they work `in_turn`: a frame
that waits between two stages grows old. Either way an error in any of them ends them all, and closing the last closes
the source.
"""

from __future__ import annotations

__all__ = ["ahead", "in_turn", "pipeline"]

from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TypeVar

from onnxcam.runtime.explainer import DrawnFrame, ExplainedFrame, Explainer, draw
from onnxcam.runtime.preprocess import Prepared
from onnxcam.runtime.session import CamModel
from onnxcam.runtime.sources import Frame

S = TypeVar("S")
T = TypeVar("T")

_DEPTH = 2  # frames between two stages: enough to even out their times, few enough for 4K


def pipeline(
    frames: Generator[Frame, None, None],
    model: CamModel,
    explainer: Explainer,
    sink: Callable[[DrawnFrame], T],
    *,
    every: int = 1,
    overlapping: bool,
) -> Generator[T, None, None]:
    """What ``sink`` makes of each of ``frames``, explained and drawn. To be closed, as `contextlib.closing` does.

    explainer: of ``model``. every: explain one frame in so many, and draw its heat on those up to the next.
    overlapping: whether the stages run ahead of each other, or each frame is done before the next is taken.
    """

    def prepare(frame: Frame) -> tuple[Frame, Prepared | None]:
        return frame, model.prepare(frame.picture) if frame.index % every == 0 else None

    def explain(item: tuple[Frame, Prepared | None]) -> ExplainedFrame:
        return explainer.explain(*item)

    if overlapping:
        return ahead(sink, ahead(draw, ahead(explain, ahead(prepare, frames))))
    return in_turn(lambda frame: sink(draw(explain(prepare(frame)))), frames)


def in_turn(function: Callable[[S], T], items: Generator[S, None, None]) -> Generator[T, None, None]:
    """``function`` of each item, in order, computed when it is asked for. Closing the generator closes ``items``."""
    with closing(items):
        for item in items:
            yield function(item)


def ahead(function: Callable[[S], T], items: Generator[S, None, None]) -> Generator[T, None, None]:
    """``function`` of each item, in order, computed in a thread of its own up to `_DEPTH` items before it is asked for.

    An error of ``function`` or ``items`` is raised here, at its place. Closing the generator waits for the item in
    work, then closes ``items`` too, so that a chain of these ends as a whole and leaves no thread.
    """

    def step() -> T | None:
        item = next(items, None)
        return None if item is None else function(item)

    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="onnxcam") as worker:
        pending = deque(worker.submit(step) for _ in range(_DEPTH))
        try:
            while (result := pending.popleft().result()) is not None:
                pending.append(worker.submit(step))
                yield result
        finally:
            for future in pending:
                future.cancel()
            worker.submit(items.close).result()
