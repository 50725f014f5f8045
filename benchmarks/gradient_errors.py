"""Relative error of the graph's gradients against torch's autograd, at the usual layer and at the input.

    python benchmarks/gradient_errors.py [MODEL ...] [--json FILE]

max|got - expected| / max|expected|, float32, ONNX Runtime on the CPU. At the layer: over a batch of two pictures,
the second explained for its second class. At the input a network of ReLUs has so many kinks that float32 alone
often falls on the wrong side of one, in torch as well: so the pictures are tried in order, and the first on which
torch's float32 agrees with torch's float64 to 1e-4 is taken; the columns name it and that agreement. Weights are
seeded and random.
"""

from __future__ import annotations

import argparse
import copy
import json
from pathlib import Path

from models import USUAL_LAYERS, lively
from onnxcam.contract import ACTIVATIONS, GRADIENTS
from onnxcam.exporter import compare_with_torch, relative_error
from onnxcam.exporter.artifact import ArtifactOptions, add_explanation
from onnxcam.exporter.torch import INPUT, Module, Tensor, export_module, random_example, reference

PICTURES = 40
RESOLVED = 1e-4


def errors(model: Module, example: Tensor, layer: str) -> dict[str, float]:
    """The relative errors of outputs, activations and gradients of ``model`` at ``layer``."""
    exported = export_module(model, random_example((3, 224, 224)), [layer])
    info = add_explanation(
        exported.model, [(layer, exported.targets[0])], output=exported.output, options=ArtifactOptions(methods=())
    )
    return compare_with_torch(exported.model, info, model, example, [layer])


def resolved_picture(model: Module) -> tuple[int, Tensor, float]:
    """The first seed whose picture float32 resolves, the picture, and the error of torch's float32 there."""
    exact = copy.deepcopy(model).double()
    tried = []
    for seed in range(PICTURES):
        picture = random_example((3, 224, 224), batch=1, seed=seed)
        classes = model(picture).argmax(1).tolist()
        single, double = (
            reference(m, x, [INPUT], classes).gradients[0] for m, x in ((model, picture), (exact, picture.double()))
        )
        tried.append((relative_error(single, double), seed, picture))
        if tried[-1][0] < RESOLVED:
            break
    error, seed, picture = min(tried, key=lambda entry: entry[0])
    return seed, picture, error


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("models", nargs="*", default=list(USUAL_LAYERS))
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows = []
    heads = ("outputs", "A", "dy/dA", "dy/dinput", "float32", "picture")
    print(f"{'model':<24}{'layer':<12}" + "".join(f"{head:>10}" for head in heads))
    for name in arguments.models:
        layer, model = USUAL_LAYERS[name], lively(name)
        at_layer = errors(model, random_example((3, 224, 224)), layer)
        seed, picture, float32 = resolved_picture(model)
        at_input = errors(model, picture, INPUT)[GRADIENTS]
        numbers = (at_layer["outputs"], at_layer[ACTIVATIONS], at_layer[GRADIENTS], at_input, float32)
        print(f"{name:<24}{layer:<12}" + "".join(f"{x:>10.1e}" for x in numbers) + f"{seed:>10}", flush=True)
        rows.append({"model": name, "layer": layer, **dict(zip(heads, (*numbers, seed), strict=True))})
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
