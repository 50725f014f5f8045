"""Attention rollout: attention followed from layer to layer, back to the picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxcam.methods.registry import Site, method

if TYPE_CHECKING:
    import onnx_ir as ir


@method(
    "rollout",
    equation="r · Π_l (½ · mean_heads(A_l) + ½ · I), the last layer first; r the row of the class token, or the mean "
    "of all rows",
    paper="Abnar and Zuidema, Quantifying Attention Flow in Transformers, ACL 2020, section 3",
    needs="attention",
    cost="a few nodes for each layer",
    target="attention",
)
def rollout(at: Site) -> ir.Value:
    """How much of each place the attention of all layers brings to where the score is read. The same for every class.

    Each layer passes on half of a token and half of what it attends to. Where several tokens without a place are read,
    as of a distilled model, their rows are averaged. The values add up to 1 with those of the tokens without a place.
    """
    import numpy as np
    import onnx_ir as ir

    assert at.attention is not None
    op, attention = at.op, at.attention
    read = np.zeros((1, 1, 1, attention.tokens), np.float32)
    read[..., list(attention.read)] = 1 / len(attention.read)
    rows = op.initializer(ir.tensor(read), name=f"rollout_{op.builder.graph.num_nodes()}")
    for weights in reversed(attention.maps):
        brought = op.ReduceMean(op.MatMul(rows, weights), [1], keepdims=1)
        rows = op.Mul(op.Add(brought, rows), 0.5)
    return attention.places(op, op.Squeeze(rows, [1, 2]))
