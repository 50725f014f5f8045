"""Relative error of the graph's gradients against torch's autograd, at the usual layer and at the input.

    python benchmarks/gradient_errors.py [MODEL ...] [--json FILE]

max|got - expected| / max|expected| over a batch of two pictures, float32, ONNX Runtime on the CPU; the second
picture is explained for its second class. Weights are seeded and random.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from models import USUAL_LAYERS, lively
from onnxcam.contract import ACTIVATIONS, GRADIENTS
from onnxcam.exporter import compare_with_torch
from onnxcam.exporter.artifact import ArtifactOptions, add_explanation
from onnxcam.exporter.torch import INPUT, export_module, random_example


def errors(name: str, layer: str) -> dict[str, float]:
    """The relative errors of outputs, activations and gradients of the model ``name`` at ``layer``."""
    model, example = lively(name), random_example((3, 224, 224))
    exported = export_module(model, example, [layer])
    info = add_explanation(
        exported.model, [(layer, exported.targets[0])], output=exported.output, options=ArtifactOptions(methods=())
    )
    return compare_with_torch(exported.model, info, model, example, [layer])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("models", nargs="*", default=list(USUAL_LAYERS))
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows = []
    print(f"{'model':<24}{'layer':<12}{'outputs':>10}{'A':>10}{'dy/dA':>10}{'dy/dinput':>12}")
    for name in arguments.models:
        layer = USUAL_LAYERS[name]
        at_layer, at_input = errors(name, layer), errors(name, INPUT)
        row = {
            "model": name,
            "layer": layer,
            "outputs": at_layer["outputs"],
            "activations": at_layer[ACTIVATIONS],
            "gradients": at_layer[GRADIENTS],
            "input_gradients": at_input[GRADIENTS],
        }
        rows.append(row)
        numbers = (row["outputs"], row["activations"], row["gradients"])
        print(
            f"{name:<24}{layer:<12}" + "".join(f"{x:>10.1e}" for x in numbers) + f"{row['input_gradients']:>12.1e}",
            flush=True,
        )
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
