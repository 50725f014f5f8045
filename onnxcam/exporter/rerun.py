"""What is behind a feature map, run again on masked copies of it: a few at a time, by one copy of its nodes."""

from __future__ import annotations

__all__ = ["Reruns"]

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as passes
from onnxscript import OpBuilder

from onnxcam.autodiff.emitter import emitter
from onnxcam.autodiff.subgraphs import prune, scan
from onnxcam.contract import Explain, Preprocess
from onnxcam.errors import LayerError, MethodError
from onnxcam.exporter.behind import Behind, behind
from onnxcam.exporter.comparison import relative_error
from onnxcam.exporter.layers import Target
from onnxcam.exporter.layout import Layout
from onnxcam.exporter.sample import sample_feed
from onnxcam.exporter.scores.contrast import reading_of, value_of
from onnxcam.exporter.scores.protocol import Seed, Subject
from onnxcam.exporter.sessions import RUNTIME_ERRORS, cpu_session
from onnxcam.methods import Masks, Rerun
from onnxcam.methods.arithmetic import TINY

_ELEMENTS: Final = 1 << 20
"""Of all copies that run at a time, the largest value behind the feature map has about this many elements."""
_OPEN: Final = 1 << 17
"""Elements reckoned with for a value of one picture whose sizes are open."""
_ALIKE: Final = 0.02
"""Relative difference up to which copies that run at a time give what each gives alone, in half precision too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reruns:
    """The reruns of all ``targets`` for all ``subjects``: those of one kind of masks are made once.

    others: the classes that a contrast is from, one for each subject; else none.
    image: the input that takes the picture.
    preprocess: how large it is, where the graph leaves that open.
    """

    op: OpBuilder
    model: ir.Model
    targets: Sequence[Target]
    subjects: Sequence[Subject]
    others: Sequence[ir.Value]
    explain: Explain
    image: ir.Value
    preprocess: Preprocess | None
    _behind: dict[int, tuple[Behind, bool]] = field(default_factory=dict)
    _found: dict[tuple[int, Masks], ir.Value] = field(default_factory=dict)

    def of(self, subject: Subject, layer: int, activations: ir.Value) -> Rerun:
        """That of ``subject`` at the target with position ``layer``, whose places are ``activations`` [N, C, h, w]."""
        op, k = self.op, [other is subject for other in self.subjects].index(True)
        seed = self._seeds()[k]
        products = _products(op, seed.value, _adjoints(op, [seed]), unit=seed.unit)
        score = products
        if subject.explained is not None:  # what the last linear layer adds to the products is no part of them
            score = value_of(op, subject, self.explain, self._other(k))
        offset = op.Sub(score, products)

        def scores(masks: Masks) -> ir.Value:
            found = op.Slice(self._scores(layer, masks, activations), [k], [k + 1], [2])
            moved: ir.Value = op.Add(op.Squeeze(found, [2]), offset)
            return moved

        return Rerun(score=op.Squeeze(score, [1]), scores=scores)

    def _other(self, k: int) -> ir.Value | None:
        return self.others[k] if self.others else None

    def _seeds(self) -> list[Seed]:
        return [reading_of(self.op, subject, self.explain, self._other(k)) for k, subject in enumerate(self.subjects)]

    def _scores(self, layer: int, masks: Masks, activations: ir.Value) -> ir.Value:
        """Σ value · adjoint of the seeds for each copy: float32 [N, masks, subjects]."""
        if (layer, masks) not in self._found:
            target = self.targets[layer]
            if masks.planar and target.layout.kind == "NCDHW":
                raise MethodError(
                    f"layer '{target.name}' gives volumes, and 'vitreciprocam' looks at neighbours in a plane: take "
                    "'reciprocam', or 'gradcam'"
                )
            seeds = self._seeds()
            head, by_rows = self._head(layer, seeds[0].value)
            run = _by_rows if by_rows else _by_pictures
            self._found[layer, masks] = run(self.op, head, target.layout, masks, activations, seeds)
        return self._found[layer, masks]

    def _head(self, layer: int, result: ir.Value) -> tuple[Behind, bool]:
        """What is behind the target, and whether copies of one picture may run at a time."""
        if layer not in self._behind:
            target = self.targets[layer]
            head = behind(self.model.graph, target.value, result)
            if head is None:
                raise LayerError(
                    f"the score does not depend on layer '{target.name}': choose one that 'onnxcam layers' lists"
                )
            self._behind[layer] = head, _takes_rows(self.model, head, self.image, self.preprocess)
        return self._behind[layer]


def _by_rows(
    op: OpBuilder, head: Behind, layout: Layout, masks: Masks, activations: ir.Value, seeds: Sequence[Seed]
) -> ir.Value:
    """As many copies at a time as fit, whatever picture they are of; the last ones are filled up."""
    images, size = op.Shape(activations, start=0, end=1), op.Shape(activations, start=1, end=4)
    count, adjoints, most = _count(op, masks, activations), _adjoints(op, seeds), _fitting(head)
    total = op.Mul(images, count)
    chunks = op.Div(op.Add(total, [most - 1]), [most])
    rows = op.Div(op.Add(total, op.Sub(chunks, [1])), chunks)
    last = op.Sub(total, [1])
    numbers = op.Min(op.Range(0, op.Squeeze(op.Mul(chunks, rows), [0]), 1), last)

    def step(
        inner: OpBuilder, _: Sequence[ir.Value], elements: Sequence[ir.Value]
    ) -> tuple[Sequence[ir.Value], Sequence[ir.Value]]:
        picture, number = inner.Div(elements[0], count), inner.Mod(elements[0], count)
        mask = _laid_out(inner, masks.build(inner, number, size), layout, masks, head.value)
        masked = partial(_masked, inner, mask)
        rows = _typed(head.value, inner.Gather(head.value, picture, axis=0))
        result = head.copied(inner, masked(rows), picture, masked if masks.alongside else None)
        return [], [_products(inner, result, inner.Gather(adjoints, picture, axis=0), unit=seeds[0].unit)]

    numbers = op.Reshape(numbers, op.Concat(chunks, rows, axis=0))
    numbers.dtype, numbers.shape = ir.DataType.INT64, ir.Shape([None, None])
    (found,) = scan(op, step, [], [numbers])
    found = op.Slice(op.Reshape(found, [-1, len(seeds)]), [0], total, [0])
    shaped: ir.Value = op.Reshape(found, op.Concat(images, count, [len(seeds)], axis=0))
    return shaped


def _by_pictures(
    op: OpBuilder, head: Behind, layout: Layout, masks: Masks, activations: ir.Value, seeds: Sequence[Seed]
) -> ir.Value:
    """One copy of each picture at a time: for what is behind, nothing but the numbers are different."""
    size = op.Shape(activations, start=1, end=4)
    adjoints = _adjoints(op, seeds)

    def step(
        inner: OpBuilder, _: Sequence[ir.Value], elements: Sequence[ir.Value]
    ) -> tuple[Sequence[ir.Value], Sequence[ir.Value]]:
        number = inner.Unsqueeze(elements[0], [0])
        mask = _laid_out(inner, masks.build(inner, number, size), layout, masks, head.value)
        masked = partial(_masked, inner, mask)
        result = head.copied(inner, masked(head.value), alongside=masked if masks.alongside else None)
        return [], [_products(inner, result, adjoints, unit=seeds[0].unit)]

    numbers = op.Range(0, op.Squeeze(_count(op, masks, activations), [0]), 1)
    numbers.dtype, numbers.shape = ir.DataType.INT64, ir.Shape([None])
    (found,) = scan(op, step, [], [numbers])
    ordered: ir.Value = op.Transpose(found, perm=[1, 0, 2])
    return ordered


def _count(op: OpBuilder, masks: Masks, activations: ir.Value) -> ir.Value:
    """How many masks there are, int64 [1]."""
    if masks.along == "channels":
        return op.Shape(activations, start=1, end=2)  # type: ignore[no-any-return]
    return op.ReduceProd(op.Shape(activations, start=2, end=4), keepdims=1)  # type: ignore[no-any-return]


def _laid_out(op: OpBuilder, mask: ir.Value, layout: Layout, masks: Masks, value: ir.Value) -> ir.Value:
    """``mask`` [B, C or 1, h or 1, w or 1] as it is multiplied with ``value``, whose layout is ``layout``."""
    found = mask
    if layout.kind == "NHWC":
        found = op.Transpose(mask, perm=[0, 2, 3, 1])
    elif layout.kind == "NCDHW" and masks.along == "channels":
        found = op.Unsqueeze(mask, [4])
    elif layout.kind == "NCDHW":
        found = op.Reshape(mask, op.Concat([-1, 1], op.Shape(value, start=2), axis=0))
    elif layout.kind == "tokens" and masks.along == "channels":
        found = op.Transpose(op.Squeeze(mask, [3]), perm=[0, 2, 1])
    elif layout.kind == "tokens":
        found = op.Reshape(mask, [0, -1, 1])
        if layout.extra_tokens:
            found = op.Pad(found, [0, layout.extra_tokens, 0, 0, 0, 0], 1.0)
    return found


def _masked(op: OpBuilder, mask: ir.Value, value: ir.Value) -> ir.Value:
    """Each row of ``value`` under its mask."""
    return _typed(value, op.Mul(value, mask if value.dtype == ir.DataType.FLOAT else op.CastLike(mask, value)))


def _adjoints(op: OpBuilder, seeds: Sequence[Seed]) -> ir.Value:
    """The adjoints of ``seeds``, which start at the same value: float32 [N, seeds, elements]."""
    rows = [op.Unsqueeze(_flat(op, seed.adjoint), [1]) for seed in seeds]
    return rows[0] if len(rows) == 1 else op.Concat(*rows, axis=1)  # type: ignore[no-any-return]


def _products(op: OpBuilder, value: ir.Value, adjoints: ir.Value, *, unit: bool) -> ir.Value:
    """Σ value · adjoint for each row, of the value over its length where ``unit``: float32 [B, seeds]."""
    rows = _flat(op, value)
    products: ir.Value = op.Squeeze(op.MatMul(adjoints, op.Unsqueeze(rows, [2])), [2])
    if unit:
        products = op.Div(products, op.Max(op.ReduceL2(rows, [1]), TINY))
    products.dtype = ir.DataType.FLOAT
    return products


def _flat(op: OpBuilder, value: ir.Value) -> ir.Value:
    wide = value if value.dtype == ir.DataType.FLOAT else op.Cast(value, to=ir.DataType.FLOAT)
    return op.Flatten(wide, axis=1)  # type: ignore[no-any-return]


def _fitting(head: Behind) -> int:
    """How many copies run at a time."""
    values = [head.value, *head.beside, *(y for node in head.nodes for y in node.outputs)]
    return max(1, _ELEMENTS // max(_elements(value) for value in values))


def _elements(value: ir.Value) -> int:
    """The elements of ``value`` for one picture."""
    if value.shape is None:
        return _OPEN
    sizes = [dim for dim in list(value.shape)[1:] if isinstance(dim, int)]
    return max(1, math.prod(sizes)) if len(sizes) >= len(value.shape) - 1 else _OPEN


def _takes_rows(model: ir.Model, head: Behind, image: ir.Value, preprocess: Preprocess | None) -> bool:
    """Whether what is behind gives copies of pictures that run at a time what it gives each alone.

    It does not where a number of pictures is written into it, or an axis is not that of the pictures. So it is tried:
    two pictures, if as many may be given, and beside them their maps at 0.
    """
    copy = model.clone()
    graph = copy.graph
    names = {y.name: y for y in (*graph.inputs, *(y for node in graph for y in node.outputs))}
    found = behind(graph, names[head.value.name], names[head.result.name])
    assert found is not None
    op = emitter(graph, "trial")
    images = op.Shape(found.value, start=0, end=1)
    one = op.Range(0, op.Squeeze(images, [0]), 1)
    both = op.Gather(found.value, op.Concat(one, one, axis=0), axis=0)
    flat = [1] * (len(found.value.shape or ()) - 1)
    factor = op.CastLike(op.Concat(op.Expand([1.0], images), op.Expand([0.0], images), axis=0), found.value)
    changed = _typed(found.value, op.Mul(both, op.Reshape(factor, [-1, *flat])))
    alone = found.copied(op, _typed(found.value, op.Mul(found.value, op.CastLike(0.0, found.value))))
    together = found.copied(op, changed, op.Concat(one, one, axis=0))
    expected = op.Concat(found.result, alone, axis=0)
    graph.outputs[:] = [_typed(found.result, op.Identity(y)) for y in (together, expected)]
    prune(graph)
    passes.RemoveUnusedNodesPass()(copy)
    passes.NameFixPass()(copy)
    feed = sample_feed(graph.inputs, image=names[image.name], preprocess=preprocess, batch=2)
    try:
        got, wanted = cpu_session(copy).run(None, feed)
    except RUNTIME_ERRORS:
        return False
    return bool(relative_error(np.asarray(got), np.asarray(wanted)) <= _ALIKE)


def _typed(x: ir.Value, y: ir.Value) -> ir.Value:
    y.type = x.type
    return y
