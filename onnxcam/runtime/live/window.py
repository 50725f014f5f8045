"""A window on the screen, for the live picture."""

from __future__ import annotations

__all__ = ["Window", "screen_problem", "with_help"]

import os
import sys

import cv2

from onnxcam.errors import OutputError
from onnxcam.runtime.live.keys import HELP
from onnxcam.runtime.preprocess import Picture
from onnxcam.runtime.render import caption


def screen_problem() -> str | None:
    """Why no window can be opened here; None where it may."""
    if not hasattr(cv2, "imshow") or "GUI:                           NONE" in cv2.getBuildInformation():
        return "this OpenCV was built without windows"
    if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return "there is no screen here"
    return None


class Window:
    """A window that keeps the picture's proportions. To be used in the main thread alone.

    Raises `OutputError` where there is no screen: trying would end the program.
    """

    def __init__(self, title: str) -> None:
        problem = screen_problem()
        if problem:
            raise OutputError(f"{problem}: look at the live picture in a browser with 'onnxcam webcam --serve'")
        self._title = title
        self._shape: tuple[int, ...] = ()
        os.environ.setdefault("QT_LOGGING_RULES", "*=false")  # it misses fonts that are not used
        cv2.namedWindow(title, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO | cv2.WINDOW_GUI_NORMAL)

    def close(self) -> None:
        """Take it from the screen."""
        cv2.destroyAllWindows()

    @property
    def closed(self) -> bool:
        """Whether it was closed by hand."""
        try:
            return bool(self._shape) and cv2.getWindowProperty(self._title, cv2.WND_PROP_VISIBLE) < 1
        except cv2.error:
            return True

    def show(self, picture: Picture) -> None:
        """Show ``picture`` (uint8 BGR); the window takes its proportions, anew where they change."""
        cv2.imshow(self._title, picture)
        if picture.shape != self._shape:
            self._shape = picture.shape
            height, width = picture.shape[:2]
            share = min(1280 / width, 720 / height)
            cv2.resizeWindow(self._title, round(width * share), round(height * share))

    def key(self, milliseconds: int) -> str:
        """The key that was pressed within so many milliseconds, or nothing."""
        code = cv2.waitKey(milliseconds)
        return chr(code & 0xFF) if code >= 0 and 0 < (code & 0xFF) < 128 else ""


def with_help(picture: Picture) -> Picture:
    """``picture``, darkened, under the list of keys."""
    return caption(cv2.convertScaleAbs(picture, alpha=0.25), [f"{keys}:  {what}" for keys, what in HELP])
