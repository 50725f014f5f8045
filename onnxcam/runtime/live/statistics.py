"""What a live view did: how many frames, and how old they were when they were seen."""

from __future__ import annotations

__all__ = ["Ages", "Rate"]

from collections import deque
from threading import Lock

_LONGEST = 10_000  # milliseconds; older ones count as that old


class Ages:
    """How old frames were when they were shown, to the millisecond, however many there are."""

    def __init__(self) -> None:
        self.count = 0
        self._frames = [0] * (_LONGEST + 1)
        self._lock = Lock()

    def add(self, seconds: float) -> None:
        """Count a frame that old."""
        with self._lock:
            self.count += 1
            self._frames[min(max(round(seconds * 1e3), 0), _LONGEST)] += 1

    def quantile(self, share: float) -> float | None:
        """The age in seconds that so large a share of the frames, 0-1, did not exceed; None without any."""
        with self._lock:
            left = share * self.count
            for milliseconds, frames in enumerate(self._frames):
                left -= frames
                if frames and left <= 0:
                    return milliseconds / 1e3
        return None


class Rate:
    """Frames per second over the last two seconds."""

    def __init__(self, span: float = 2.0) -> None:
        self._span = span
        self._times: deque[float] = deque()

    def add(self, now: float) -> float:
        """The rate, with a frame at ``now`` (seconds)."""
        self._times.append(now)
        while now - self._times[0] > self._span:
            self._times.popleft()
        passed = now - self._times[0]
        return (len(self._times) - 1) / passed if passed > 0 else 0.0
