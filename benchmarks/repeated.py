"""What Score-CAM and RISE cost over as many plain inferences in batches.

    python benchmarks/repeated.py [--rounds 5] [--batch 16] [--json FILE]

Each side in a process of its own, on the model that ships, with one thread: ``CamModel.run`` with the method against
ONNX Runtime alone on the same model without its explanation, on as many random pictures in batches of the same size.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from table import Table
from worker import Worker, serve

from onnxcam import Perturbation, load
from onnxcam.exporter.attachment import detach
from onnxcam.runtime.engine import Engine
from onnxcam.runtime.preprocess import Prepared
from onnxcam.runtime.session import CamModel
from onnxcam.runtime.shipped import shipped_model
from onnxcam.runtime.timing import Spread, alternated, ratios

METHODS = ("rise", "scorecam")
RISE_SAMPLES = 480


def prepared(model: CamModel) -> Prepared:
    return model.prepare(np.random.default_rng(0).integers(0, 256, (360, 480, 3), np.uint8))


def options(method: str, batch: int) -> Perturbation:
    return Perturbation(samples=RISE_SAMPLES if method == "rise" else None, batch=batch)


def explaining(method: str, batch: int) -> Callable[[], object]:
    model = load(threads=1)
    picture, how = prepared(model), options(method, batch)
    return lambda: model.run([picture], method=method, perturbation=how)


def runs(method: str, batch: int) -> int:
    """How many changed pictures the model sees: Score-CAM leaves out channels that are flat."""
    counts: list[int] = []
    with load() as model:
        whole = model.outputs

        def counted(tensors: np.ndarray, *arguments: Any, **named: Any) -> Any:
            counts.append(len(tensors))
            return whole(tensors, *arguments, **named)

        model.outputs = counted  # type: ignore[method-assign]
        model.run([prepared(model)], method=method, perturbation=options(method, batch))
    return sum(counts)


def inferring(plain: str, count: int, batch: int) -> Callable[[], object]:
    engine = Engine(Path(plain), None, threads=1)
    pictures = np.random.default_rng(0).standard_normal((batch, 3, 224, 224), dtype=np.float32)
    return lambda: [engine.run(["logits"], {"image": pictures}) for _ in range(round(count / batch))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--serve", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.serve:
        side, method, batch = arguments.serve
        serve(
            explaining(method, int(batch))
            if side == "explaining"
            else inferring(side, runs(method, int(batch)), int(batch))
        )
        return
    table = Table(method="{:<10}", runs="{:>5}", batch="{:>5}", seconds="{:>8.2f}", ratio="{:>6.3f}",
                  quartiles="{0[0]:>7.3f}-{0[1]:.3f}", aim="{:>7}")  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "plain.onnx"
        detach(shipped_model(), plain)
        for method in METHODS:
            batch = str(arguments.batch)
            with (
                Worker(__file__, [str(plain), method, batch]) as a,
                Worker(__file__, ["explaining", method, batch]) as b,
            ):
                times = list(alternated([a, b], rounds=arguments.rounds, seconds=0))
            found = ratios(times)
            seconds = Spread.of([explained for _, explained in times]).median
            table.add(method=method, runs=runs(method, arguments.batch), batch=arguments.batch, seconds=seconds,
                      ratio=found.median, quartiles=[found.low, found.high], aim="<= 1.15")  # fmt: skip
    if arguments.json:
        table.save(arguments.json)


if __name__ == "__main__":
    main()
