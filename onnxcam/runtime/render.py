"""Pictures of heat: overlay, side by side, heat map alone, and captions. All uint8 BGR."""

from __future__ import annotations

__all__ = ["boxed", "caption", "colorize", "outlined", "overlay", "panels", "render", "side_by_side"]

import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from onnxcam.errors import OnnxCamError, nearest_names
from onnxcam.runtime.geometry import project
from onnxcam.runtime.preprocess import Picture
from onnxcam.runtime.style import COLORMAPS, DEFAULT_ALPHA, DEFAULT_COLORMAP, DEFAULT_LAYOUT, LAYOUTS, Layout

if TYPE_CHECKING:
    from onnxcam.runtime.explanation import Explanation

MINIMUM_CAPITAL = 8
"""Height in pixels of a capital letter below which nobody reads it."""

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
    peak: the map's value that is drawn hottest, for one scale over many frames; None is this map's own maximum.
    Raises `OnnxCamError` for an unknown layout or colour map, or an alpha outside 0-1.
    """
    if layout not in LAYOUTS:
        raise OnnxCamError(_unknown("layout", layout, LAYOUTS))
    heatmap = explanation.scaled_heatmap(peak)
    drawn = (
        colorize(heatmap, colormap)
        if layout == "heatmap"
        else overlay(explanation.picture, heatmap, alpha=alpha, colormap=colormap)
    )
    if explanation.region is not None:
        drawn = outlined(drawn, project(explanation.region, explanation.placement))
    if explanation.boxes is not None:
        drawn = boxed(drawn, explanation.boxes)
    if layout == "side-by-side":
        drawn = side_by_side(explanation.picture, drawn)
    return _captioned(drawn, [explanation.caption]) if caption else drawn


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
    kept, tint = _blend_tables(alpha, colormap)
    heat = _quantized(heatmap)
    share = cv2.cvtColor(cv2.LUT(heat, kept), cv2.COLOR_GRAY2BGR)
    return cv2.add(cv2.multiply(frame_bgr, share, scale=1 / 255), cv2.applyColorMap(heat, tint))


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


def boxed(image: Picture, boxes: NDArray[np.float32]) -> Picture:
    """A copy of ``image`` with ``boxes``, left, top, right and bottom in pixels: white within black."""
    copy: Picture = image.copy()
    edges = np.array([image.shape[1], image.shape[0]] * 2)
    for color, width in _pens(image):
        for left, top, right, bottom in np.rint(boxes.clip(-width, edges + width)).astype(int).tolist():
            cv2.rectangle(copy, (left, top), (right - 1, bottom - 1), color, width, cv2.LINE_AA)
    return copy


def _pens(image: Picture) -> list[tuple[tuple[int, int, int], int]]:
    """Colours and widths of a line that is seen on any picture: white within black."""
    width = max(1, round(0.002 * (image.shape[0] * image.shape[1]) ** 0.5))
    return [((0, 0, 0), 3 * width), ((255, 255, 255), width)]


def side_by_side(picture: Picture, other: Picture) -> Picture:
    """Two pictures [H, W, 3] of one height as one [H, W + W', 3]."""
    return cv2.hconcat([picture, other])


def caption(image: Picture, lines: Sequence[str]) -> Picture:
    """A copy of ``image`` (uint8 BGR) with ``lines`` in its upper left corner, white on a darkened box.

    The letters grow with the picture. A line that does not fit ends in ``...``, and one of which nothing fits is left
    out. OpenCV's font is ASCII: accents are dropped, other letters become ``?``.
    """
    image = image.copy()
    height, width = image.shape[:2]
    capital = min(max(MINIMUM_CAPITAL, round(0.03 * (height * width) ** 0.5)), max(height // 4, 1))
    scale = cv2.getFontScaleFromHeight(_FONT, capital)
    thickness = max(1, round(capital / 12))
    margin = max(1, capital // 2)
    step = capital + margin + margin // 2  # room for what hangs below the line
    fitting = [_elided(_ascii(line), scale, thickness, width - 2 * margin) for line in lines]
    fitting = [line for line in fitting if line][: height // step]
    if not fitting:
        return image
    right = 2 * margin + max(cv2.getTextSize(line, _FONT, scale, thickness)[0][0] for line in fitting)
    box = image[: min(len(fitting) * step + margin, height), : min(right, width)]
    np.copyto(box, cv2.convertScaleAbs(box, alpha=0.3))
    for number, line in enumerate(fitting):
        origin = (margin, margin + capital + number * step)
        cv2.putText(image, line, origin, _FONT, scale, (255, 255, 255), thickness, cv2.LINE_AA)
    return image


def _elided(text: str, scale: float, thickness: int, width: int) -> str:
    """``text``, or as much of its beginning as fits into ``width`` pixels with ``...`` behind it.

    The first word, a number as a rule, is shown whole or not at all.
    """
    first = text.split(" ")[0]
    shorter = (text[:length].rstrip() + "..." for length in range(len(text) - 1, len(first), -1))
    for shown in (text, *shorter, first):
        if cv2.getTextSize(shown, _FONT, scale, thickness)[0][0] <= width:
            return shown
    return ""


def _ascii(text: str) -> str:
    plain = unicodedata.normalize("NFKD", text.translate(_TRANSLITERATION))
    kept = "".join(letter for letter in plain if not unicodedata.combining(letter))
    return kept.encode("ascii", "replace").decode()


_captioned = caption  # within `render` that name is its option


@lru_cache(maxsize=8)
def _blend_tables(alpha: float, colormap: str) -> tuple[Picture, Picture]:
    """By heat 0-255: the share of the picture that is kept [256, 1], and the colour that is added [256, 1, 3]."""
    if not 0 <= alpha <= 1:
        raise OnnxCamError(f"alpha is {alpha}: it takes a number from 0 to 1")
    weight = alpha * np.arange(256)[:, None] / 255
    tint = np.rint(weight[..., None] * _colors(colormap))
    return np.rint(255 * (1 - weight)).astype(np.uint8), tint.astype(np.uint8)


@lru_cache(maxsize=32)
def _colors(colormap: str) -> Picture:
    """BGR by heat 0-255, [256, 1, 3]."""
    if colormap not in COLORMAPS:
        raise OnnxCamError(_unknown("colour map", colormap, COLORMAPS))
    ramp = np.arange(256, dtype=np.uint8)[:, None]
    if colormap == "gray":
        return ramp[..., None].repeat(3, axis=2)
    return cv2.applyColorMap(ramp, getattr(cv2, f"COLORMAP_{colormap.upper()}"))


def _quantized(heatmap: NDArray[np.float32]) -> Picture:
    return cv2.convertScaleAbs(heatmap, alpha=255)


def _unknown(what: str, name: str, known: Sequence[str]) -> str:
    return f"there is no {what} '{name}': {nearest_names(name, known) or 'take one of ' + ', '.join(known)}"
