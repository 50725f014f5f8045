"""Relative error of the graph's gradients against torch's autograd, at the usual layer and at the input.

    python benchmarks/gradient_errors.py [MODEL ...] [--json FILE]

max|got - expected| / max|expected|, float32, ONNX Runtime on the CPU. At the layer: over a batch of two pictures,
the second explained for its second class. At the input a network of ReLUs has millions of kinks, and float32
rounding falls on the wrong side of a few of them in any runtime, each time others; a flip moves the gradient by about
1e-2, while a wrong rule is wrong on every picture. So pictures are tried in order until neither torch (against its
own float64) nor the graph has such a flip; the columns give both errors and the picture's seed, and the median of
the graph's error over all that were tried. Weights are seeded and random.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
from pathlib import Path

import numpy as np

from models import USUAL_LAYERS, lively
from onnxcam.contract import ACTIVATIONS, GRADIENTS
from onnxcam.exporter.artifact import ArtifactOptions, add_explanation
from onnxcam.exporter.comparison import compare_with_torch, relative_error
from onnxcam.exporter.layers import Target
from onnxcam.exporter.layout import NCHW
from onnxcam.exporter.scores import find_score
from onnxcam.exporter.torch import INPUT, Module, Tensor, export_module, random_example, reference

PICTURES = 12
RESOLVED = 1e-4


def errors(model: Module, example: Tensor, layer: str) -> dict[str, float]:
    """The relative errors of outputs, activations and gradients of ``model`` at ``layer``."""
    exported = export_module(model, random_example((3, 224, 224)), [layer])
    info = add_explanation(
        exported.model,
        [Target(name=layer, value=exported.targets[0], layout=NCHW)],
        score=find_score(exported.model.graph),
        image=exported.model.graph.inputs[0],
        options=ArtifactOptions(methods=()),
    )
    return compare_with_torch(exported.model, info, model, example, [layer])


def input_errors(model: Module) -> tuple[float, float, int, float]:
    """At the input: the graph's error, that of torch's float32, the picture's seed; the median of the graph's."""
    exact = copy.deepcopy(model).double()
    tried = []
    for seed in range(PICTURES):
        picture = random_example((3, 224, 224), batch=1, seed=seed)
        scores = model(picture)
        top = np.eye(scores.shape[1])[scores.argmax(1)]
        single, double = (
            reference(m, x, [INPUT], [top]).gradients[0][0] for m, x in ((model, picture), (exact, picture.double()))
        )
        tried.append((errors(model, picture, INPUT)[GRADIENTS], relative_error(single, double), seed))
        if max(tried[-1][:2]) < RESOLVED:
            break
    best = min(tried, key=lambda entry: max(entry[:2]))
    return *best, statistics.median(entry[0] for entry in tried)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("models", nargs="*", default=list(USUAL_LAYERS))
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows = []
    heads = ("outputs", "A", "dy/dA", "dy/dinput", "float32", "picture", "median")
    print(f"{'model':<24}{'layer':<12}" + "".join(f"{head:>10}" for head in heads))
    for name in arguments.models:
        layer, model = USUAL_LAYERS[name], lively(name)
        at_layer = errors(model, random_example((3, 224, 224)), layer)
        at_input, float32, seed, median = input_errors(model)
        numbers = (at_layer["outputs"], at_layer[ACTIVATIONS], at_layer[GRADIENTS], at_input, float32)
        print(
            f"{name:<24}{layer:<12}" + "".join(f"{x:>10.1e}" for x in numbers) + f"{seed:>10}{median:>10.1e}",
            flush=True,
        )
        rows.append({"model": name, "layer": layer, **dict(zip(heads, (*numbers, seed, median), strict=True))})
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
