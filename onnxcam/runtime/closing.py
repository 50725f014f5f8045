"""What holds a device, a file or a thread, and gives it back at the end of a ``with`` statement."""

from __future__ import annotations

__all__ = ["Closing"]

from types import TracebackType
from typing import TypeVar

C = TypeVar("C", bound="Closing")


class Closing:
    """A context manager that closes itself, whatever happened."""

    def __enter__(self: C) -> C:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give back what is held."""
        raise NotImplementedError
