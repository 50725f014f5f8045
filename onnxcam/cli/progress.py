"""How far a long command is: on stderr, and on a terminal only."""

from __future__ import annotations

__all__ = ["frame_progress", "share_progress"]

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Advance = Callable[[], None]
Start = Callable[[int | None], None]


@contextmanager
def frame_progress(title: str) -> Iterator[tuple[Start, Advance]]:
    """A bar of frames, frames per second and time left, as two functions: one that takes the number of frames
    (None: unknown) when it is known, and one to call after each frame."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            speed = task.finished_speed or task.speed
            return Text("" if speed is None else f"{speed:.1f} fps", style="progress.data.speed")

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("frames"), Rate(),
        TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task(title, total=None, markup=False)
        yield lambda total: progress.update(task, total=total), lambda: progress.advance(task)


@contextmanager
def share_progress(title: str, *, shown: bool) -> Iterator[Callable[[float], None]]:
    """A bar of the share done, 0-1, and the time left, as a function to call with that share."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    hidden = not (shown and console.is_terminal)
    with Progress(console=console, disable=hidden, transient=True) as progress:
        task = progress.add_task(title, total=1.0, markup=False)
        yield lambda share: progress.update(task, completed=share)
