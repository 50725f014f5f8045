"""The live picture on a page."""

from __future__ import annotations

__all__ = ["page"]

import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager

from onnxcam.runtime.live.controls import Controls
from onnxcam.runtime.live.frames import LiveFrame
from onnxcam.runtime.live.loop import Live, View
from onnxcam.runtime.live.newest import Grabber, Tell
from onnxcam.runtime.live.statistics import Ages
from onnxcam.runtime.server.address import Address
from onnxcam.runtime.server.hub import Hub
from onnxcam.runtime.server.metrics import Counts
from onnxcam.runtime.server.serving import Server
from onnxcam.runtime.session import CamModel


@contextmanager
def page(
    at: Address,
    model: CamModel,
    controls: Controls,
    grabber: Grabber,
    live: Live,
    ages: Ages,
    *,
    token: str | None,
    names: Collection[str],
    tell: Tell,
) -> Iterator[View]:
    """Serve the page at ``at``, and give what takes its frames.

    ages: counts how old frames were when somebody saw them. token, names: see `Server`. tell: is told ``serving`` with
    the link.
    Raises `ServerError` if the address cannot be had, and `MissingExtraError` without the extra ``serve``.
    """

    def counts() -> Counts:
        return Counts(seen=grabber.seen, explained=live.explained, shown=ages.count, dropped=grabber.dropped)

    def health() -> str | None:
        return f"the camera is lost: {grabber.trouble}" if grabber.trouble else None

    with (
        Hub() as hub,
        Server(
            hub,
            controls,
            model,
            at=at,
            token=token,
            names=names,
            health=health,
            counts=counts,
            log=lambda line: tell("page", text=line),
        ) as server,
    ):
        tell("serving", address=server.link)

        def publish(frame: LiveFrame) -> None:
            hub.publish(frame)
            if hub.viewers:
                ages.add(time.monotonic() - frame.taken)

        yield publish
