"""How far a long command is: on stderr, and on a terminal only."""

from __future__ import annotations

__all__ = ["frame_progress"]

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
