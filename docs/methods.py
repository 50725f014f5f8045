"""Writes docs/methods.md: the methods, as their registry states them.

python docs/methods.py
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from onnxcam.methods import Method, methods

PAGE = Path(__file__).with_suffix(".md")

HEAD = """\
# Methods

Written by `python docs/methods.py` from the registry of methods; a test fails where it is not what the registry says.

Every map is a handful of nodes on the feature map A and its gradients g = ∂yᶜ/∂A, so any number of them go into one
file: `--method gradcam --method layercam`, or `method=["gradcam", "layercam"]`. The first one's map is the output
`cam`, and the others' are `cam.<method>`. Maps are raw, after the method's own ReLU: a negative value speaks against
the class, and a heatmap shows no heat there. s is a place, c a channel, Σ_s a sum over places.

- **needs** activations: no backward pass is emitted, and with `--outputs cam` none is in the file. **needs** gradients:
  the piece between feature map and score is differentiated, once for all methods. **needs** head: global average
  pooling and at most one linear layer behind the feature map.
- **smooths**: takes `--eigen-smooth`, which combines the weighted channels by their first principal component instead
  of their sum.

"""

TAIL = """
## What is explained

`--explain` (or `explain=`) says of which score the gradients are taken, for every method that needs them:

| `--explain` | score | the map shows |
|---|---|---|
| `class` | y_c | what speaks for the class |
| `counterfactual` | -y_c | what speaks against it: what would have to go for it to be likelier (Selvaraju et al.) |
| `contrast` | y_c - y_d | what speaks for the class rather than for class d |

The class d is the likeliest other one, or chosen when the file runs: `--against espresso`, or in Python
`explain(…, against="espresso")`. `finercam` sets the class apart from three others by itself. The output `gradients` is
∂yᶜ/∂A in any case.

## Several layers

`--layer layer3 --layer layer4` keeps the maps apart: `cam` and `cam.1`. `--fuse mean` or `--fuse max` joins them: each
map is taken without its negative values, scaled to 0–1 by its minimum and maximum, enlarged bilinearly to the largest,
and then averaged (as pytorch-grad-cam does) or the greatest taken (as torch-cam does). `refinecam` multiplies them.

## Choosing when a file runs

All maps of a file are made in the same pass.

```python
import cv2
import onnxcam

onnxcam.attach("plain.onnx", "several.cam.onnx", method=["gradcam", "layercam", "eigencam"], preprocess=preprocess)

with onnxcam.load("several.cam.onnx") as cam:
    print(cam.methods, cam.layers)
    ex = cam.explain(cv2.imread("cat.jpg"), method="layercam")

ex.save("cat_layercam.png")
print({method: values.max() for method, values in ex.cams.items()})
```

`onnxcam image several.cam.onnx cat.jpg --method layercam` and `onnxcam video` do the same; `--layer` chooses the layer.

## A method of one's own

In Python, from the feature map and the gradients that an artifact gives, shaped as the model has them, without the
batch:

```python
from dataclasses import replace

import numpy as np

mine = np.abs(ex.activations * ex.gradients).sum(axis=0)  # [C, h, w] here
replace(ex, cam=mine.astype(np.float32)).save("cat_mine.png")
```

As nodes of the file, with one decorated function: it gets A and g as float32 [N, C, h, w], whatever layout and type the
model has, and gives [N, h, w].

```python
from onnxcam.methods import Site, method


@method("absolute", equation="Σ_c |g_c · A_c|", paper="none", needs="gradients")
def absolute(at: Site):
    \"\"\"Where the score hangs on the feature map, for or against.\"\"\"
    return at.combine(at.op.Abs(at.op.Mul(at.gradients, at.activations)))


onnxcam.attach("plain.onnx", "absolute.cam.onnx", method="absolute", preprocess=preprocess)
```

## Principal components

ONNX has no SVD. The components come from a power iteration: the smaller of the two Gram matrices of the centred map is
squared 16 times, which is its 65536th power. The length of what is found is the greatest within 1e-5. Its direction is
exact within about 1e-6 / gap, the gap being 1 - (σ₂/σ₁)²: where two components are equally long, it is some mixture of
them, always the same one. A component has no sign of its own; each method states which it takes.

## Where onnxcam departs from pytorch-grad-cam, and why

"""


DEPARTURES = (
    (
        "`gradcam++`",
        "1e-6 beside 2g² + g³ΣA",
        "no epsilon",
        "gradients at a 7×7 map are around 1e-3, so 2g² is of the epsilon's size, and the weights shrink "
        "with the gradients",
    ),
    (
        "`xgradcam`",
        "1e-7 beside ΣA",
        "0 where ΣA is nothing but rounding",
        "the weight of a channel whose values cancel out is rounding over rounding",
    ),
    (
        "`eigencam`, `eigengradcam`, eigen-smooth",
        "the sign that LAPACK returns",
        "that of the channels' mean",
        "a map is inverted on one machine and not on another",
    ),
    (
        "`kpcacam`",
        "the sign of the largest entry",
        "that of the channels' mean",
        "the same sign as `eigencam`",
    ),
    (
        "ReLU",
        "on every map",
        "where the method has one",
        "hirescam, cam, fem and the principal components have none; a heatmap hides negative values in any case",
    ),
    (
        "`random`",
        "drawn anew for each picture",
        "drawn when the file is made",
        "a baseline that changes from frame to frame cannot be compared",
    ),
    (
        "fused layers",
        "enlarged to the picture",
        "enlarged to the largest map",
        "the picture's size is not the graph's to know",
    ),
    (
        "scaling",
        "x / (max + 1e-7)",
        "x / max, 0 where flat",
        "maps of small gradients lose their contrast",
    ),
    (
        "`refinecam`",
        "multiplied at the picture's size",
        "at the largest map's",
        "as fused layers",
    ),
)
"""What differs, in pytorch-grad-cam 1.5.7 and here, and why."""


def row(method: Method) -> str:
    """One line of the table."""
    cells = (
        f"`{method.name}`",
        method.summary,
        method.equation,
        method.needs,
        method.cost,
        "yes" if method.smooths else "",
        method.paper,
    )
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def lines() -> Iterator[str]:
    yield "| method | | equation | needs | costs | smooths | source |"
    yield "|---|---|---|---|---|---|---|"
    yield from (row(method) for method in methods().values() if method.build.__module__.startswith("onnxcam."))


def page() -> str:
    """The text of docs/methods.md."""
    departures = ["| | pytorch-grad-cam 1.5.7 | here | why |", "|---|---|---|---|"]
    departures += ["| " + " | ".join(cells) + " |" for cells in DEPARTURES]
    return HEAD + "\n".join(lines()) + "\n" + TAIL + "\n".join(departures) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
