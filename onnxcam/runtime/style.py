"""Names of what a rendering can look like. Free of heavy imports, so that ``--help`` is instantaneous."""

from __future__ import annotations

__all__ = [
    "COLORMAPS",
    "DEFAULT_ALPHA",
    "DEFAULT_COLORMAP",
    "DEFAULT_CUT",
    "DEFAULT_HOLD",
    "DEFAULT_LAYOUT",
    "DEFAULT_SCALE",
    "DEFAULT_SMOOTHING",
    "LAYOUTS",
    "Layout",
]

from typing import Literal, get_args

Layout = Literal["overlay", "side-by-side", "heatmap"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)

COLORMAPS = (
    "turbo", "jet", "viridis", "inferno", "magma", "plasma", "cividis", "parula", "hot", "cool", "bone", "gray",
)  # fmt: skip
"""``gray`` is a ramp from black to white, the others are OpenCV's ``COLORMAP_<NAME>``."""

DEFAULT_LAYOUT: Layout = "overlay"
DEFAULT_ALPHA = 0.5
DEFAULT_COLORMAP = "turbo"

DEFAULT_SMOOTHING = 0.15
DEFAULT_SCALE = 2.0
DEFAULT_HOLD = 0.1
DEFAULT_CUT = 0.1
"""See `onnxcam.runtime.calm.Calm`."""
