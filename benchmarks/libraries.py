"""How long other ways to a Grad-CAM of the same model take, over ours.

    pip install grad-cam==1.5.7 torchcam==0.5.0 captum onnx2torch
    python benchmarks/libraries.py [--models NAME ...] [--threads 1 2] [--rounds 9] [--json FILE] [--plot FILE]

From the model's input to the map at the input's size, one picture at a time, the same weights and the same number of
threads; each library in a process of its own, all taking turns. A library that is not installed is left out.
Recipro-CAM is that of OpenVINO XAI: the head run again on each place of the feature map, within the graph.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from plot import beside
from table import Table
from worker import Worker, serve

from onnxcam.runtime.timing import Spread, alternated, ratios

SIDE = 224
MODELS = ("resnet50", "tf_efficientnet_lite0", "mobilenetv3_small_100")
LIBRARIES = {
    "onnxcam": "onnxruntime",
    "pytorch-grad-cam": "pytorch_grad_cam",
    "torch-cam": "torchcam",
    "captum": "captum",
    "onnx2torch + pytorch-grad-cam": "onnx2torch",
    "Recipro-CAM in the graph": "onnxruntime",
}
"""By name, the module that it needs."""
AIMS = {"onnxcam": "", "pytorch-grad-cam": ">= 6"}
"""How many times as long as ours each should take, where that is not once."""


def in_graph(file: str, threads: int) -> Callable[[], object]:
    """From an input to `Explanation.heatmap` by an artifact."""
    import cv2
    import numpy as np

    from onnxcam import load
    from onnxcam.contract import Preprocess
    from onnxcam.runtime.preprocess import Prepared

    cv2.setNumThreads(threads)
    stated = Preprocess(height=SIDE, width=SIDE, resize="stretch", mean=(0.0,) * 3, std=(1.0,) * 3)
    model = load(file, threads=threads, preprocess=stated)
    given = model.prepare(np.zeros((SIDE, SIDE, 3), np.uint8))
    tensor = np.random.default_rng(0).standard_normal((3, SIDE, SIDE), dtype=np.float32)
    prepared = Prepared(given.picture, given.placement, tensor)
    return lambda: model.run([prepared], feature_maps=False)[0].heatmap


def by_torch(library: str, name: str, file: str, threads: int) -> Callable[[], object]:
    """From an input to a map of its size by a library for PyTorch."""
    from models import USUAL_LAYERS, lively

    # isort: split

    import torch

    torch.set_num_threads(threads)
    model, layer = lively(name), None
    if library.startswith("onnx2torch"):
        import onnx2torch

        model = onnx2torch.convert(file).eval()
        maps: list[torch.nn.Module] = []
        for module in model.modules():  # the last that gives a map: what is hooked in the other libraries
            module.register_forward_hook(lambda m, _, y: maps.append(m) if getattr(y, "ndim", 0) == 4 else None)
        with torch.no_grad():
            model(torch.zeros(1, 3, SIDE, SIDE))
        layer = next(m for m in reversed(maps) if m is not model and "Pool" not in type(m).__name__)
        for module in model.modules():
            module._forward_hooks.clear()
    layer = layer or model.get_submodule(USUAL_LAYERS[name])
    image = torch.randn(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    if library == "torch-cam":
        from torchcam.methods import GradCAM

        extractor = GradCAM(model, target_layer=layer)

        def explain() -> Any:
            scores = model(image)
            (found,) = extractor(int(scores[0].argmax()), scores)
            return torch.nn.functional.interpolate(found[None], (SIDE, SIDE), mode="bilinear")

        return explain
    if library == "captum":
        from captum.attr import LayerAttribution, LayerGradCam

        method = LayerGradCam(model, layer)

        def attribute() -> Any:
            with torch.no_grad():
                top = int(model(image)[0].argmax())
            return LayerAttribution.interpolate(method.attribute(image, target=top), (SIDE, SIDE))

        return attribute
    from pytorch_grad_cam import GradCAM as PyTorchGradCAM

    cam = PyTorchGradCAM(model=model, target_layers=[layer])
    return lambda: cam(input_tensor=image, targets=None)


def save(name: str, folder: Path) -> dict[str, Path]:
    """The files that the ways on ONNX start from."""
    from models import USUAL_LAYERS, lively

    # isort: split

    import torch

    import onnxcam

    files = {side: folder / f"{name}.{side}.onnx" for side in ("plain", "gradcam", "reciprocam")}
    model, example = lively(name), torch.zeros(1, 3, SIDE, SIDE)
    torch.onnx.export(
        model, (example,), files["plain"], opset_version=13, dynamo=False, do_constant_folding=False
    )  # as onnx2torch reads it
    for method in ("gradcam", "reciprocam"):
        onnxcam.export(model, example, files[method], layer=USUAL_LAYERS[name], method=method, outputs="cam")
    return files


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.7, help="of a turn")
    parser.add_argument("--serve", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()
    if arguments.serve:
        library, name, file, threads = arguments.serve
        in_onnx = library in ("onnxcam", "Recipro-CAM in the graph")
        serve(in_graph(file, int(threads)) if in_onnx else by_torch(library, name, file, int(threads)))
        return
    table = Table(model="{:<22}", threads="{:>7}", library="{:<30}", ms="{:>8.2f}", over_ours="{:>9.2f}",
                  quartiles="{0[0]:>7.2f}-{0[1]:.2f}", aim="{:>6}")  # fmt: skip
    present = [library for library, module in LIBRARIES.items() if find_spec(module)]
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.models:
            files = save(name, Path(folder))
            sides = {"onnxcam": "gradcam", "Recipro-CAM in the graph": "reciprocam"}
            for threads in arguments.threads:
                with ExitStack() as stack:
                    workers = {}
                    for library in present:
                        file = files[sides.get(library, "plain")]
                        try:
                            worker = Worker(__file__, [library, name, str(file), str(threads)])
                        except RuntimeError as error:
                            if library == "onnxcam":  # what the others are compared with
                                raise
                            print(f"{name}: {library} is left out: {error}")
                            continue
                        workers[library] = stack.enter_context(worker)
                    times = list(alternated(list(workers.values()), rounds=arguments.rounds, seconds=arguments.seconds))
                for i, library in enumerate(workers):
                    found, own = ratios(times, of=i), Spread.of([each[i] * 1e3 for each in times])
                    table.add(model=name, threads=threads, library=library, ms=own.median,
                              over_ours=found.median, quartiles=[found.low, found.high],
                              aim=AIMS.get(library, ">= 1"))  # fmt: skip
    if arguments.json:
        table.save(arguments.json)
    if arguments.plot:
        beside(table.rows, arguments.plot)


if __name__ == "__main__":
    main()
