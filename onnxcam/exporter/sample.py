"""A seeded input for a model: what checks run it on."""

from __future__ import annotations

__all__ = ["picture_input", "sample_feed"]

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnxcam.contract import Preprocess
from onnxcam.errors import ExportError

_SIDE = 224
"""Height and width where the graph leaves them open and no preprocessing says more."""
_THINNER = 14
"""By how much a volume's or clip's depth is less than the side of a picture."""


def picture_input(inputs: Sequence[ir.Value], name: str | None = None) -> ir.Value:
    """The input that takes the picture: the one called ``name``, else the first with four axes, or with five.

    Raises `ExportError` where there is none.
    """
    free = [x for x in inputs if not x.is_initializer()]
    if name is not None:
        found = [x for x in free if x.name == name]
    else:
        found = [x for axes in (4, 5) for x in free if x.shape is not None and len(x.shape) == axes] or free[:1]
    if not found:
        known = ", ".join(f"'{x.name}'" for x in free) or "none"
        raise ExportError(f"the model has no input '{name or 'for a picture'}': its inputs are {known}")
    return found[0]


def sample_feed(
    inputs: Sequence[ir.Value],
    *,
    image: ir.Value,
    preprocess: Preprocess | None = None,
    batch: int = 1,
    side: int = _SIDE,
    other: int = 1,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Standard normal values for every input without a default; ``batch`` of them where the graph leaves that open.

    side: height and width where the graph leaves them open and ``preprocess`` is None; ``other`` any other size.
    Whole numbers are drawn from 0–255 for the picture and are zero elsewhere.
    """
    rng = np.random.default_rng(seed)
    feed = {}
    for x in inputs:
        if x.is_initializer():
            continue
        if x.shape is None or x.dtype is None:
            raise ExportError(f"the shape of input '{x.name}' is unknown: it cannot be run here")
        last = len(x.shape) == 4 and isinstance(x.shape[3], int) and x.shape[3] <= 4
        places = (1, 2) if last else (2, 3)
        height, width = (preprocess.height, preprocess.width) if preprocess else (side, side)
        sizes = dict(zip(places, (height, width), strict=True)) if x is image else {}
        if x is image and len(x.shape) == 5:
            sizes = {2: side // _THINNER, 3: side // 2, 4: side // 2}
        sizes[0] = batch
        shape = [dim if isinstance(dim, int) else sizes.get(axis, other) for axis, dim in enumerate(x.shape)]
        dtype = x.dtype.numpy()
        if np.issubdtype(dtype, np.integer):
            feed[x.name or ""] = (
                rng.integers(0, 128 if dtype == np.int8 else 256, shape) if x is image else np.zeros(shape)
            ).astype(dtype)
        elif dtype == np.bool_:
            feed[x.name or ""] = np.ones(shape, dtype)
        else:
            feed[x.name or ""] = rng.standard_normal(shape).astype(dtype)
    return feed
