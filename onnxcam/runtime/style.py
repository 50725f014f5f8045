"""Names of what a rendering can look like. Free of heavy imports, so that ``--help`` is instantaneous."""

from __future__ import annotations

__all__ = ["COLORMAPS", "DEFAULT_ALPHA", "DEFAULT_COLORMAP", "DEFAULT_LAYOUT", "LAYOUTS", "Layout"]

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
