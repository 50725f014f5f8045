"""The same on a CUDA device: what an explanation costs there, and which nodes stay on it.

    pip install "onnxcam[gpu,torch]" timm grad-cam==1.5.7
    python benchmarks/gpu.py [--batch 1 64] [--rounds 15] [--json FILE]

Last-layer Grad-CAM in float32 and float16, over the same model without its explanation: the picture goes up, and answer
and map come down. ``graph`` replays a captured CUDA graph, from buffers that stay on the device. ``elsewhere`` counts
the nodes that another provider took. pytorch-grad-cam runs on the same device, from a tensor that is there already.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from models import USUAL_LAYERS, lively

# isort: split

import numpy as np
import onnxruntime as ort
import torch
from table import Table

import onnxcam
from onnxcam.exporter.attachment import attach, detach
from onnxcam.runtime.profiling import profile
from onnxcam.runtime.timing import Spread

SIDE = 224
MODELS = {"resnet50": USUAL_LAYERS["resnet50"], "vit_base_patch16_224": "blocks.10"}
PROVIDER = "CUDAExecutionProvider"


def artifacts(name: str, folder: Path) -> dict[str, tuple[Path, Path]]:
    """By type of number, the plain model and its artifact."""
    model, example = lively(name), torch.randn(1, 3, SIDE, SIDE)
    full = folder / f"{name}.cam.onnx"
    onnxcam.export(model, example, full, layer=MODELS[name], outputs="cam")
    plain = folder / f"{name}.onnx"
    detach(full, plain)
    found = {"float32": (plain, full)}
    try:
        import onnx
        from onnxruntime.transformers.float16 import convert_float_to_float16
    except ImportError:
        return found
    half, half_cam = folder / f"{name}.half.onnx", folder / f"{name}.half.cam.onnx"
    onnx.save(convert_float_to_float16(onnx.load(plain)), half)
    layer = next(layer.name for layer in onnxcam.load(full, providers="cpu").info.layers)
    attach(half, half_cam, layer=layer, outputs="cam")
    return found | {"float16": (half, half_cam)}


def from_host(file: Path, batch: int) -> Callable[[], object]:
    """One run: the picture up, all outputs down."""
    session = ort.InferenceSession(str(file), providers=[PROVIDER])
    image = session.get_inputs()[0]
    kind = np.float16 if "float16" in image.type else np.float32
    pictures = np.random.default_rng(0).standard_normal((batch, 3, SIDE, SIDE)).astype(kind)
    names = [y.name for y in session.get_outputs()]
    return lambda: session.run(names, {image.name: pictures})


def from_graph(file: Path, batch: int) -> Callable[[], object]:
    """One replay of a CUDA graph, the picture copied up and the outputs down."""
    session = ort.InferenceSession(str(file), providers=[(PROVIDER, {"enable_cuda_graph": "1"})])
    image = session.get_inputs()[0]
    kind = np.float16 if "float16" in image.type else np.float32
    pictures = np.random.default_rng(0).standard_normal((batch, 3, SIDE, SIDE)).astype(kind)
    up = ort.OrtValue.ortvalue_from_numpy(pictures, "cuda", 0)
    binding = session.io_binding()
    binding.bind_ortvalue_input(image.name, up)
    first = dict(zip([y.name for y in session.get_outputs()], session.run(None, {image.name: pictures}), strict=True))
    down = {name: ort.OrtValue.ortvalue_from_numpy(value, "cuda", 0) for name, value in first.items()}
    for name, value in down.items():
        binding.bind_ortvalue_output(name, value)

    def replay() -> None:
        up.update_inplace(pictures)
        session.run_with_iobinding(binding)
        for value in down.values():
            value.numpy()

    return replay


def milliseconds(function: Callable[[], object], seconds: float = 0.5) -> float:
    times, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 3:
        begun = time.perf_counter()
        function()
        times.append((time.perf_counter() - begun) * 1e3)
    return statistics.median(times)


def compare(plain: Callable[[], object], other: Callable[[], object], rounds: int) -> tuple[float, Spread]:
    """Milliseconds of the first, and how many times as long the second takes, in turns."""
    for function in (plain, other) * 3:
        function()
    pairs = [(milliseconds(plain), milliseconds(other)) for _ in range(rounds)]
    return statistics.median([a for a, _ in pairs]), Spread.of([b / a for a, b in pairs])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 64])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if PROVIDER not in ort.get_available_providers():
        sys.exit(f"this ONNX Runtime has no {PROVIDER}: pip install onnxruntime-gpu on a machine with a CUDA device")
    table = Table(model="{:<22}", type="{:>8}", batch="{:>5}", what="{:>18}", plain_ms="{:>9.2f}", ratio="{:>7.3f}",
                  quartiles="{0[0]:>8.3f}-{0[1]:.3f}", elsewhere="{:>10}")  # fmt: skip

    def add(ratio: Spread, **values: object) -> None:
        table.add(ratio=ratio.median, quartiles=[ratio.low, ratio.high], **values)

    with tempfile.TemporaryDirectory() as folder:
        for name in MODELS:
            for kind, (plain, artifact) in artifacts(name, Path(folder)).items():
                for batch in arguments.batch:
                    nodes = profile(artifact, {"image": ([batch, 3, SIDE, SIDE], kind)}, providers="cuda", runs=2)
                    row = {"model": name, "type": kind, "batch": batch,
                           "elsewhere": sum(node.provider != PROVIDER for node in nodes)}  # fmt: skip
                    ways = {"run": from_host, "graph": from_graph}
                    for what, way in ways.items():
                        ms, ratio = compare(way(plain, batch), way(artifact, batch), arguments.rounds)
                        add(ratio, plain_ms=ms, what=what, **row)
                    if kind == "float32":
                        ms, ratio = compare(from_host(artifact, batch), by_torch(name, batch), arguments.rounds)
                        add(ratio, plain_ms=ms, what="pytorch-grad-cam", **row)
    if arguments.json:
        table.save(arguments.json)


def by_torch(name: str, batch: int) -> Callable[[], object]:
    """One map of each picture by pytorch-grad-cam."""
    from pytorch_grad_cam import GradCAM

    model = lively(name).cuda()
    tokens = name.startswith("vit")

    def as_map(x: torch.Tensor) -> torch.Tensor:
        side = round((x.shape[1] - 1) ** 0.5)
        return x[:, 1:].reshape(len(x), side, side, -1).permute(0, 3, 1, 2)

    layer = model.get_submodule(MODELS[name])
    cam = GradCAM(model=model, target_layers=[layer], reshape_transform=as_map if tokens else None)
    images = torch.randn(batch, 3, SIDE, SIDE, device="cuda")
    return lambda: cam(input_tensor=images, targets=None)


if __name__ == "__main__":
    main()
