"""The live picture, sent: to the page by WebSocket, to anything else as MJPEG."""

from __future__ import annotations

__all__ = ["Mjpeg", "live"]

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress

from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from onnxcam.runtime.server.answers import Refused, refusal
from onnxcam.runtime.server.hub import FullError, Hub, Viewer
from onnxcam.runtime.server.state import Stage

_BOUNDARY = b"onnxcam-frame"
_UNSHOWN = 2
"""Frames on the way to a page that it has not yet shown: two hide the network's delay, more would lag behind."""
_PATIENCE = 30.0  # seconds after which a page that shows nothing gives up its place
_BEAT = 1.0  # seconds between two messages where there is no new frame


class Mjpeg(Response):
    """``multipart/x-mixed-replace``: each part a JPEG that takes the place of the one before."""

    def __init__(self, hub: Hub) -> None:
        super().__init__()
        self._hub = hub

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer: Response
        try:
            async with self._hub.viewer() as viewer:
                kind = f"multipart/x-mixed-replace; boundary={_BOUNDARY.decode()}"
                answer = StreamingResponse(_parts(viewer, self._hub), media_type=kind)
                await answer(scope, receive, send)
        except FullError as error:
            answer = refusal(Refused(503, str(error), wait=5))
            await answer(scope, receive, send)


async def _parts(viewer: Viewer, hub: Hub) -> AsyncIterator[bytes]:
    yield b"--" + _BOUNDARY + b"\r\n"
    while not hub.closed:
        view = await viewer.next()
        if view is not None:  # the next boundary follows at once: browsers show a part when they have seen its end
            head = b"Content-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(view.jpeg)
            yield head + view.jpeg + b"\r\n--" + _BOUNDARY + b"\r\n"


async def live(websocket: WebSocket, stage: Stage) -> None:
    """For each frame a JSON message, then the JPEG; the page answers each with any message once it is shown.

    A further frame is sent when at most one is on its way, and it is the newest then. Where no frame comes, the JSON
    alone is sent every second, with ``"picture": false``.
    """
    try:
        async with stage.hub.viewer() as viewer:
            await _show(websocket, stage, viewer)
    except FullError as error:
        await websocket.send_denial_response(refusal(Refused(503, str(error), wait=5)))


async def _show(websocket: WebSocket, stage: Stage, viewer: Viewer) -> None:
    await websocket.accept()
    window = _Window()
    tasks = {
        asyncio.create_task(_send(websocket, stage, viewer, window)),
        asyncio.create_task(_hear(websocket, window)),
    }
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
    for error in ended:
        if isinstance(error, Exception) and not isinstance(error, WebSocketDisconnect):
            raise error
    with suppress(RuntimeError, WebSocketDisconnect):  # closed by the other side
        await websocket.close(1001 if stage.hub.closed else 1008)


class _Window:
    """How many frames are on their way to a page."""

    def __init__(self) -> None:
        self._on_their_way = 0
        self._room = asyncio.Event()
        self._room.set()

    async def room(self) -> bool:
        """Whether there was room for one more within `_PATIENCE` seconds."""
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._room.wait(), _PATIENCE)
        return self._room.is_set()

    def change(self, step: int) -> None:
        """One more was sent, or shown."""
        self._on_their_way = max(self._on_their_way + step, 0)
        if self._on_their_way < _UNSHOWN:
            self._room.set()
        else:
            self._room.clear()


async def _send(websocket: WebSocket, stage: Stage, viewer: Viewer, window: _Window) -> None:
    facts = None
    while await window.room():
        view = await viewer.next(_BEAT)
        if stage.hub.closed:
            return
        facts = view.facts if view else facts
        await websocket.send_text(json.dumps({**stage.state(facts), "picture": view is not None}))
        if view is not None:
            window.change(1)
            await websocket.send_bytes(view.jpeg)


async def _hear(websocket: WebSocket, window: _Window) -> None:
    while (await websocket.receive())["type"] != "websocket.disconnect":
        window.change(-1)
