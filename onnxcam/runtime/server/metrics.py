"""What is counted, in Prometheus' text format 0.0.4.

The format: https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

__all__ = ["AGE_BUCKETS", "CONTENT_TYPE", "Counts", "Histogram", "Requests", "exposition"]

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from threading import Lock

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
AGE_BUCKETS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
"""Seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Frames since the start: given by the source, explained, shown, and dropped for a newer one."""

    seen: int = 0
    explained: int = 0
    shown: int = 0
    dropped: int = 0


class Histogram:
    """How many observations lie at or below each of ``bounds``. Safe in any thread."""

    def __init__(self, bounds: Sequence[float] = AGE_BUCKETS) -> None:
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(self._bounds) + 1)
        self._sum = 0.0
        self._lock = Lock()

    def observe(self, value: float) -> None:
        """Count ``value``."""
        with self._lock:
            self._counts[bisect_left(self._bounds, value)] += 1
            self._sum += value

    def lines(self, name: str) -> Iterator[str]:
        """The samples of the metric ``name``."""
        with self._lock:
            counts, total = list(self._counts), self._sum
        below = 0
        for bound, count in zip((*self._bounds, math.inf), counts, strict=True):
            below += count
            yield f'{name}_bucket{{le="{"+Inf" if math.isinf(bound) else f"{bound:g}"}"}} {below}'
        yield f"{name}_sum {total:.6f}"
        yield f"{name}_count {below}"


class Requests:
    """How many answers had which status. Safe in any thread."""

    def __init__(self) -> None:
        self._by_status: Counter[int] = Counter()
        self._lock = Lock()

    def count(self, status: int) -> None:
        """One more answer with ``status``."""
        with self._lock:
            self._by_status[status] += 1

    def lines(self, name: str) -> Iterator[str]:
        """The samples of the metric ``name``."""
        with self._lock:
            counts = sorted(self._by_status.items())
        return (f'{name}{{status="{status}"}} {count}' for status, count in counts)


def exposition(metrics: Iterable[tuple[str, str, str, Iterable[str] | float]]) -> str:
    """The text of ``metrics``: name, kind, what it says, and its one value or the lines of its samples."""
    lines: list[str] = []
    for name, kind, what, samples in metrics:
        lines += [f"# HELP {name} {what}", f"# TYPE {name} {kind}"]
        lines += (
            [f"{name} {samples:g}" if kind == "gauge" else f"{name} {int(samples)}"]
            if isinstance(samples, int | float)
            else samples
        )
    return "\n".join(lines) + "\n"
