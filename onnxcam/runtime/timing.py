"""How long a model file takes, measured beside another one.

Each file runs in a process of its own, for two sessions in one process disturb each other, and the processes take
turns, for a machine is not equally fast all the time. What is compared is the median of the ratios of neighbouring
turns.
"""

from __future__ import annotations

__all__ = ["Runner", "Spread", "alternated", "random_inputs", "ratios", "serve"]

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import IO, Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from onnxcam.errors import ArtifactError
from onnxcam.runtime.closing import Closing
from onnxcam.runtime.engine import ORT_ERRORS
from onnxcam.runtime.providers import named_providers

_CHILD = "import sys; sys.path[:] = {path!r}; from onnxcam.runtime.timing import serve; serve()"
"""What the process runs: it finds modules where this one does."""
_WARM_UP = 5
_FEWEST = 3  # runs in a turn, however long they take


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of several measurements, and the quartiles around it."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """That of ``values``, two or more."""
        return cls(*statistics.quantiles(values, n=4, method="inclusive"))

    def times(self, factor: float) -> Spread:
        """In other units."""
        return Spread(self.low * factor, self.median * factor, self.high * factor)

    def __format__(self, form: str) -> str:
        return f"{self.median:{form}} ({self.low:{form}}-{self.high:{form}})"


class Runner(Closing):
    """The model file at ``path`` in a process of its own, run on random inputs when told to; a context manager.

    inputs: shape and NumPy type of each. threads: for one operator. providers: as `onnxcam.load` takes them.
    start: seconds that ONNX Runtime took to load the file.

    Raises `ArtifactError` if the file cannot be loaded or run.
    """

    def __init__(
        self,
        path: str | PathLike[str],
        inputs: Mapping[str, tuple[Sequence[int], str]],
        *,
        threads: int,
        providers: str | Sequence[str] | None = None,
    ) -> None:
        self._path = fspath(path)
        told = {"path": self._path, "inputs": inputs, "threads": threads, "providers": named_providers(providers)}
        self._process = subprocess.Popen(
            [sys.executable, "-c", _CHILD.format(path=sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            self.start: float = self._ask(told)["start"]
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the process."""
        self._process.terminate()
        self._process.communicate()

    def time(self, seconds: float) -> float:
        """The median time of one run in seconds, over runs for so many ``seconds``."""
        return float(self._ask({"seconds": seconds})["time"])

    def memory(self) -> int | None:
        """The most memory in bytes that the process held for the model so far; None where the system does not tell."""
        held = self._ask({})["memory"]
        return None if held is None else int(held)

    def _ask(self, what: Mapping[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):  # it ended, and the answer says so
            print(json.dumps(what), file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        if not answer:
            raise ArtifactError(f"'{self._path}' cannot be run: its process ended, for want of memory perhaps")
        said: dict[str, Any] = json.loads(answer)
        if "error" in said:
            raise ArtifactError(f"'{self._path}' cannot be run: {said['error']}")
        return said


def alternated(runners: Sequence[Runner], *, rounds: int, seconds: float) -> Iterator[tuple[float, ...]]:
    """The times of one run of each, in seconds, round by round; every second round they take turns from the last on."""
    for turn in range(rounds):
        order = range(len(runners)) if turn % 2 == 0 else range(len(runners) - 1, -1, -1)
        times = {i: runners[i].time(seconds) for i in order}
        yield tuple(times[i] for i in range(len(runners)))


def ratios(times: Sequence[tuple[float, ...]], *, of: int = 1, over: int = 0) -> Spread:
    """How many times as long one takes as the other, by the rounds that `alternated` gave."""
    return Spread.of([each[of] / each[over] for each in times])


def _serve(orders: IO[str], answers: IO[str]) -> None:
    """Run a model when told to, a line of JSON each."""
    before = _memory()
    first = json.loads(orders.readline())
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = first["threads"]
    begun = time.perf_counter()
    session = ort.InferenceSession(first["path"], options, providers=first["providers"])
    feed = random_inputs(first["inputs"])
    print(json.dumps({"start": time.perf_counter() - begun}), file=answers, flush=True)
    for _ in range(_WARM_UP):
        session.run(None, feed)
    for line in orders:
        if "seconds" not in (told := json.loads(line)):
            held = _memory()
            memory = None if held is None or before is None else held - before
            print(json.dumps({"memory": memory}), file=answers, flush=True)
            continue
        times: list[float] = []
        end = time.perf_counter() + told["seconds"]
        while time.perf_counter() < end or len(times) < _FEWEST:
            begun = time.perf_counter()
            session.run(None, feed)
            times.append(time.perf_counter() - begun)
        print(json.dumps({"time": statistics.median(times)}), file=answers, flush=True)


def random_inputs(inputs: Mapping[str, tuple[Sequence[int], str]]) -> dict[str, NDArray[Any]]:
    """Seeded arrays of those shapes and NumPy types: normal numbers, or 0-255 where they are whole."""
    draws = np.random.default_rng(0)
    return {
        name: draws.standard_normal(shape).astype(kind)
        if np.issubdtype(kind, np.floating)
        else draws.integers(0, 256 if kind == "uint8" else 2, shape).astype(kind)
        for name, (shape, kind) in inputs.items()
    }


def _memory() -> int | None:
    """The most memory in bytes that this process ever held."""
    with suppress(OSError):  # the other way counts, on Linux, what the parent held when it forked
        for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS


def serve() -> None:
    """Answer orders on standard input until it ends. What else is printed on the way goes to standard error."""
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(2, 1)  # some providers print
        try:
            with suppress(KeyboardInterrupt):
                _serve(sys.stdin, answers)
        except ORT_ERRORS as error:
            said = str(error).strip().partition("\n")[0] or type(error).__name__
            print(json.dumps({"error": said}), file=answers, flush=True)
