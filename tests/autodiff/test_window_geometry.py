"""Convolutions and pools under any attributes, against PyTorch over an x that is padded in a step of its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812  its usual name
from hypothesis import given, settings
from hypothesis import strategies as st

from .gradient_check import Setting, case, distinct, equals_torch

CONVS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
MAX_POOLS = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}


@dataclass(frozen=True)
class Geometry:
    """Sizes of x and what a convolution or pool states of its windows, one value for each spatial axis."""

    sizes: Sequence[int]
    kernel: Sequence[int]
    strides: Sequence[int]
    dilations: Sequence[int]
    begins: Sequence[int]
    ends: Sequence[int]
    auto_pad: str
    ceil: bool
    dynamic: bool

    @property
    def attributes(self) -> str:
        text = f"kernel_shape={list(self.kernel)}, strides={list(self.strides)}"
        if set(self.dilations) != {1}:
            text += f", dilations={list(self.dilations)}"
        if self.ceil:
            text += ", ceil_mode=1"
        return text + (f', auto_pad="{self.auto_pad}"' if self.auto_pad else f", pads={[*self.begins, *self.ends]}")

    def pad(self, x: torch.Tensor, value: float, *, cut: bool = True) -> torch.Tensor:
        """x with its padding; and, where a last window reaches further under ``cut``, with that as well."""
        sides = []
        for (size, begin, end), (extent, stride, count) in zip(self._padding, self._counts, strict=True):
            sides.append((begin, max(end, (count - 1) * stride + extent - size - begin) if cut else end))
        return F.pad(x, [n for side in reversed(sides) for n in side], value=value)

    @property
    def counted_by_onnx(self) -> bool:
        """Whether no window would start behind x: onnx's shape inference (1.23) counts such ones under ceil_mode."""
        rows = zip(self._padding, self._counts, strict=True)
        return all(-(-(n + b + e - extent) // stride) + 1 == count for (n, b, e), (extent, stride, count) in rows)

    @property
    def _padding(self) -> list[tuple[int, int, int]]:
        found = []
        for i, size in enumerate(self.sizes):
            begin, end, stride = self.begins[i], self.ends[i], self.strides[i]
            if self.auto_pad:
                same = self.auto_pad.startswith("SAME")
                total = max((-(-size // stride) - 1) * stride + self.kernel[i] - size, 0) if same else 0
                begin = total - total // 2 if self.auto_pad == "SAME_LOWER" else total // 2
                end = total - begin
            found.append((size, begin, end))
        return found

    @property
    def _counts(self) -> list[tuple[int, int, int]]:
        found = []
        for i, (size, begin, end) in enumerate(self._padding):
            extent, stride = (self.kernel[i] - 1) * self.dilations[i] + 1, self.strides[i]
            room = size + begin + end - extent
            count = -(-room // stride) + 1 if self.ceil else room // stride + 1
            found.append((extent, stride, count - ((count - 1) * stride >= size + begin)))
        return found


@st.composite
def geometries(draw, *, pool: bool) -> Geometry:
    rank = draw(st.sampled_from([1, 2, 2, 3]))
    each = lambda low, high: draw(st.lists(st.integers(low, high), min_size=rank, max_size=rank))  # noqa: E731
    sizes, kernel, strides, dilations = each(7, 9), each(1, 3), each(1, 3), each(1, 3 if rank < 3 else 1)
    auto_pad = draw(st.sampled_from(["", "", "", "SAME_UPPER", "SAME_LOWER", "VALID"]))
    begins, ends = (each(0, 3) for _ in range(2))
    ceil = pool and not auto_pad and draw(st.booleans())
    if auto_pad.startswith("SAME"):  # ONNX Runtime's Conv refuses dilations, and our pools do
        dilations = [1] * rank
    if pool:  # ONNX Runtime's have less padding than kernel, and under SAME no stride beyond it
        begins, ends = ([min(p, k - 1) for p, k in zip(pads, kernel, strict=True)] for pads in (begins, ends))
        if auto_pad.startswith("SAME"):
            strides = [min(s, k) for s, k in zip(strides, kernel, strict=True)]
    found = Geometry(sizes, kernel, strides, dilations, begins, ends, auto_pad, ceil, draw(st.booleans()))
    if ceil and not found.counted_by_onnx:
        found = Geometry(sizes, kernel, strides, dilations, begins, ends, auto_pad, False, found.dynamic)
    return found


def many(**given_too):
    """60 examples, the same each time."""
    return lambda test: settings(max_examples=60, derandomize=True, deadline=None)(given(**given_too)(test))


@many(geometry=geometries(pool=False), group=st.integers(1, 2), outs=st.integers(1, 2), ins=st.integers(1, 2))
def test_conv(geometry, group, outs, ins):
    def of_torch(x, w):
        padded = geometry.pad(x, 0.0)
        return CONVS[x.ndim - 2](padded, w, None, geometry.strides, 0, geometry.dilations, group)

    row = case(
        f"Conv<group={group}, {geometry.attributes}>(x, w)",
        x=(2, group * ins, *geometry.sizes),
        w=(group * outs, ins, *geometry.kernel),
        wrt=["x"] if geometry.dynamic and geometry.auto_pad.startswith("SAME") else None,
        static=["w"],
        torch=of_torch,
    )
    equals_torch(row, Setting(dynamic=geometry.dynamic))


@many(geometry=geometries(pool=True))
def test_max_pool(geometry):
    def of_torch(x):
        padded = geometry.pad(x, -math.inf)
        return MAX_POOLS[x.ndim - 2](padded, geometry.kernel, geometry.strides, 0, geometry.dilations)

    row = case(f"MaxPool<{geometry.attributes}>(x)", x=distinct(2, 3, *geometry.sizes), torch=of_torch)
    equals_torch(row, Setting(dynamic=geometry.dynamic))


@many(geometry=geometries(pool=True), padded=st.booleans())
def test_average_pool(geometry, padded):
    def sums(x):
        planes = x.flatten(0, 1).unsqueeze(1)
        ones = torch.ones(1, 1, *geometry.kernel)
        found = CONVS[x.ndim - 2](planes, ones, None, geometry.strides, 0, geometry.dilations)
        return found.reshape(*x.shape[:2], *found.shape[2:])

    def of_torch(x):
        ones = torch.ones_like(x)
        if padded:  # what ceil_mode adds behind the padding is never counted
            whole = geometry.pad(ones, 1.0, cut=False)
            behind = [b - a for a, b in zip(whole.shape, geometry.pad(ones, 1.0).shape, strict=True)]
            counted = F.pad(whole, [n for more in reversed(behind) for n in (0, more)])
        else:
            counted = geometry.pad(ones, 0.0)
        return sums(geometry.pad(x, 0.0)) / sums(counted)

    text = f"AveragePool<{geometry.attributes}, count_include_pad={int(padded)}>(x)"
    row = case(text, x=(2, 3, *geometry.sizes), torch=of_torch, opsets=(19, 19))
    equals_torch(row, Setting(dynamic=geometry.dynamic))


@many(geometry=geometries(pool=True), p=st.integers(1, 4))
def test_lp_pool(geometry, p):
    def of_torch(x):
        powers = geometry.pad((x.abs() ** p).flatten(0, 1).unsqueeze(1), 0.0)
        ones = torch.ones(1, 1, *geometry.kernel)
        sums = CONVS[x.ndim - 2](powers, ones, None, geometry.strides, 0, geometry.dilations)
        return sums.reshape(*x.shape[:2], *sums.shape[2:]) ** (1 / p)

    row = case(f"LpPool<{geometry.attributes}, p={p}>(x)", x=(2, 3, *geometry.sizes), torch=of_torch)
    equals_torch(row, Setting(dynamic=geometry.dynamic))
