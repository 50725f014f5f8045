"""The maps of several layers as one."""

from __future__ import annotations

__all__ = ["enlarged", "fused"]

from collections.abc import Sequence
from functools import reduce
from typing import TYPE_CHECKING

from onnxcam.methods.arithmetic import between_zero_and_one
from onnxcam.methods.registry import Fusion

if TYPE_CHECKING:
    import onnx_ir as ir
    from onnxscript import OpBuilder


def fused(op: OpBuilder, cams: Sequence[ir.Value], fusion: Fusion) -> ir.Value:
    """``cams``, each [N, h, w] of its own size, as one map [N, H, W] in 0-1, as large as the largest of them.

    Layers share no unit, so each map is taken without its negative values and scaled to 0-1 first (a flat one is 0),
    then enlarged bilinearly between the centres of its places, and joined: ``mean`` and ``product`` as in
    pytorch-grad-cam, ``max`` as in torch-cam.
    """
    size = op.Max(*(op.Shape(cam, start=1, end=3) for cam in cams))
    maps = []
    for cam in cams:
        maps.append(enlarged(op, between_zero_and_one(op, op.Relu(cam)), size))
    if fusion == "max":
        joined = op.Max(*maps)
    elif fusion == "mean":
        joined = op.Mean(*maps)
    else:
        joined = reduce(op.Mul, maps)
    result: ir.Value = joined
    return result


def enlarged(op: OpBuilder, cam: ir.Value, size: ir.Value) -> ir.Value:
    """``cam`` [N, h, w] at the height and width in ``size``, bilinear between the centres of its places."""
    image = op.Unsqueeze(cam, [1])
    sizes = op.Concat(op.Shape(image, start=0, end=2), size, axis=0)
    large = op.Resize(image, None, None, sizes, mode="linear", coordinate_transformation_mode="half_pixel", antialias=0)
    result: ir.Value = op.Squeeze(large, [1])
    return result
