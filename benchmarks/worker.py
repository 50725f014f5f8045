"""A script's own function, timed in a process of its own whenever it is told to."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from types import TracebackType


class Worker:
    """``SCRIPT --serve ARGUMENT ...`` in a process that calls `serve`, to be used as a `Runner` is.

    Raises `RuntimeError` with its last words if it ends before it is ready.
    """

    def __init__(self, script: str, arguments: Sequence[str]) -> None:
        with tempfile.TemporaryFile("w+") as said:  # a pipe that nobody reads would fill
            self._process = subprocess.Popen(
                [sys.executable, script, "--serve", *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=said,
                text=True,
            )
            assert self._process.stdout is not None
            if not self._process.stdout.readline():
                self._process.wait()
                said.seek(0)
                raise RuntimeError((said.read() or "it ended").strip().splitlines()[-1])

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.communicate()

    def time(self, seconds: float) -> float:
        """The median time of one call in seconds, over calls for so many ``seconds``."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(seconds, file=self._process.stdin, flush=True)
        return float(self._process.stdout.readline())


def serve(function: Callable[[], object]) -> None:
    """Answer every number of seconds on standard input with the median time of a call."""
    for _ in range(3):
        function()
    print("ready", flush=True)
    for line in sys.stdin:
        times, end = [], time.perf_counter() + float(line)
        while time.perf_counter() < end or len(times) < 3:
            begun = time.perf_counter()
            function()
            times.append(time.perf_counter() - begun)
        print(statistics.median(times), flush=True)
