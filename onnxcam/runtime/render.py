"""Pictures of heat: overlay, side by side, heat map alone, and captions. All uint8 BGR."""

from __future__ import annotations

__all__ = ["boxed", "caption", "colorize", "outlined", "overlay", "panels", "render", "side_by_side"]

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from onnxcam.errors import OnnxCamError, unknown_name
from onnxcam.runtime.geometry import BAND, project
from onnxcam.runtime.preprocess import Picture
from onnxcam.runtime.style import COLORMAPS, DEFAULT_ALPHA, DEFAULT_COLORMAP, DEFAULT_LAYOUT, LAYOUTS, Layout

if TYPE_CHECKING:
    from onnxcam.runtime.explanation import Explanation

MINIMUM_CAPITAL = 8
"""Height in pixels of a capital letter below which nobody reads it."""

_CAPTION_SHARE = 0.03
_LABEL_SHARE = 0.02
"""Height of a capital letter over the geometric mean of the picture's sides, in a caption and at a box."""
_WHITE = (255, 255, 255)
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_TRANSLITERATION = str.maketrans(
    {"ß": "ss", "æ": "ae", "Æ": "AE", "œ": "oe", "Œ": "OE", "ø": "o", "Ø": "O", "ł": "l", "Ł": "L", "đ": "d", "ı": "i"}
    | dict.fromkeys("‘’‚′", "'") | dict.fromkeys("“”„″", '"') | dict.fromkeys("–—−‐", "-")
)  # fmt: skip


def render(
    explanation: Explanation,
    *,
    layout: Layout = DEFAULT_LAYOUT,
    alpha: float = DEFAULT_ALPHA,
    colormap: str = DEFAULT_COLORMAP,
    caption: bool = True,
    peak: float | None = None,
) -> Picture:
    """``explanation`` as a picture: uint8 BGR [H, W, 3], and [H, 2W, 3] side by side.

    alpha: 0-1, how much the hottest pixel hides of the picture.
    caption: whether it says what was explained: at a detector's boxes, or in the corner where there is none.
    peak: the map's value that is drawn hottest, for one scale over many frames; None is this map's own maximum.
    Raises `OnnxCamError` for an unknown layout or colour map, or an alpha outside 0-1.
    """
    if layout not in LAYOUTS:
        raise OnnxCamError(unknown_name("layout", layout, LAYOUTS))
    drawn = (
        colorize(explanation.scaled_heatmap(peak), colormap)
        if layout == "heatmap"
        else _overlaid(explanation.picture, explanation.heat_bands(peak), alpha=alpha, colormap=colormap)
    )
    at_boxes = explanation.box_captions if caption else []
    if explanation.region is not None:
        drawn = outlined(drawn, project(explanation.region, explanation.placement))
    if explanation.boxes is not None:
        drawn = boxed(drawn, explanation.boxes, at_boxes)
    if layout == "side-by-side":
        drawn = side_by_side(explanation.picture, drawn)
    if caption and not at_boxes:
        _write(drawn, [explanation.caption])
    return drawn


def panels(explanation: Explanation, *, layout: Layout = DEFAULT_LAYOUT, **style: Any) -> Picture:
    """`render` of each class of the picture that was explained, side by side: uint8 BGR [H, K W, 3].

    With the layout ``side-by-side`` the picture itself stands once, before them.
    """
    if not explanation.others:
        return render(explanation, layout=layout, **style)
    beside = layout == "side-by-side"
    drawn = [render(each, layout="overlay" if beside else layout, **style) for each in explanation.classes]
    return cv2.hconcat([explanation.picture, *drawn] if beside else drawn)


def overlay(
    frame_bgr: Picture, heatmap: NDArray[np.float32], *, alpha: float = DEFAULT_ALPHA, colormap: str = DEFAULT_COLORMAP
) -> Picture:
    """``frame_bgr`` [H, W, 3] under the colours of ``heatmap`` [H, W] in 0-1.

    Each pixel is mixed by ``alpha`` times its heat, so that where there is no heat the picture stands unaltered, bit
    for bit. Nothing is rescaled: equal heat looks equal in every frame.
    """
    height, width = heatmap.shape
    rows = (slice(top, min(top + BAND, height)) for top in range(0, height, BAND))
    bands = (((band, slice(width)), heatmap[band]) for band in rows)
    return _overlaid(frame_bgr, bands, alpha=alpha, colormap=colormap)


