"""Scores before their softmax, and the inputs that choose among them."""

from __future__ import annotations

__all__ = [
    "Unsquashed",
    "apart",
    "before_rounding",
    "before_squashing",
    "chosen",
    "index_input",
    "skip",
    "together",
    "top_ranks",
]

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir
from onnxscript import OpBuilder

from onnxcam.contract import Activation
from onnxcam.exporter.layers import behind_identity

_PASS_THROUGH = frozenset({"Identity", "Dropout", "Flatten", "Reshape", "Squeeze", "Unsqueeze"})
_SQUASHING = frozenset({"Softmax", "LogSoftmax", "Sigmoid"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Unsquashed:
    """What stands before a final softmax or sigmoid.

    stepped_over: the squashing operator found behind ``value``, or None.
    activation: what still turns the model's own output into probabilities.
    """

    value: ir.Value
    stepped_over: str | None
    activation: Activation


def before_squashing(output: ir.Value, *, reshaped: bool = True) -> Unsquashed:
    """The value behind ``output`` [N, classes, …], stepping back over a final softmax or sigmoid of the classes.

    reshaped: the value may have another shape than ``output``; else it has the same, and the softmax any axis.
    """
    producer = (skip(output) if reshaped else behind_identity(output)).producer()
    if (
        producer is None
        or producer.op_type not in _SQUASHING
        or producer.domain
        or (reshaped and not _squashes_classes(producer))
    ):
        return Unsquashed(value=output, stepped_over=None, activation="softmax")
    value = producer.inputs[0]
    assert value is not None
    if value.shape is None:
        value.shape = producer.outputs[0].shape or output.shape
    log = producer.op_type == "LogSoftmax"
    return Unsquashed(
        value=value,
        stepped_over=producer.op_type,
        activation="softmax" if log else "identity",  # the softmax of log-probabilities is the probabilities
    )


def _squashes_classes(node: ir.Node) -> bool:
    """Whether ``node`` works along the classes, not along another axis."""
    x = node.inputs[0]
    rank = 2 if x is None or x.shape is None else len(x.shape)
    return node.op_type == "Sigmoid" or node.attributes.get_int("axis", -1) % rank == 1


def skip(value: ir.Value) -> ir.Value:
    """Step back over operators that only reshape."""
    while (node := value.producer()) is not None and node.op_type in _PASS_THROUGH and node.inputs[0] is not None:
        value = node.inputs[0]
    return value


def before_rounding(score: ir.Value) -> ir.Value:
    """The value that a final QuantizeLinear and DequantizeLinear gave ``score`` from, or ``score`` itself.

    It is where differentiation starts: the highest scores are often clipped there, and nothing would come back.
    The class is to be chosen by ``score``: another reader of the value would break the integer kernel that gives it.
    """
    dequantize = score.producer()
    if dequantize is None or dequantize.op_type != "DequantizeLinear" or dequantize.inputs[0] is None:
        return score
    quantize = dequantize.inputs[0].producer()
    if quantize is None or quantize.op_type != "QuantizeLinear" or quantize.inputs[0] is None:
        return score
    before = quantize.inputs[0]
    return before if before.dtype == score.dtype else score


def index_input(op: OpBuilder, name: str, default: Sequence[int]) -> ir.Value:
    """Add an optional input ``name`` of indices or ranks: int64 [N] or [1] of one, [N, K] or [1, K] of K by default."""
    graph = op.builder.graph
    several = len(default) > 1
    index = ir.Value(
        name=name,
        type=ir.TensorType(ir.DataType.INT64),
        shape=ir.Shape([f"{name}_size", len(default)] if several else [f"{name}_size"]),
        const_value=ir.tensor([list(default)] if several else list(default), dtype=ir.DataType.INT64, name=name),
    )
    graph.inputs.append(index)
    graph.register_initializer(index)
    return index


def chosen(op: OpBuilder, index: ir.Value, table: ir.Value, batch: ir.Value) -> ir.Value:
    """What ``index`` means among the columns of ``table`` [N, columns], int64 [N] or [N, K]: -1 the greatest.

    batch: its first axis counts the images.
    """
    assert index.shape is not None
    assert batch.shape is not None
    several = list(index.shape[1:])
    rank = op.Max(op.Neg(index), [1])  # 1 is the top one; one given by index asks for no more than that
    lowest = op.ReduceMax(rank, keepdims=1)
    _, ranking = op.TopK(table, op.Reshape(lowest, [1]) if several else lowest, _outputs=2)
    count = op.Shape(batch, start=0, end=1)
    if several:
        column = op.Expand(op.Sub(rank, [1]), op.Concat(count, several, axis=0))
        ranked = op.GatherElements(ranking, column, axis=1)
    else:
        column = op.Unsqueeze(op.Expand(op.Sub(rank, [1]), count), [1])
        ranked = op.Squeeze(op.GatherElements(ranking, column, axis=1), [1])
    found: ir.Value = op.Where(op.Less(index, [0]), ranked, index)
    found.dtype, found.shape = ir.DataType.INT64, ir.Shape([batch.shape[0], *several])
    return found


def top_ranks(count: int, first: int) -> range:
    """The ranks from ``first`` on: -1, -2, …"""
    return range(first, first - count, -1)


def apart(op: OpBuilder, several: ir.Value) -> list[ir.Value]:
    """The columns [N] of ``several`` [N, K], or itself where it is [N]."""
    shape = several.shape
    assert shape is not None
    if len(shape) == 1:
        return [several]
    columns = [op.Squeeze(op.Slice(several, [k], [k + 1], [1]), [1]) for k in range(int(shape[1]))]  # type: ignore[arg-type]
    for column in columns:
        column.dtype, column.shape = several.dtype, ir.Shape(shape[:1])
    return columns


def together(op: OpBuilder, columns: Sequence[ir.Value]) -> ir.Value:
    """Values [N, …] as one, [N, K, …]; itself where there is one."""
    if len(columns) == 1:
        return columns[0]
    first = columns[0]
    stacked: ir.Value = op.Concat(*(op.Unsqueeze(column, [1]) for column in columns), axis=1)
    if first.dtype is not None:
        stacked.dtype = first.dtype
    if first.shape is not None:
        stacked.shape = ir.Shape([first.shape[0], len(columns), *first.shape[1:]])
    return stacked
