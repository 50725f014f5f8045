"""The class score: which value of the graph it is, which class is explained, and where differentiation starts."""

from __future__ import annotations

__all__ = [
    "ClassScore",
    "Seed",
    "before_rounding",
    "class_input",
    "class_table",
    "explained_class",
    "find_class_score",
    "find_head",
    "one_hot",
    "seed",
]

from dataclasses import dataclass

import onnx_ir as ir
from onnxscript import OpBuilder

from onnxcam.contract import CLASS_INDEX, DEFAULT_CLASS_INDEX, Activation
from onnxcam.errors import ExportError, MethodError
from onnxcam.exporter.layers import Target, behind_identity
from onnxcam.exporter.layout import Layout, shape_text
from onnxcam.methods import Head

_PASS_THROUGH = frozenset({"Identity", "Dropout", "Flatten", "Reshape", "Squeeze", "Unsqueeze"})
_SQUASHING = frozenset({"Softmax", "LogSoftmax", "Sigmoid"})


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassScore:
    """The scores y [N, classes] before any softmax.

    stepped_over: the squashing operator found behind them, or None.
    activation: what still turns the model's own output into probabilities.
    """

    value: ir.Value
    classes: int
    stepped_over: str | None
    activation: Activation


@dataclass(frozen=True, slots=True, kw_only=True)
class Seed:
    """Where the backward walk starts: at ``value``, with the adjoint ``adjoint`` of the explained class score."""

    value: ir.Value
    adjoint: ir.Value


@dataclass(frozen=True, slots=True, kw_only=True)
class _Linear:
    """A last linear layer ``x · W (+ b)``: the classes lie along ``class_axis`` of ``weight``.

    It may be a 1×1 convolution on one place; the other axes of ``weight`` are then those of ``x`` without the batch.
    """

    x: ir.Value
    weight: ir.Value
    class_axis: int
    alpha: float


def find_class_score(output: ir.Value) -> ClassScore:
    """The scores behind the model's class output [N, classes], stepping back over a final softmax or sigmoid.

    Axes of length 1 may follow the classes. Raises `ExportError` where the output is no table of class scores.
    """
    shape = output.shape
    if shape is None or len(shape) < 2 or not isinstance(shape[1], int) or any(dim != 1 for dim in shape[2:]):
        raise ExportError(
            f"the output '{output.name}' has the shape {shape_text(shape)}, and a classifier's is [N, classes]: "
            "choose another output, or export a model that returns one row of class scores per image"
        )
    producer = _skip(output).producer()
    if producer is None or producer.op_type not in _SQUASHING or producer.domain or not _squashes_classes(producer):
        return ClassScore(value=output, classes=shape[1], stepped_over=None, activation="softmax")
    value = producer.inputs[0]
    assert value is not None
    if value.shape is None:
        value.shape = producer.outputs[0].shape or shape
    log = producer.op_type == "LogSoftmax"
    return ClassScore(
        value=value,
        classes=shape[1],
        stepped_over=producer.op_type,
        activation="softmax" if log else "identity",  # the softmax of log-probabilities is the probabilities
    )


def _squashes_classes(node: ir.Node) -> bool:
    """Whether ``node`` works along the classes, not along another axis."""
    x = node.inputs[0]
    rank = 2 if x is None or x.shape is None else len(x.shape)
    return node.op_type == "Sigmoid" or node.attributes.get_int("axis", -1) % rank == 1


def class_table(op: OpBuilder, score: ClassScore) -> ir.Value:
    """The scores as [N, classes], in a type that ONNX Runtime ranks."""
    value = score.value
    if value.shape is not None and len(value.shape) != 2:
        value = op.Flatten(value)
    return op.Cast(value, to=ir.DataType.FLOAT) if value.dtype == ir.DataType.BFLOAT16 else value


def explained_class(op: OpBuilder, score: ClassScore) -> ir.Value:
    """Add the optional input `CLASS_INDEX` and resolve it: int64 [N], ranks replaced by the classes they name."""
    return class_input(op, CLASS_INDEX, DEFAULT_CLASS_INDEX, class_table(op, score), score)


def class_input(op: OpBuilder, name: str, default: int, table: ir.Value, score: ClassScore) -> ir.Value:
    """Add an optional input ``name`` that chooses a class by index, or by rank in ``table``; gives the class, [N]."""
    graph = op.builder.graph
    index = ir.Value(
        name=name,
        type=ir.TensorType(ir.DataType.INT64),
        shape=ir.Shape([f"{name}_size"]),
        const_value=ir.tensor([default], dtype=ir.DataType.INT64, name=name),
    )
    graph.inputs.append(index)
    graph.register_initializer(index)
    rank = op.Max(op.Neg(index), [1])  # 1 is the top class; a class given by index asks for no more than that
    _, ranking = op.TopK(table, op.ReduceMax(rank, keepdims=1), _outputs=2)
    batch = op.Shape(score.value, start=0, end=1)
    column = op.Unsqueeze(op.Expand(op.Sub(rank, [1]), batch), [1])
    ranked = op.Squeeze(op.GatherElements(ranking, column, axis=1), [1])
    chosen: ir.Value = op.Where(op.Less(index, [0]), ranked, index)
    chosen.dtype, chosen.shape = ir.DataType.INT64, ir.Shape([score.value.shape[0]])  # type: ignore[index]
    return chosen


