"""ONNX Runtime's own operators that its offline optimisers leave in a file: fused activations, products and norms.

Defaults are those of its ContribOperators.md.
"""

from __future__ import annotations

__all__: list[str] = []

import functools
from collections.abc import Sequence
from typing import Any

import onnx_ir as ir

from onnxcam.autodiff.registry import Adjoint, Site, expansion, refuse, rule
from onnxcam.autodiff.rules.activations import gelu_adjoint
from onnxcam.autodiff.rules.quantization import CONTRIB

# Activations


@rule("Gelu", domain=CONTRIB, versions=(1,))
def gelu(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    return (lambda: gelu_adjoint(at, dy, at.input(0), approximate=False),)


@rule("BiasGelu", domain=CONTRIB, versions=(1,), inputs=(0, 1), broadcasts=True)
def bias_gelu(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    dx = functools.cache(lambda: gelu_adjoint(at, dy, at.op.Add(*at.x), approximate=False))
    return dx, dx


@rule("FastGelu", domain=CONTRIB, versions=(1,), inputs=(0, 1), broadcasts=True)
def fast_gelu(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    x, bias = at.input(0), at.optional(1)
    dx = functools.cache(
        lambda: gelu_adjoint(at, dy, x if bias is None else at.op.Add(x, bias), approximate=True),
    )
    return dx, dx


@rule("QuickGelu", domain=CONTRIB, versions=(1,))
def quick_gelu(at: Site, dy: ir.Value) -> Sequence[Adjoint]:
    """With g = sigmoid(α x): y = x g, y' = g (1 + α x (1 - g))."""
    op, (x,) = at.op, at.x

    def dx() -> ir.Value:
        scaled = op.Mul(x, at.attribute("alpha", 1.702))
        gate = op.Sigmoid(scaled)
        return op.Mul(dy, op.Mul(gate, op.Add(op.Mul(scaled, op.Sub(1.0, gate)), 1.0)))  # type: ignore[no-any-return]

    return (dx,)


def _activated(at: Site, y: ir.Value, parameters: Sequence[float] | dict[str, float]) -> ir.Value:
    """``y`` after the activation that was fused into the node, whose parameters stand in order or by name."""
    kind = at.attribute("activation", "")
    if not kind:
        return y
    if isinstance(parameters, dict):
        return getattr(at.op, kind)(y, **parameters)  # type: ignore[no-any-return]
    if kind == "Clip":
        return at.op.Clip(y, *parameters)  # type: ignore[no-any-return]
    names = _PARAMETERS.get(kind)
    if names is None or len(parameters) > len(names):
        raise at.unsupported(f"the activation {kind} is not known here: use the model as it was before optimisation")
    return getattr(at.op, kind)(y, **dict(zip(names, parameters, strict=False)))  # type: ignore[no-any-return]


_PARAMETERS: dict[str, tuple[str, ...]] = {
    "Relu": (),
    "Sigmoid": (),
    "Tanh": (),
    "LeakyRelu": ("alpha",),
    "HardSigmoid": ("alpha", "beta"),
}
"""The activations that ONNX Runtime fuses into FusedConv, with what ``activation_params`` holds."""


def _attributes(at: Site, *left_out: str) -> dict[str, Any]:
    """The attributes of the node but those of its activation and ``left_out``."""
    return {
        name: attribute.value
        for name, attribute in at.node.attributes.items()
        if not name.startswith("activation") and name not in left_out
    }


# Products


@expansion("FusedConv", domain=CONTRIB)
def fused_conv(at: Site) -> Sequence[ir.Value]:
    """activation(Conv(X, W, B) + Z)."""
    z = at.optional(3)
    y = at.op.Conv(*at.x[:3], **_attributes(at))
    if z is not None:
        y = at.op.Add(y, z)
    return [_activated(at, y, at.attribute("activation_params", ()))]


@expansion("FusedGemm", domain=CONTRIB)
def fused_gemm(at: Site) -> Sequence[ir.Value]:
    """activation(Gemm(A, B, C))."""
    parameters = {name: at.attribute(f"activation_{name}", None) for name in ("alpha", "beta", "gamma")}
    y = at.op.Gemm(*at.x, **_attributes(at))
    return [_activated(at, y, {name: value for name, value in parameters.items() if value is not None})]


@expansion("FusedMatMul", domain=CONTRIB)
@expansion("TransposeMatMul", domain=CONTRIB)
def fused_matmul(at: Site) -> Sequence[ir.Value]:
    """alpha A' B'."""
    a, b = (_operand(at, at.input(i), which) for i, which in enumerate("AB"))
    y, alpha = at.op.MatMul(a, b), at.attribute("alpha", 1.0)
    return [y if alpha == 1 else at.op.Mul(y, alpha)]


def _operand(at: Site, x: ir.Value, which: str) -> ir.Value:
    """transBatch takes the first axis behind the batch axes; trans swaps the last two then."""
    perm = list(range(at.rank(x)))
    if at.attribute(f"transBatch{which}", 0):
        perm = [*perm[1:-1], perm[0], perm[-1]]
    if at.attribute(f"trans{which}", 0):
        perm = [*perm[:-2], *perm[:-3:-1]]
    return x if perm == sorted(perm) else at.op.Transpose(x, perm=perm)


# Norms


@expansion("SkipLayerNormalization", domain=CONTRIB)
def skip_layer_normalization(at: Site) -> Sequence[ir.Value | None]:
    """LayerNormalization(input + skip + bias) scale + shift; the fourth output is the sum."""
    total = _total(at, at.optional(4))
    inputs = [at.input(2)] if at.optional(3) is None else [at.input(2), at.optional(3)]
    y = at.op.LayerNormalization(total, *inputs, epsilon=at.attribute("epsilon", 1e-12))
    return _with_total(at, y, total)


@expansion("SkipSimplifiedLayerNormalization", domain=CONTRIB)
def skip_simplified_layer_normalization(at: Site) -> Sequence[ir.Value | None]:
    total = _total(at, at.optional(3))
    return _with_total(at, _root_mean_square(at, total, at.input(2), -1, at.attribute("epsilon", 1e-12)), total)


@expansion("SimplifiedLayerNormalization")
def simplified_layer_normalization(at: Site) -> Sequence[ir.Value | None]:
    x, axis = at.input(0), at.attribute("axis", -1)
    return [_root_mean_square(at, x, at.input(1), axis, at.attribute("epsilon", 1e-5)), None][: len(at.node.outputs)]


def _total(at: Site, bias: ir.Value | None) -> ir.Value:
    """input + skip + bias."""
    total = at.op.Add(at.input(0), at.input(1))
    return total if bias is None else at.op.Add(total, bias)  # type: ignore[no-any-return]


def _with_total(at: Site, y: ir.Value, total: ir.Value) -> Sequence[ir.Value | None]:
    return [y, None, None, total][: len(at.node.outputs)]


def _root_mean_square(at: Site, x: ir.Value, scale: ir.Value, axis: int, epsilon: float) -> ir.Value:
    """x / √(mean(x²) + ε) scale, in float32 for half precision."""
    op, axes = at.op, list(range(axis % at.rank(x), at.rank(x)))
    half = x.dtype in (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
    wide = op.Cast(x, to=ir.DataType.FLOAT) if half else x
    y = op.Div(wide, op.Sqrt(op.Add(op.ReduceMean(op.Mul(wide, wide), axes), epsilon)))
    return op.Mul(op.CastLike(y, x) if half else y, scale)  # type: ignore[no-any-return]


# Layouts

_LAYOUT = (
    "ONNX Runtime's layout optimisation wrote it for one processor: use the model as it was before, or optimise it "
    "with ORT_ENABLE_EXTENDED or less"
)
_NHWC = ("BatchNormalization", "ConvTranspose", "DepthToSpace", "GlobalLpPool", "GridSample", "InstanceNormalization")
_NCHWC = ("AveragePool", "Conv", "GlobalAveragePool", "GlobalMaxPool", "MaxPool")
refuse(*_NCHWC, "ReorderInput", "ReorderOutput", "Upsample", why=_LAYOUT, domain="com.microsoft.nchwc")
refuse(*_NCHWC, *_NHWC, "LRN", "LpPool", "Resize", "SpaceToDepth", why=_LAYOUT, domain="com.ms.internal.nhwc")
refuse("NhwcConv", "NhwcFusedConv", "NhwcMaxPool", why=_LAYOUT, domain=CONTRIB)
