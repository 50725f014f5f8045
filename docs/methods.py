"""Writes docs/methods.md: the methods, as their registry states them.

python docs/methods.py
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from onnxcam.methods import Method, graph_methods, methods

PAGE = Path(__file__).with_suffix(".md")

HEAD = """\
# Methods

Written by `python docs/methods.py` from the registry of methods; a test fails where it is not what the registry says.

Most maps are a handful of nodes on the feature map A and its gradients g = ∂yᶜ/∂A, so any number of them go into one
file: `--method gradcam --method layercam`, or `method=["gradcam", "layercam"]`. The first one's map is the output
`cam`, and the others' are `cam.<method>`. Six methods have the picture for their target (at: picture), see
[below](#methods-of-the-picture), and some the [attention of a transformer](#methods-of-the-attention). Maps are raw,
after the method's own ReLU: a negative value speaks against the class, and a heatmap shows no heat there. s is a place,
c a channel, Σ_s a sum over places. Methods that [run the model on changed pictures](#on-changed-pictures) are chosen
when a file runs and are in no file.

- **needs** activations: no backward pass is emitted, and with `--outputs cam` none is in the file. **needs** gradients:
  the piece between feature map and score is differentiated, once for all methods. **needs** curvature: the gradients
  are differentiated once more, to H · A with the Hessian H = ∂²yᶜ/∂A². **needs** biases: the whole model is
  differentiated, down to the picture and to every bias on the way. **needs** attention, attention gradients: the
  attention maps of all layers, and the gradients at them. **needs** head: global average pooling and at most one linear
  layer behind the feature map. **needs** rerun: what is behind the feature map, whatever it is, is
  [run again](#running-the-head-again), and nothing is differentiated.
- **smooths**: takes `--eigen-smooth`, which combines the weighted channels by their first principal component instead
  of their sum.

"""

CHANGED = """
## On changed pictures

These run the model many times, on copies of the picture that are masked, hidden in part, or noisy, with any artifact
that gives what the method **reads**. They are chosen when a file runs: `onnxcam image cat.jpg --method rise
--samples 2000 --seed 1`, with a bar of progress on stderr. `onnxcam video` takes them too, each frame at this cost.

- **reads** scores: any artifact. **reads** activations, gradients: one with those outputs, at the layer that `--layer`
  names or the first. **reads** input gradients: one whose layer is the picture itself, made with
  `onnxcam attach model.onnx --layer IMAGE_INPUT --layout NCHW`; onnxcam says so where it is not.
- x is the model's input behind preprocessing, so what is hidden becomes 0: the mean colour where the preprocessing
  subtracts the mean, else black. M ∘ x is x under a mask M of 0–1, U enlarges bilinearly to the model's input, s scales
  to 0–1 by minimum and maximum. y is the class score before softmax, p the class's probability. Of a model that ends in
  softmax, log p stands for y.
- The class is found once, on the picture as it is, and so is the class to set it apart from where the artifact makes
  contrasts; a contrast or counterfactual is one of y or p here as well. Where what is explained is no class, its number
  stands for y and for p. Several classes take their runs each.
- ONNX Runtime runs the whole file each time, whatever is asked of it: methods that read scores or activations are
  quickest with an artifact at a late layer, and take three times as long or more with one at the picture itself.

"""

CHANGED_TAIL = """
```python
import cv2
import onnxcam

with onnxcam.load("any.cam.onnx") as cam:
    how = onnxcam.Perturbation(samples=100, seed=1, batch=32)
    ex = cam.explain(cv2.imread("cat.jpg"), method="rise", perturbation=how, progress=lambda share: None)
    smooth = cam.explain(cv2.imread("cat.jpg"), augment=["flip", "scale"])

ex.save("cat_rise.png")
```

The same seed gives the same map: whatever the batch, alone or among other pictures. `samples`, `sigma` (noise),
`window` and `stride` (of `occlusion`) are those of `onnxcam.Perturbation`, and options of the same names.

`--augment` averages the maps of several views, by any method of this page, each brought back to the picture: `flip`, as
it is and mirrored; `scale`, as it is, a tenth smaller and a tenth larger about the middle; `intensity`, the model's
input times 0.9, 1 and 1.1. Several multiply: `flip,scale` are six views. With `flip,intensity` it is pytorch-grad-cam's
`aug_smooth`, except that raw maps are averaged, not each scaled to 0–1 before.

"""

CHANGED_DEPARTURES = (
    (
        "`scorecam`",
        "pytorch-grad-cam enlarges maps corner to corner (`align_corners=True`)",
        "cells cover the picture evenly",
        "corner to corner, masks and map lie up to half a cell apart",
    ),
    (
        "`scorecam` and kin",
        "torch-cam scales maps to 0–1, then enlarges them",
        "enlarges, then scales",
        "the paper's order; enlarged maps do not reach 0 and 1",
    ),
    (
        "`sscam`",
        "σ = 2 on masks of 0–1 (torch-cam)",
        "σ = 0.2",
        "under noise of twice the mask's range, pictures are noise: of the heat for the cat of the sample 63% lies on "
        "the half with the cat, and 93% with 0.2",
    ),
    (
        "`iscam`",
        "c_1 = 1/N (torch-cam)",
        "c_1 = 0",
        "the sum begins with 0/N",
    ),
    (
        "`smoothgradcam++`",
        "torch-cam takes D_1 of the last noisy picture alone, and Σ_s D_3 · A where Grad-CAM++ has D_3 · Σ_s A",
        "D_1 is a mean as D_2 and D_3 are; D_3 · Σ_s A",
        "weights that hang on one draw",
    ),
    (
        "`smoothgradcam++`",
        "the paper has D_1 above the line of α",
        "D_2",
        "with one picture and no noise it is Grad-CAM++ then",
    ),
    (
        "`rise`",
        "no mean is taken off",
        "the mean of p is",
        "one number for the whole map: the order of pixels is the same, and 0 divides what speaks for the class from "
        "what speaks against it",
    ),
    (
        "`integrated-gradients`",
        "the paper's sum is one of equal steps",
        "Gauss and Legendre's rule, as captum",
        "the integral itself, more closely with as many runs",
    ),
)
"""What differs of the methods on changed pictures, and why."""

TAIL = """
## What is explained

`--explain` (or `explain=`) says of which score the gradients are taken, or which score is run again, for every method
that needs gradients or rerun:

| `--explain` | score | the map shows |
|---|---|---|
| `class` | y_c | what speaks for the class |
| `counterfactual` | -y_c | what speaks against it: what would have to go for it to be likelier (Selvaraju et al.) |
| `contrast` | y_c - y_d | what speaks for the class rather than for class d |

The class d is the likeliest other one, or chosen when the file runs: `--against espresso`, or in Python
`explain(…, against="espresso")`. `finercam` sets the class apart from three others by itself. The output `gradients` is
∂yᶜ/∂A in any case.

## Methods of the picture

`saliency`, `input-x-gradient`, `guided-backprop`, `deconvolution` and `fullgrad` differentiate down to the picture, and
need no `--layer`; `guided-gradcam` needs the layer of its Grad-CAM too. Their maps are as large as the picture that
the model takes. They go into one file with maps of layers: `--method gradcam --method guided-gradcam --method
saliency`.

```python
import cv2
import onnxcam

onnxcam.attach("plain.onnx", "pixels.cam.onnx", method=["guided-gradcam", "saliency"], preprocess=preprocess)
onnxcam.attach("plain.onnx", "saliency.cam.onnx", method="saliency", preprocess=preprocess)

with onnxcam.load("saliency.cam.onnx") as cam:
    ex = cam.explain(cv2.imread("cat.jpg"))

assert ex.cam.shape == ex.gradients.shape[1:]  # [H, W] of [C, H, W]
```

- **Channels**: a map has one. Of `input-x-gradient` it is the sum over channels, of which only what speaks for the
  class is drawn. Of the others it is the strongest channel whatever its sign: a darker pixel may speak for a class as a
  brighter one. So the counterfactual of `saliency` is `saliency`, and that of `fullgrad`, a sum of absolute values, is
  `fullgrad`. A file with methods of the picture alone has the
  gradient of every channel as its output `gradients`, and so has one made with `--layer` and the model's input.
- **Drawn** as any map, but a heatmap's scale is the value that one pixel in 100 exceeds, as a few pixels stand far
  above the others. So it is for every map as fine as the model's input.
- **ReLU and its kin**: guided backpropagation and deconvolution exchange the rule of ReLU, and here of all that is like
  it: ReLU6 (Clip from 0), LeakyRelu, PRelu, Elu, Selu, Celu, Softplus, and x times a gate that opens with x (SiLU,
  GELU, HardSwish, Mish), whether one operator or several. With f' the derivative and dy what comes back, guided
  backpropagation passes f'(x) · ReLU(dy) on, and deconvolution ReLU(dy). A model without any of them is refused: its
  map would be `saliency`. Sigmoid and Tanh alone are none of them.
- **Biases**: `fullgrad` takes those of convolutions, of linear layers on tokens, of normalisations (of a batch
  normalisation β - μγ/σ, folded into a convolution or not), and what else adds a number to each channel. Of a network
  of ReLU all shares, with those of biases behind the last feature map, add up to the score: within 1e-6 of it for
  ResNet-18 and DenseNet-121. What activations other than ReLU add by being bent is no bias, and has no share, as in
  the authors' code.
- **Cost**: a backward pass through the whole model, one for gradients and one for each of the other two kinds. On the
  CPU, one thread, EfficientNet-lite0 with `saliency` takes 3.4 times a plain inference, ResNet-18 2.4 times.
- **Refused**: a picture that goes into the model as uint8, which has no gradient, and `--fuse`.

## Running the head again

`ablationcam`, `reciprocam` and `vitreciprocam` take the score of masked feature maps. The file has a second copy of the
nodes behind the layer, in a loop (the operator Scan) that runs a few masks at a time; the weights are there once.

- **Cost**: a run of what is behind the layer for each channel or each place, so late layers are quick, and `reciprocam`
  quicker where there are more channels than places. On the CPU, one thread, EfficientNet-lite0 takes 1.3 times a plain
  inference with `reciprocam` at its last map of 49 places, 6 times with `ablationcam` there (1280 channels), and 90
  times with `ablationcam` at `blocks.4` (112 channels of 14×14, with a third of the layers behind them).
- **Memory**: as many masks run at a time as keep the largest value behind the layer at 4 MB, or one mask. With
  `ablationcam` the process of EfficientNet-lite0 has 120 MB at its most, and 110 with `gradcam`.
- **Exact**: what goes past the layer from before it, such as a skip connection, is each picture's own. Several classes
  (`--classes`) share the runs. Where the model has a number of pictures written into it, masks run one at a time.
- `vitreciprocam` masks both halves of a residual block, as OpenVINO XAI: at a block's output also the normalisation
  behind it, and at that normalisation also the skip connection past it; both layers give the same map.

## Methods of the attention

`rollout` and `legrad` are made of the attention maps of all layers, whatever `--layer` says. Their maps have a value
for the place of each token.

- **Found** in the graph, behind a softmax over the last axis between two matrix products. Needed is attention among all
  tokens in every layer, one layer after the other: ViT, DeiT, DINOv2, BEiT, EVA and the like. Refused in one sentence:
  windows (Swin), different tokens (PVT, CaiT), attention beside attention (CrossViT), and attention inside a fused
  operator (`Attention` of operator set 23 and of ONNX Runtime).
- **Tokens without a place** (class, distillation, registers) are known from the graph, or said by `--layout tokens:n`
  with a `--layer` of tokens. `rollout` takes the row of the class token, the mean of all that are read in its place
  (the two of a distilled model), or where none is read the mean of those with a place.
- `rollout` knows no class: its map is the same for each, and `--explain` is refused. `legrad` explains a class, or what
  speaks against it or for it rather than for another.
- `legrad` reads a score off the tokens behind each layer, by the steps that the model has behind its last (norm, class
  token or mean, linear layer), which are run again on each layer's: the paper's scores, not the last one alone. The
  authors' code has the mean of all tokens for those of a class token as well, and takes the last two layers by default.

## Several layers

`--layer layer3 --layer layer4` keeps the maps apart: `cam` and `cam.1`. `--fuse mean` or `--fuse max` joins them: each
map is taken without its negative values, scaled to 0–1 by its minimum and maximum, enlarged bilinearly to the largest,
and then averaged (as pytorch-grad-cam does) or the greatest taken (as torch-cam does). `refinecam` multiplies them.

## Choosing when a file runs

All maps of a file are made in the same pass.

```python
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
        "`guided-backprop`",
        "ReLU modules only (and captum)",
        "ReLU and its kin",
        "EfficientNet-lite0 and MobileNet have ReLU6, and would get the plain gradient; newer models SiLU or GELU",
    ),
    (
        "`guided-gradcam`",
        "Grad-CAM scaled to 0–1 first (captum: enlarged by nearest neighbour)",
        "raw, enlarged bilinearly",
        "maps are raw; a Grad-CAM is smooth",
    ),
    (
        "`fullgrad`",
        "biases of modules that are `Conv2d` or `BatchNorm2d` and nothing derived from them: of timm's "
        "EfficientNet-lite0 not one",
        "every bias in the graph",
        "the map is of the input's gradient alone there",
    ),
    (
        "`fullgrad`",
        "x / (max + 1e-7), for each channel of each bias",
        "x / max, 0 where flat",
        "shares b · g of small gradients are of the epsilon's size, and shrink; the paper has none (the authors' code "
        "scales all channels of a layer together, where the paper's equation has each apart)",
    ),
    (
        "`ablationcam`",
        "a channel becomes min(A) - 1e7 where A has negative values",
        "0 always",
        "the paper's 0; what a network makes of -1e7 is no score without the channel",
    ),
    (
        "`ablationcam`",
        "over y (and in the paper)",
        r"over \|y\|",
        "where y < 0 the map would show what speaks against the class",
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
        method.target,
        method.needs,
        method.cost,
        "yes" if method.smooths else "",
        method.paper,
    )
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def lines() -> Iterator[str]:
    yield "| method | | equation | at | needs | costs | smooths | source |"
    yield "|---|---|---|---|---|---|---|---|"
    yield from (row(method) for method in graph_methods().values() if method.build.__module__.startswith("onnxcam."))


def changed_pictures() -> Iterator[str]:
    """The table of methods that run the model on changed pictures."""
    yield "| method | | equation | reads | costs | source |"
    yield "|---|---|---|---|---|---|"
    for method in methods().values():
        if method.build is None:
            cells = (f"`{method.name}`", method.summary, method.equation, method.reads, method.cost, method.paper)
            yield "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def page() -> str:
    """The text of docs/methods.md."""
    departures = ["| | pytorch-grad-cam 1.5.7 | here | why |", "|---|---|---|---|"]
    departures += ["| " + " | ".join(cells) + " |" for cells in DEPARTURES]
    others = ["| | elsewhere | here | why |", "|---|---|---|---|"]
    others += ["| " + " | ".join(cells) + " |" for cells in CHANGED_DEPARTURES]
    return (
        HEAD
        + "\n".join(lines())
        + "\n"
        + CHANGED
        + "\n".join(changed_pictures())
        + "\n"
        + CHANGED_TAIL
        + "\n".join(others)
        + "\n"
        + TAIL
        + "\n".join(departures)
        + "\n"
    )


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
