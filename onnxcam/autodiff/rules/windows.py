"""The geometry of windows that slide over the spatial axes."""

from __future__ import annotations

__all__ = ["Window", "spatial", "windows"]

from collections.abc import Sequence
from dataclasses import dataclass, replace

import onnx_ir as ir

from onnxcam.autodiff.registry import Site


@dataclass(frozen=True, slots=True)
class Window:
    """How a window slides along one spatial axis of x.

    size: the length of x along the axis; None where it is not known when the graph is built.
    begin, end: the padding; None where it depends on an unknown size (auto_pad SAME).
    ceil: a last window that reaches beyond the padding counts too; None where runtimes differ.
    """

    size: int | None
    kernel: int
    stride: int
    dilation: int
    begin: int | None
    end: int | None
    ceil: bool | None = False

    @property
    def count(self) -> int | None:
        """The length of y along the axis, if known. (onnx 1.23 infers one too many for some ``ceil_mode``.)"""
        if self.size is None or self.begin is None or self.end is None or self.ceil is None:
            return None
        room = self.begin + self.size + self.end - self.extent
        if not self.ceil:
            return room // self.stride + 1
        last = -(-room // self.stride)
        return last if last * self.stride >= self.begin + self.size else last + 1  # none may start behind x

    @property
    def extent(self) -> int:
        """How many positions one window spans."""
        return self.dilation * (self.kernel - 1) + 1

    @property
    def reach(self) -> int | None:
        """How far beyond the end of x the last window reaches: the part of the end padding that is read.

        Negative where the last positions of x are read by no window.
        """
        count = self.count
        if self.size is None or count is None or self.begin is None:
            return None
        return (count - 1) * self.stride + self.extent - self.size - self.begin

    def dense(self) -> Window | None:
        """The window of stride 1 over x with this one's adjoint, if ``stride - 1`` zeros follow each element of dy.

        None where a size is unknown.
        """
        if self.size is None or self.count is None or self.begin is None:
            return None
        end = self.stride * self.count + self.extent - 1 - self.size - self.begin
        return replace(self, stride=1, end=end, ceil=False)


def windows(at: Site, x: ir.Value, kernel: Sequence[int]) -> list[Window]:
    """The windows of a convolution or pool over x, one for each spatial axis."""
    rank = len(kernel)
    strides = at.attribute("strides", [1] * rank)
    dilations = at.attribute("dilations", [1] * rank)
    pads = at.attribute("pads", [0] * (2 * rank))
    auto_pad = at.attribute("auto_pad", "NOTSET")
    ceil_mode = bool(at.attribute("ceil_mode", 0))
    ceil = None if ceil_mode and auto_pad == "VALID" else ceil_mode and auto_pad in ("", "NOTSET")
    sizes = spatial(x, rank)
    found = []
    for i in range(rank):
        extent = dilations[i] * (kernel[i] - 1) + 1
        begin, end = _padding(auto_pad, sizes[i], strides[i], extent, (pads[i], pads[i + rank]))
        found.append(Window(sizes[i], kernel[i], strides[i], dilations[i], begin, end, ceil))
    return found


def spatial(value: ir.Value, rank: int) -> list[int | None]:
    """The lengths of the spatial axes, None where unknown."""
    if value.shape is None:
        return [None] * rank
    return [dim if isinstance(dim, int) else None for dim in list(value.shape)[2:]]


def _padding(
    auto_pad: str, size: int | None, stride: int, extent: int, pads: tuple[int, int]
) -> tuple[int, int] | tuple[None, None]:
    """The padding at begin and end of one axis."""
    if auto_pad in ("", "NOTSET"):
        return pads
    if auto_pad == "VALID":
        return 0, 0
    if stride == 1:
        total = extent - 1
    elif size is None:
        return None, None
    else:
        total = max((-(-size // stride) - 1) * stride + extent - size, 0)
    less, more = total // 2, total - total // 2
    return (more, less) if auto_pad == "SAME_LOWER" else (less, more)
