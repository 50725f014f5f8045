"""What the explanation in an artifact costs on this machine."""

from __future__ import annotations

__all__ = ["FRAME_SIZE", "Bench", "Side", "measure"]

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from onnxcam.runtime.profiling import profile, shares
from onnxcam.runtime.render import render
from onnxcam.runtime.session import CamModel
from onnxcam.runtime.timing import Runner, Spread, alternated, ratios

FRAME_SIZE = (720, 1280)
"""Height and width of the frame that is explained and drawn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One of the files compared.

    time: of one run, in seconds. start: seconds that ONNX Runtime took to load it. memory: bytes at most held for it,
    None where the system does not tell. size: of the file, in bytes.
    """

    time: Spread
    start: float
    memory: int | None
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What `measure` found.

    sides: ``plain``, where there is one, and ``explained``. ratio: of their times.
    shares: of the parts of the artifact in its time, 0-1.
    frame: seconds from a frame of `FRAME_SIZE` to its overlay; None for a model that takes no pictures.
    """

    providers: tuple[str, ...]
    threads: int
    batch: int
    sides: Mapping[str, Side]
    ratio: Spread | None
    shares: Mapping[str, float]
    frame: Spread | None


def measure(
    path: Path,
    *,
    plain: Path | None,
    threads: int | None = None,
    batch: int = 1,
    rounds: int = 15,
    seconds: float = 0.5,
    providers: str | Sequence[str] | None = None,
    progress: Callable[[float], None] | None = None,
) -> Bench:
    """Time, memory and start of the artifact at ``path`` beside those of ``plain``, the same model without explanation.

    threads: for one operator; None is one for each core. rounds: turns of either file, of so many ``seconds`` each.
    progress: called with the share that is done, 0-1.
    Raises `ArtifactError` or `ProviderError` if a file cannot be run.
    """
    count = threads or os.cpu_count() or 1
    with CamModel(path, providers=providers, threads=count) as model:
        inputs, running = model.inputs(batch), model.providers
        frame = _frame_time(model, rounds) if model.preprocess is not None else None
    files = {"explained": path} if plain is None else {"plain": plain, "explained": path}
    times = []
    with ExitStack() as stack:
        runners = [
            stack.enter_context(Runner(file, inputs, threads=count, providers=providers)) for file in files.values()
        ]
        for each in alternated(runners, rounds=rounds, seconds=seconds):
            times.append(each)
            if progress:
                progress(len(times) / rounds)
        sides = {
            name: Side(
                time=Spread.of([each[i] for each in times]),
                start=runner.start,
                memory=runner.memory(),
                size=files[name].stat().st_size,
            )
            for i, (name, runner) in enumerate(zip(files, runners, strict=True))
        }
    return Bench(
        providers=running,
        threads=count,
        batch=inputs[model.info.image_input][0][0],
        sides=sides,
        ratio=None if plain is None else ratios(times),
        shares=shares(profile(path, inputs, threads=count, providers=providers)),
        frame=frame,
    )


def _frame_time(model: CamModel, rounds: int) -> Spread:
    picture = np.random.default_rng(0).integers(0, 256, (*FRAME_SIZE, 3), np.uint8)
    times = []
    for _ in range(rounds + 1):
        begun = time.perf_counter()
        (explanation,) = model.run([model.prepare(picture)], feature_maps=False)
        render(explanation)
        times.append(time.perf_counter() - begun)
    return Spread.of(times[1:])
