"""Operators that onnx's reference evaluator (1.23) lacks or evaluates wrongly, in the precision of their input."""

from __future__ import annotations

__all__ = ["OPERATORS"]

import itertools
from collections.abc import Sequence

import numpy as np
import onnx
from onnx.reference.op_run import OpRun


class MeanVarianceNormalization(OpRun):
    """onnx's own is a function of float32 alone."""

    op_domain = ""
    op_schema = onnx.defs.get_schema("MeanVarianceNormalization")

    def _run(self, x: np.ndarray, axes: Sequence[int]) -> tuple[np.ndarray]:
        axes = tuple(axes)
        return ((x - x.mean(axes, keepdims=True)) / (x.std(axes, keepdims=True) + 1e-9),)


class LpNormalization(OpRun):
    """onnx's own forgets the absolute value under p=1."""

    op_domain = ""
    op_schema = onnx.defs.get_schema("LpNormalization")

    def _run(self, x: np.ndarray, axis: int, p: int) -> tuple[np.ndarray]:
        return (x / np.linalg.norm(x, p, axis, keepdims=True),)


class LRN(OpRun):
    """onnx's own takes the batch for the channels, and four axes only."""

    op_domain = ""
    op_schema = onnx.defs.get_schema("LRN")

    def _run(self, x: np.ndarray, alpha: float, beta: float, bias: float, size: int) -> tuple[np.ndarray]:
        count = x.shape[1]
        around = [range(max(0, c - (size - 1) // 2), min(count, c + size // 2 + 1)) for c in range(count)]
        sums = np.stack([(x[:, list(channels)] ** 2).sum(1) for channels in around], 1)
        return (x / (bias + alpha / size * sums) ** beta,)


class GlobalLpPool(OpRun):
    """onnx has none."""

    op_domain = ""
    op_schema = onnx.defs.get_schema("GlobalLpPool")

    def _run(self, x: np.ndarray, p: int) -> tuple[np.ndarray]:
        return ((np.abs(x) ** p).sum(tuple(range(2, x.ndim)), keepdims=True) ** (1 / p),)


class LpPool(OpRun):
    """onnx's own lays the windows wrongly under ceil_mode."""

    op_domain = ""
    op_schema = onnx.defs.get_schema("LpPool")

    def _run(
        self,
        x: np.ndarray,
        auto_pad: str,
        ceil_mode: int,
        dilations: Sequence[int] | None,
        kernel_shape: Sequence[int],
        p: int,
        pads: Sequence[int] | None,
        strides: Sequence[int] | None,
    ) -> tuple[np.ndarray]:
        rank = x.ndim - 2
        strides, dilations, pads = strides or [1] * rank, dilations or [1] * rank, pads or [0] * (2 * rank)
        margins, counts = [], []
        for size, kernel, stride, dilation, begin, end in zip(
            x.shape[2:], kernel_shape, strides, dilations, pads[:rank], pads[rank:], strict=True
        ):
            extent = (kernel - 1) * dilation + 1
            if auto_pad.startswith("SAME"):
                total = max((-(-size // stride) - 1) * stride + extent - size, 0)
                begin = total - total // 2 if auto_pad == "SAME_LOWER" else total // 2
                end = total - begin
            room = size + begin + end - extent
            count = -(-room // stride) + 1 if ceil_mode else room // stride + 1
            counts.append(count - 1 if (count - 1) * stride >= size + begin else count)
            margins.append((begin, end + stride + extent))
        x = np.pad(np.abs(x) ** p, [(0, 0), (0, 0), *margins])
        y = np.zeros((*x.shape[:2], *counts), x.dtype)
        for offset in itertools.product(*map(range, kernel_shape)):
            along = zip(offset, dilations, counts, strides, strict=True)
            y += x[(..., *(slice(o * d, o * d + n * s, s) for o, d, n, s in along))]
        return (y ** (1 / p),)


class ConvTranspose(OpRun):
    """onnx's own knows neither groups nor ``output_shape``."""

    op_domain = ""
    op_schema = onnx.defs.get_schema("ConvTranspose")

    def _run(
        self,
        x: np.ndarray,
        w: np.ndarray,
        b: np.ndarray | None = None,
        auto_pad: str = "NOTSET",
        dilations: Sequence[int] | None = None,
        group: int = 1,
        kernel_shape: Sequence[int] | None = None,
        output_padding: Sequence[int] | None = None,
        output_shape: Sequence[int] | None = None,
        pads: Sequence[int] | None = None,
        strides: Sequence[int] | None = None,
    ) -> tuple[np.ndarray]:
        rank, kernel, sizes = x.ndim - 2, w.shape[2:], x.shape[2:]
        strides, dilations = strides or [1] * rank, dilations or [1] * rank
        more, pads = output_padding or [0] * rank, pads or [0] * (2 * rank)
        full = [(n - 1) * s + (k - 1) * d + 1 for n, s, k, d in zip(sizes, strides, kernel, dilations, strict=True)]
        if output_shape or auto_pad.startswith("SAME"):
            wanted = output_shape or [n * s for n, s in zip(sizes, strides, strict=True)]
            total = [max(f + m - o, 0) for f, m, o in zip(full, more, wanted, strict=True)]
            begins = [t // 2 if auto_pad == "SAME_UPPER" else t - t // 2 for t in total]
            lengths = list(wanted)
        else:
            begins = list(pads[:rank])
            lengths = [f + m - p - q for f, m, p, q in zip(full, more, pads[:rank], pads[rank:], strict=True)]
        outs, ins = w.shape[1], w.shape[0] // group
        room = [b + n + f for b, n, f in zip(begins, lengths, full, strict=True)]
        y = np.zeros((x.shape[0], group * outs, *room), x.dtype)
        for g in range(group):
            into = y[:, g * outs : (g + 1) * outs]
            for offset in itertools.product(*map(range, kernel)):
                weight = w[(slice(g * ins, (g + 1) * ins), slice(None), *offset)]
                at = zip(offset, dilations, sizes, strides, strict=True)
                into[(..., *(slice(o * d, o * d + n * s, s) for o, d, n, s in at))] += np.einsum(
                    "nc...,cm->nm...", x[:, g * ins : (g + 1) * ins], weight
                )
        y = y[(..., *(slice(b, b + n) for b, n in zip(begins, lengths, strict=True)))]
        return (y if b is None else y + b.reshape(-1, *[1] * rank),)


OPERATORS = [MeanVarianceNormalization, LpNormalization, LRN, GlobalLpPool, LpPool, ConvTranspose]