def _overlaid(
    frame_bgr: Picture,
    bands: Iterable[tuple[tuple[slice, slice], NDArray[np.float32]]],
    *,
    alpha: float,
    colormap: str,
) -> Picture:
    """`overlay` of heat that comes in `bands`."""
    tint = _tint(alpha, colormap)
    drawn: Picture = frame_bgr.copy()
    for where, heatmap in bands:
        heat = _quantized(heatmap)
        left, top, width, height = cv2.boundingRect(heat)
        if not width:
            continue
        inner = slice(top, top + height), slice(left, left + width)
        here, heat = drawn[where][inner], heat[inner]
        kept = cv2.cvtColor(cv2.convertScaleAbs(heat, alpha=-alpha, beta=255), cv2.COLOR_GRAY2BGR)
        cv2.multiply(here, kept, dst=kept, scale=1 / 255)
        cv2.add(kept, cv2.applyColorMap(heat, tint), dst=here)
    return drawn


def colorize(heatmap: NDArray[np.float32], colormap: str = DEFAULT_COLORMAP) -> Picture:
    """``heatmap`` [H, W] in 0-1 in colours alone."""
    return cv2.applyColorMap(_quantized(heatmap), _colors(colormap).reshape(256, 1, 3))


def outlined(image: Picture, region: NDArray[np.float32]) -> Picture:
    """A copy of ``image`` with the outline of ``region`` [H, W], where it is at least half: white within black."""
    marked = (region >= min(0.5, float(region.max()) / 2 or 1.0)).astype(np.uint8)
    outlines, _ = cv2.findContours(marked, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    copy: Picture = image.copy()
    for color, width in _pens(image):
        cv2.drawContours(copy, outlines, -1, color, width, cv2.LINE_AA)
    return copy


def boxed(image: Picture, boxes: NDArray[np.float32], captions: Sequence[str] = ()) -> Picture:
    """A copy of ``image`` with ``boxes``, left, top, right and bottom in pixels: white within black.

    captions: of each box, written above its upper left corner, or below it where there is no room.
    """
    copy: Picture = image.copy()
    edges = np.array([image.shape[1], image.shape[0]] * 2)
    for color, width in _pens(image):
        for left, top, right, bottom in np.rint(boxes.clip(-width, edges + width)).astype(int).tolist():
            cv2.rectangle(copy, (left, top), (right - 1, bottom - 1), color, width, cv2.LINE_AA)
    for (left, top, *_), text in zip(boxes.clip(0, edges - 1).astype(int).tolist(), captions, strict=False):
        _label(copy, text, left, top)
    return copy


def _label(image: Picture, text: str, left: int, top: int) -> None:
    """Write ``text`` on a darkened box upon the row ``top``, from the column ``left`` on or as far right as it fits."""
    height, width = image.shape[:2]
    pen = _Pen.of(image, _LABEL_SHARE)
    shown = _elided(_ascii(text), pen.scale, pen.thickness, width - 2 * pen.margin)
    if not shown:
        return
    right = min(left + pen.width(shown) + 2 * pen.margin, width)
    left = max(right - pen.width(shown) - 2 * pen.margin, 0)
    rows = pen.capital + 2 * pen.margin
    upper = top - rows if top >= rows else top
    if upper + rows > height:
        return
    box = image[upper : upper + rows, left:right]
    np.copyto(box, cv2.convertScaleAbs(box, alpha=0.3))
    pen.write(image, shown, left + pen.margin, upper + pen.margin + pen.capital)


def _pens(image: Picture) -> list[tuple[tuple[int, int, int], int]]:
    """Colours and widths of a line that is seen on any picture: white within black."""
    width = max(1, round(0.002 * (image.shape[0] * image.shape[1]) ** 0.5))
    return [((0, 0, 0), 3 * width), (_WHITE, width)]


def side_by_side(picture: Picture, other: Picture) -> Picture:
    """Two pictures [H, W, 3] of one height as one [H, W + W', 3]."""
    return cv2.hconcat([picture, other])


def caption(image: Picture, lines: Sequence[str], *, corner: Literal["left", "right", "bottom"] = "left") -> Picture:
    """A copy of ``image`` (uint8 BGR) with ``lines`` in that upper corner, or at its lower left, white on a dark box.

    The letters grow with the picture. A line that does not fit ends in ``...``, and one of which nothing fits is left
    out. OpenCV's font is ASCII: accents are dropped, other letters become ``?``.
    """
    copy: Picture = image.copy()
    _write(copy, lines, corner)
    return copy


def _write(image: Picture, lines: Sequence[str], corner: str = "left") -> None:
    """`caption` on ``image`` itself."""
    height, width = image.shape[:2]
    pen = _Pen.of(image, _CAPTION_SHARE)
    step = pen.capital + pen.margin + pen.margin // 2  # room for what hangs below the line
    fitting = [_elided(_ascii(line), pen.scale, pen.thickness, width - 2 * pen.margin) for line in lines]
    fitting = [line for line in fitting if line][: height // step]
    if not fitting:
        return
    across = min(2 * pen.margin + max(map(pen.width, fitting)), width)
    left = width - across if corner == "right" else 0
    down = min(len(fitting) * step + pen.margin, height)
    top = height - down if corner == "bottom" else 0
    box = image[top : top + down, left : left + across]
    np.copyto(box, cv2.convertScaleAbs(box, alpha=0.3))
    for number, line in enumerate(fitting):
        pen.write(image, line, left + pen.margin, top + pen.margin + pen.capital + number * step)


@dataclass(frozen=True, slots=True)
class _Pen:
    """White letters whose capitals are ``capital`` pixels high."""

    capital: int
    scale: float
    thickness: int
    margin: int

    @classmethod
    def of(cls, image: Picture, share: float) -> _Pen:
        """One for letters of that ``share`` of the size of ``image``, but as large as can be read."""
        height, width = image.shape[:2]
        capital = min(max(MINIMUM_CAPITAL, round(share * (height * width) ** 0.5)), max(height // 4, 1))
        scale = cv2.getFontScaleFromHeight(_FONT, capital)
        return cls(capital, scale, max(1, round(capital / 12)), max(1, capital // 2))

    def width(self, text: str) -> int:
        """Of ``text``, in pixels."""
        return _width(text, self.scale, self.thickness)

    def write(self, image: Picture, text: str, left: int, baseline: int) -> None:
        cv2.putText(image, text, (left, baseline), _FONT, self.scale, _WHITE, self.thickness, cv2.LINE_AA)


def _elided(text: str, scale: float, thickness: int, width: int) -> str:
    """``text``, or as much of its beginning as fits into ``width`` pixels with ``...`` behind it.

    The first word, a number as a rule, is shown whole or not at all.
    """
    first = text.split(" ")[0]
    shorter = (text[:length].rstrip() + "..." for length in range(len(text) - 1, len(first), -1))
    for shown in (text, *shorter, first):
        if _width(shown, scale, thickness) <= width:
            return shown
    return ""


@lru_cache(maxsize=256)
def _width(text: str, scale: float, thickness: int) -> int:
    """Of ``text`` in pixels, which takes as long to find as to write it."""
    return int(cv2.getTextSize(text, _FONT, scale, thickness)[0][0])


def _ascii(text: str) -> str:
    plain = unicodedata.normalize("NFKD", text.translate(_TRANSLITERATION))
    kept = "".join(letter for letter in plain if not unicodedata.combining(letter))
    return kept.encode("ascii", "replace").decode()


@lru_cache(maxsize=8)
def _tint(alpha: float, colormap: str) -> Picture:
    """By heat 0-255: the colour that is added to what is kept of the picture, [256, 1, 3]."""
    if not 0 <= alpha <= 1:
        raise OnnxCamError(f"alpha is {alpha}: it takes a number from 0 to 1")
    weight = alpha * np.arange(256)[:, None] / 255
    return np.rint(weight[..., None] * _colors(colormap)).astype(np.uint8)


@lru_cache(maxsize=32)
def _colors(colormap: str) -> Picture:
    """BGR by heat 0-255, [256, 1, 3]."""
    if colormap not in COLORMAPS:
        raise OnnxCamError(unknown_name("colour map", colormap, COLORMAPS))
    ramp = np.arange(256, dtype=np.uint8)[:, None]
    if colormap == "gray":
        return ramp[..., None].repeat(3, axis=2)
    return cv2.applyColorMap(ramp, getattr(cv2, f"COLORMAP_{colormap.upper()}"))


def _quantized(heatmap: NDArray[np.float32]) -> Picture:
    return cv2.convertScaleAbs(heatmap, alpha=255)
