"""Models small enough to follow by hand, attached: pictures of 4 × 8 pixels go in as they are."""

from __future__ import annotations

__all__ = ["CLASSES", "HEIGHT", "PREPROCESS", "SEED", "WIDTH", "attached", "picture"]

from pathlib import Path

import numpy as np
import onnx
from onnx import parser

import onnxcam
from onnxcam.contract import Preprocess

HEIGHT, WIDTH, CLASSES = 4, 8, 3
SEED = 11
"""Of the weights where none are given."""
PREPROCESS = Preprocess(
    height=HEIGHT, width=WIDTH, resize="stretch", scale=1.0, mean=(0.0,) * 3, std=(1.0,) * 3, color="rgb"
)

_GRAPHS = {
    # scores are weighted sums of the means of 4 × 4 pixels
    "linear": """pooled = AveragePool <kernel_shape=[4,4], strides=[4,4]> (image)
        flat = Flatten (pooled)
        logits = Gemm <transB=1> (flat, weights)""",
    # scores are weighted sums of squares, so that a gradient is twice the weight times the picture
    "square": """pooled = Mul (image, image)
        flat = Flatten (pooled)
        logits = Gemm <transB=1> (flat, weights)""",
    # the probability of class 0 is a weighted sum of the picture
    "probability": """pooled = Relu (image)
        flat = Flatten (pooled)
        p = Gemm <transB=1> (flat, weights)
        q = Sub (one, p)
        both = Concat <axis=1> (p, q)
        logits = Log (both)""",
    "network": """a = Conv <kernel_shape=[3,3], pads=[1,1,1,1], strides=[1,2]> (image, kernel)
        pooled = Softplus (a)
        mean = GlobalAveragePool (pooled)
        flat = Flatten (mean)
        bent = Tanh (flat)
        logits = Gemm <transB=1> (bent, weights)""",
    # NaN where the picture is empty
    "broken": """pooled = Relu (image)
        flat = Flatten (pooled)
        sums = Gemm <transB=1> (flat, weights)
        length = ReduceL2 <keepdims=1> (flat, axis)
        logits = Div (sums, length)""",
}


def attached(
    folder: Path,
    kind: str,
    weights: np.ndarray | None = None,
    *,
    layer: str | list[str] = "pooled",
    end: str = "",
    batch: str = "N",
    channels_last: bool = False,
    preprocess: Preprocess = PREPROCESS,
    **how: object,
) -> Path:
    """The artifact of a model of that ``kind`` at ``layer``; ``end`` is an operator behind its scores.

    channels_last: the picture comes in as [N, H, W, C].
    """
    rng = np.random.default_rng(SEED)
    columns = {"linear": 6, "network": 4}.get(kind, 3 * HEIGHT * WIDTH)
    weights = rng.standard_normal((CLASSES, columns)) if weights is None else weights
    constants = {"weights": weights, "kernel": rng.standard_normal((4, 3, 3, 3)) / 5, "one": np.ones((1, 1))}
    body, classes = _GRAPHS[kind], 2 if kind == "probability" else len(weights)
    if end:
        body = body.replace("logits =", "raw =") + f"\nlogits = {end} (raw)"
    shape = f"{HEIGHT},{WIDTH},3" if channels_last else f"3,{HEIGHT},{WIDTH}"
    if channels_last:
        body = "planes = Transpose <perm=[0,3,1,2]> (image)\n" + body.replace("image", "planes")
    text = f"""<ir_version: 8, opset_import: ["" : 18]>
        net (float[{batch},{shape}] image) => (float[{batch},{classes}] logits) {{ {body} }}"""
    model = parser.parse_model(text)
    for name, array in constants.items():
        if name in body:
            model.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(array), name))
    if "axis" in body:
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.int64([1]), "axis"))
    source = folder / f"{kind}{len([*folder.iterdir()])}.onnx"
    onnx.save(model, source)
    layout = None if "image" not in layer or channels_last else "NCHW"
    return onnxcam.attach(source, layer=layer, layout=layout, preprocess=preprocess, **how).path


def picture(seed: int = 0, highest: int = 9) -> np.ndarray:
    """Small whole numbers, BGR."""
    return np.random.default_rng(seed).integers(1, highest + 1, (HEIGHT, WIDTH, 3), np.uint8)
