"""A method's graph on its own, run in ONNX Runtime."""

from __future__ import annotations

__all__ = ["run", "run_attention", "run_graph"]

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
from onnxscript import OpBuilder

from onnxcam.autodiff.emitter import emitter
from onnxcam.methods import Attention, Head, Masks, Rerun, Site, find_method


def run(
    name: str,
    A: np.ndarray,
    g: np.ndarray,
    *,
    curvature: np.ndarray | None = None,
    biases: Sequence[np.ndarray] = (),
    weights: np.ndarray | None = None,
    explained: int = 0,
    eigen_smooth: bool = False,
    open_sizes: bool = False,
) -> np.ndarray:
    """The maps [N, h, w] of the method ``name`` on A and g [N, C, h, w]; ``weights`` are those of a CAM head.

    curvature: H A, shaped as A.
    biases: what each adds to the score, [N, C, h, w].

    A method that needs layer and picture has A and g for both.
    A rerun sums the places of each channel up, and the channels with ``weights``, or 1.
    """
    shape = ["N", A.shape[1], *(("h", "w") if open_sizes else A.shape[2:])]

    def build(op: OpBuilder, x: Mapping[str, ir.Value]) -> ir.Value:
        x["A"].shape = ir.Shape(shape)
        head = Head(weights=x.get("weights"))
        picture = Site(op=op, activations=x["A"], gradients=x["g"], explained_class=x["k"])
        added = [value for name, value in x.items() if name.startswith("bias")]
        for value, array in zip(added, biases, strict=True):
            value.shape = ir.Shape(["N", *((None,) * 3 if open_sizes else array.shape[1:])])
        return find_method(name).build(
            Site(
                op=op,
                activations=x["A"],
                gradients=x["g"],
                curvature=x.get("H"),
                biases=added,
                explained_class=x["k"],
                head=head,
                rerun=linear_rerun(op, x["A"], x.get("weights")),
                eigen_smooth=eigen_smooth,
                picture=picture,
            )
        )

    feed = {"A": A, "g": g, "H": curvature, "weights": weights}
    feed |= {f"bias{i}": bias for i, bias in enumerate(biases)}
    feed = {name: x for name, x in feed.items() if x is not None}
    classes = {"k": np.full(len(A), explained, np.int64)}
    return run_graph(build, {name: x.astype(np.float32) for name, x in feed.items()} | classes)


def linear_rerun(op: OpBuilder, A: ir.Value, weights: ir.Value | None) -> Rerun:
    """y = Σ_c w_c Σ_s A_c, of all masked copies at a time."""

    def score(x: ir.Value) -> ir.Value:
        sums = op.ReduceSum(x, [-2, -1], keepdims=0)
        return op.ReduceSum(sums if weights is None else op.Mul(sums, op.Unsqueeze(weights, [1])), [-1], keepdims=0)

    def scores(masks: Masks) -> ir.Value:
        size = op.Shape(A, start=1, end=4)
        counted = op.Slice(size, [1], [3]) if masks.along == "places" else op.Slice(size, [0], [1])
        mask = masks.build(op, op.Range(0, op.ReduceProd(counted, keepdims=0), 1), size)
        return score(op.Mul(op.Unsqueeze(A, [1]), op.Unsqueeze(mask, [0])))

    return Rerun(score=op.Squeeze(score(op.Unsqueeze(A, [1])), [1]), scores=scores)


def run_attention(
    name: str, maps: Sequence[np.ndarray], *, grid: tuple[int, int], read: Sequence[int] = (0,), extra_tokens: int = 1
) -> np.ndarray:
    """The maps [N, h, w] of the method ``name`` on the attention ``maps`` [N, heads, T, T] of each layer.

    They stand for the gradients at them too.
    """

    def build(op: OpBuilder, x: Mapping[str, ir.Value]) -> ir.Value:
        values = list(x.values())
        attention = Attention(maps=values, gradients=values, read=read, extra_tokens=extra_tokens, grid=grid)
        site = Site(op=op, activations=attention.maps[-1], explained_class=None, attention=attention)
        return find_method(name).build(site)

    return run_graph(build, {f"map{i}": np.float32(x) for i, x in enumerate(maps)})


def run_graph(
    build: Callable[[OpBuilder, Mapping[str, ir.Value]], ir.Value], feed: Mapping[str, np.ndarray]
) -> np.ndarray:
    """What the nodes that ``build`` emits make of the arrays ``feed``, by name."""
    values = {name: ir.val(name, ir.DataType.from_numpy(x.dtype), [None] * x.ndim) for name, x in feed.items()}
    graph = ir.Graph(list(values.values()), [], nodes=[], opset_imports={"": 18}, name="g")
    result = build(emitter(graph, "method"), values)
    result.dtype = ir.DataType.FLOAT
    graph.outputs.append(result)
    session = ort.InferenceSession(ir.to_proto(ir.Model(graph, ir_version=8)).SerializeToString())
    (got,) = session.run(None, dict(feed))
    return got
