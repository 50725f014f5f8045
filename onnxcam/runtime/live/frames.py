"""What the live loop gives to whoever looks on."""

from __future__ import annotations

__all__ = ["LiveFrame"]

from dataclasses import dataclass

from onnxcam.runtime.explanation import Explanation
from onnxcam.runtime.preprocess import Picture


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LiveFrame:
    """One frame of a camera, explained and drawn.

    number: counts the explained frames from 0.
    taken: `time.monotonic` when the camera gave it; its age is what has passed since.
    explanation: of it; `Explanation.picture` is the frame itself.
    drawn: uint8 BGR [H, W, 3] as it is shown.
    rate: explained frames per second, lately.
    """

    number: int
    taken: float
    explanation: Explanation
    drawn: Picture
    rate: float
