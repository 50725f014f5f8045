"""The biases of a graph: what is added to a value whatever the picture is, a number for each channel."""

from __future__ import annotations

__all__ = ["Bias", "find_biases"]

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import onnx_ir as ir
from onnxscript import OpBuilder

from onnxcam.autodiff.registry import describe
from onnxcam.errors import MethodError
from onnxcam.exporter.axes import find_layouts
from onnxcam.exporter.layers import is_weight, on_the_way
from onnxcam.exporter.layout import Layout

Build = Callable[[OpBuilder], ir.Value]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bias:
    """A bias that is part of ``value``, which lies in ``layout``; ``build`` emits it, shaped to go with ``value``."""

    value: ir.Value
    layout: Layout
    build: Build

    def times(self, op: OpBuilder, gradient: ir.Value) -> ir.Value:
        """The bias times the ``gradient`` at its value, shaped as that."""
        product: ir.Value = op.Mul(gradient, self.build(op))
        product.type, product.shape = gradient.type, gradient.shape
        return product


def find_biases(graph: ir.Graph, score: ir.Value, image: ir.Value) -> list[Bias]:
    """Every bias that has places and is on the way from ``image`` to ``score``, in the order of the graph.

    Those of convolutions, linear layers and normalisations; of a batch normalisation all that does not depend on the
    picture, β - μ γ / √(σ² + ε), whether it was folded into the convolution before or not.

    Raises `MethodError` for operators that have a bias inside, with something behind it.
    """
    layouts = find_layouts(graph)
    path = [node for node in on_the_way(graph, score, image) if node.outputs[0] in layouts]
    if hidden := [describe(node) for node in path if node.domain and node.op_type in _HIDING]:
        raise MethodError(
            f"'fullgrad' needs every bias of the model, and those of {', '.join(hidden)} are inside, with something "
            "behind them: take the model as it was before ONNX Runtime optimised it"
        )
    found = []
    for node in path:
        value = node.outputs[0]
        build = None if node.domain else _bias(node, layouts[value])
        if build is not None:
            found.append(Bias(value=value, layout=layouts[value], build=build))
    return found


_HIDING: Final = frozenset(
    {"FusedConv", "NhwcFusedConv", "FusedGemm", "BiasGelu", "FastGelu", "BiasAdd", "BiasSplitGelu", "GroupNorm",
     "SkipLayerNormalization", "SkipGroupNorm", "Attention", "MultiHeadAttention", "QAttention"}
)  # fmt: skip
"""Operators of ONNX Runtime that add a bias and do not give what it was added to."""


def _bias(node: ir.Node, layout: Layout) -> Build | None:
    """What ``node`` adds; None where that is nothing, or depends on the picture."""
    if node.op_type == "BatchNormalization":
        return _of_batch_norm(node)
    if node.op_type in ("Add", "Sub"):
        return _of_sum(node, layout)
    if node.op_type not in ("Conv", "ConvTranspose", "InstanceNormalization", "LayerNormalization"):
        return None
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if bias is None or not is_weight(bias):
        return None
    if node.op_type == "LayerNormalization":  # it belongs to the last axes
        return lambda op: bias
    return lambda op: _along_channels(op, bias, node.outputs[0])


def _of_batch_norm(node: ir.Node) -> Build | None:
    parameters = list(node.inputs[1:5])
    if not all(x is not None and is_weight(x) for x in parameters):
        return None
    epsilon = node.attributes.get_float("epsilon", 1e-5)

    def build(op: OpBuilder) -> ir.Value:
        gamma, beta, mean, variance = parameters
        shift = op.Mul(mean, op.Div(gamma, op.Sqrt(op.Add(variance, epsilon))))
        return _along_channels(op, op.Sub(beta, shift), node.outputs[0])

    return build


def _of_sum(node: ir.Node, layout: Layout) -> Build | None:
    """A number for each channel is a bias. One number alone, or one for each place, is something else."""
    first, second = node.inputs
    weight = second if node.op_type == "Sub" or (second is not None and is_weight(second)) else first
    channels = _CHANNELS[layout.kind]
    y = node.outputs[0].shape
    if weight is None or not is_weight(weight) or weight.shape is None or y is None or not isinstance(y[channels], int):
        return None
    sizes = [1] * (len(y) - len(weight.shape)) + list(weight.shape)
    if not len(weight.shape) or sizes != [y[channels] if axis == channels else 1 for axis in range(len(y))]:
        return None
    if node.op_type == "Sub":
        return lambda op: op.Neg(weight)
    return lambda op: weight


_CHANNELS: Final = {"NCHW": 1, "NCDHW": 1, "NHWC": 3, "tokens": 2}
"""The axis of the channels in each layout."""


def _along_channels(op: OpBuilder, bias: ir.Value, value: ir.Value) -> ir.Value:
    """``bias`` [C] shaped to go with ``value`` [N, C, …]."""
    assert value.shape is not None
    shaped: ir.Value = op.Reshape(bias, [-1, *[1] * (len(value.shape) - 2)])
    return shaped