def seed(op: OpBuilder, score: ClassScore, explained: ir.Value) -> Seed:
    """The adjoint of the explained score, taken through the last linear layer by reading one row of its weights.

    With y = x Wᵀ + b, dy^c/dx is row c of W: a lookup, where a one-hot product would read all of W. Of a quantised
    score, the value before its rounding is differentiated.
    """
    linear = _last_linear(score)
    if linear is None:
        return Seed(value=before_rounding(score.value), adjoint=one_hot(op, score, explained))
    row = _class_rows(op, linear, explained)
    row.type, row.shape = linear.x.type, linear.x.shape
    return Seed(value=linear.x, adjoint=row)


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


def find_head(op: OpBuilder, score: ClassScore, explained: ir.Value, target: Target) -> Head:
    """The classic CAM head between the target and the scores: pooling over its places, then one linear layer or none.

    Raises `MethodError` where something else lies between them.
    """
    linear = _last_linear(score)
    pooled = _skip(linear.x if linear else score.value)
    pool = pooled.producer()
    if (
        pool is None
        or pool.inputs[0] is None
        or not _pools(pool, target.layout)
        or behind_identity(pool.inputs[0]) is not target.value
    ):
        between = "nothing" if pool is None else f"{pool.op_type} '{pool.name}'"
        raise MethodError(
            "'cam' needs global average pooling and at most one linear layer behind the feature map, and this model "
            f"has {between} there: take 'gradcam', which equals CAM where CAM exists"
        )
    return Head(weights=op.Flatten(_class_rows(op, linear, explained)) if linear else None)


def _last_linear(score: ClassScore) -> _Linear | None:
    """The linear layer that gives the scores, if its weights do not depend on the picture."""
    value = _skip(score.value)
    if value.shape is None or list(value.shape[1:]) != [score.classes, *[1] * (len(value.shape) - 2)]:
        return None
    node = value.producer()
    if node is not None and node.op_type == "Add" and not node.domain:
        terms = [x for x in node.inputs if x is not None and not _is_constant(x)]
        node = terms[0].producer() if len(terms) == 1 else None
        if node is None or node.op_type != "MatMul":
            return None
    if node is None or node.domain or node.op_type not in {"Gemm", "MatMul", "Conv"}:
        return None
    x, weight, *bias = node.inputs
    if x is None or weight is None or x.shape is None or weight.shape is None:
        return None
    if not all(_is_constant(v) for v in (weight, *bias) if v is not None):
        return None
    attributes = node.attributes
    if node.op_type == "Conv":
        if len(x.shape) != 4 or list(weight.shape[1:]) != list(x.shape[1:]) or list(x.shape[2:]) != [1, 1]:
            return None  # several places, groups, or a larger kernel
        return _Linear(x=x, weight=weight, class_axis=0, alpha=1.0)
    if len(x.shape) != 2 or len(weight.shape) != 2 or attributes.get_int("transA", False):
        return None
    return _Linear(
        x=x,
        weight=weight,
        class_axis=0 if attributes.get_int("transB", 0) else 1,
        alpha=attributes.get_float("alpha", 1.0),
    )


def _class_rows(op: OpBuilder, linear: _Linear, explained: ir.Value) -> ir.Value:
    """dy^c/dx of the linear layer for each image's class: [N, features]."""
    rows: ir.Value = op.Gather(linear.weight, explained, axis=linear.class_axis)
    if linear.class_axis == 1:
        rows = op.Transpose(rows, perm=[1, 0])
    if linear.alpha != 1.0:
        rows = op.Mul(rows, linear.alpha)
    return rows


def one_hot(op: OpBuilder, score: ClassScore, explained: ir.Value) -> ir.Value:
    """1 at the explained class of each image, 0 elsewhere, shaped and typed as the score."""
    assert score.value.dtype is not None
    values: ir.Value = op.Cast(op.OneHot(explained, [score.classes], [0.0, 1.0], axis=-1), to=score.value.dtype)
    if score.value.shape is not None and len(score.value.shape) > 2:
        values = op.Unsqueeze(values, list(range(2, len(score.value.shape))))
    values.dtype, values.shape = score.value.dtype, score.value.shape
    return values


def _is_constant(value: ir.Value) -> bool:
    """Whether ``value`` is a weight, or made of weights alone (one that is stored in half precision, say)."""
    node = value.producer()
    if node is None:
        return value.is_initializer() and not value.is_graph_input()
    return bool(node.inputs) and all(x is None or _is_constant(x) for x in node.inputs)


def _skip(value: ir.Value) -> ir.Value:
    """Step back over operators that only reshape."""
    while (node := value.producer()) is not None and node.op_type in _PASS_THROUGH and node.inputs[0] is not None:
        value = node.inputs[0]
    return value


def _pools(node: ir.Node, layout: Layout) -> bool:
    """Whether ``node`` is global average pooling over all places of its input, and nothing but places."""
    x = node.inputs[0]
    if x is None or x.shape is None or layout.extra_tokens:
        return False
    if node.op_type == "ReduceMean":
        axes = ir.convenience.get_const_tensor(node.inputs[1]) if len(node.inputs) > 1 and node.inputs[1] else None
        found = axes.numpy().tolist() if axes is not None else node.attributes.get_ints("axes", ())
        return sorted(axis % len(x.shape) for axis in found) == _PLACES[layout.kind]
    if layout.kind not in ("NCHW", "NCDHW"):
        return False
    if node.op_type == "AveragePool":
        return list(node.attributes.get_ints("kernel_shape", ())) == list(x.shape[2:])
    return node.op_type == "GlobalAveragePool"


_PLACES = {"NCHW": [2, 3], "NHWC": [1, 2], "NCDHW": [2, 3, 4], "tokens": [1]}
"""The axes of the places in each layout."""
