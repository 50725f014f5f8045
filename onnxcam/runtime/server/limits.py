"""How often one address may ask."""

from __future__ import annotations

__all__ = ["RateLimit"]

import math
import time
from collections import OrderedDict
from collections.abc import Callable


class RateLimit:
    """A bucket of ``burst`` tokens for each client, refilled by ``rate`` a second; a request takes one.

    clients: how many are remembered; of more, the one that has asked for nothing the longest is forgotten.
    """

    def __init__(
        self, rate: float = 20, burst: int = 60, *, clients: int = 1024, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._rate, self._burst, self._clients, self._clock = rate, burst, clients, clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def wait(self, client: str) -> int:
        """0 if ``client`` may ask now, which takes a token; else the seconds until it may, rounded up."""
        now = self._clock()
        left, since = self._buckets.pop(client, (float(self._burst), now))
        left = min(left + (now - since) * self._rate, self._burst)
        allowed = left >= 1
        self._buckets[client] = (left - 1 if allowed else left), now
        if len(self._buckets) > self._clients:
            self._buckets.popitem(last=False)
        return 0 if allowed else math.ceil((1 - left) / self._rate)
