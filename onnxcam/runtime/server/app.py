"""The routes."""

from __future__ import annotations

__all__ = ["create_app"]

import json
from collections.abc import Awaitable, Callable
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.websockets import WebSocket

from onnxcam import __version__
from onnxcam.errors import OnnxCamError
from onnxcam.runtime.pictures import encoded
from onnxcam.runtime.server.answers import Refused, refusal
from onnxcam.runtime.server.explain import Explainer
from onnxcam.runtime.server.guard import TRUSTED
from onnxcam.runtime.server.hub import Facts
from onnxcam.runtime.server.metrics import CONTENT_TYPE, exposition
from onnxcam.runtime.server.state import Stage, changes
from onnxcam.runtime.server.streams import Mjpeg, live

Endpoint = Callable[[Request], Awaitable[Response]]

_HERE = Path(__file__).parent
_PAGE = {
    "/": ("index.html", "text/html"),
    "/app.js": ("app.js", "text/javascript"),
    "/scores.js": ("scores.js", "text/javascript"),
    "/style.css": ("style.css", "text/css"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
_SETTINGS_BYTES = 16384
_REASONS = {404: "there is no such address here: /openapi.json lists those there are"}


def create_app(stage: Stage, explainer: Explainer, log: Callable[[str], None]) -> Starlette:
    """The application without its guard. ``log`` is told in a line of what should not happen."""

    async def state(request: Request) -> Response:
        newest = stage.hub.newest
        return JSONResponse(stage.state(None if newest is None else Facts.of(newest)))

    async def choices(request: Request) -> Response:
        return JSONResponse(stage.choices())

    async def stream(request: Request) -> Response:
        return Mjpeg(stage.hub)

    async def settings(request: Request) -> Response:
        if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
            raise Refused(415, "the settings are sent as JSON: set Content-Type to application/json")
        body = await request.body()
        if len(body) > _SETTINGS_BYTES:
            raise Refused(413, f"the body has more than {_SETTINGS_BYTES} bytes: settings are shorter")
        try:
            given = json.loads(body)
        except (ValueError, RecursionError):
            raise Refused(400, 'the body is no JSON: send an object such as {"alpha": 0.5}') from None
        stage.controls.change(**changes(given))
        return await state(request)

    async def snapshot(request: Request) -> Response:
        newest = stage.hub.newest
        if newest is None:
            raise Refused(503, "there is no picture yet: try again in a second", wait=1)
        suffix = Path(request.url.path).suffix
        data = await explainer.snapshot(lambda: encoded(newest.drawn, suffix))
        name = quote(f"onnxcam_{newest.number:06d}{suffix}")
        kind = "image/png" if suffix == ".png" else "image/jpeg"
        return Response(data, media_type=kind, headers={"Content-Disposition": f'attachment; filename="{name}"'})

    async def health(request: Request) -> Response:
        problem = stage.health()
        said: dict[str, Any] = {"status": "running" if problem is None else "lost"}
        if problem is not None and request.scope.get(TRUSTED, True):  # it may name the camera's address
            said["reason"] = problem
        return JSONResponse(said, 200 if problem is None else 503)

    async def metrics(request: Request) -> Response:
        return Response(_metrics(stage), headers={"Content-Type": CONTENT_TYPE})

    async def openapi(request: Request) -> Response:
        return JSONResponse(_openapi())

    async def view(websocket: WebSocket) -> None:
        await live(websocket, stage)

    async def on_refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, Refused)
        return refusal(error)

    async def on_wrong(request: Request, error: Exception) -> Response:
        return refusal(Refused(422 if request.url.path == "/settings" else 400, str(error)))

    async def on_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        sentence = _REASONS.get(
            error.status_code, f"{request.method} is not what this address takes: see /openapi.json"
        )
        answer = refusal(Refused(error.status_code, sentence))
        answer.headers.update(error.headers or {})
        return answer

    async def on_gone(request: Request, error: Exception) -> Response:
        return refusal(Refused(400, "the connection was closed before all of it had arrived"))

    async def on_error(request: Request, error: Exception) -> Response:
        log(f"{request.method} {request.url.path} failed: {type(error).__name__}: {error}")
        return refusal(Refused(500, "this should not happen: the log of onnxcam says more"))

    routes: list[BaseRoute] = [Route(path, _file(name, kind)) for path, (name, kind) in _PAGE.items()]
    routes += [
        Route("/stream.mjpg", stream, methods=["GET"]),
        Route("/state", state),
        Route("/choices", choices),
        Route("/settings", settings, methods=["POST"]),
        Route("/snapshot.png", snapshot),
        Route("/snapshot.jpg", snapshot),
        Route("/explain", explainer.answer, methods=["POST"]),
        Route("/health", health),
        Route("/metrics", metrics),
        Route("/openapi.json", openapi),
        WebSocketRoute("/live", view),
    ]
    return Starlette(
        routes=routes,
        exception_handlers={
            Refused: on_refused,
            OnnxCamError: on_wrong,
            ClientDisconnect: on_gone,
            HTTPException: on_http,
            Exception: on_error,
        },
    )


def _file(name: str, kind: str) -> Endpoint:
    content = (_HERE / "page" / name).read_bytes()

    async def file(request: Request) -> Response:
        return Response(content, media_type=kind)

    return file


@lru_cache(maxsize=1)
def _openapi() -> dict[str, Any]:
    description: dict[str, Any] = json.loads((_HERE / "openapi.json").read_text(encoding="utf-8"))
    description["info"]["version"] = __version__
    return description


def _metrics(stage: Stage) -> str:
    counts, hub = stage.counts(), stage.hub
    return exposition(
        [
            ("onnxcam_up", "gauge", "1 while the source gives frames, 0 while it is lost.", float(not stage.health())),
            ("onnxcam_frames_seen_total", "counter", "Frames the source gave.", counts.seen),
            ("onnxcam_frames_explained_total", "counter", "Frames that went through the model.", counts.explained),
            ("onnxcam_frames_shown_total", "counter", "Frames that were shown.", counts.shown),
            ("onnxcam_frames_dropped_total", "counter", "Frames dropped for a newer one.", counts.dropped),
            ("onnxcam_frame_age_seconds", "histogram", "Age of a frame when it was ready to be shown.",
             hub.ages.lines("onnxcam_frame_age_seconds")),
            ("onnxcam_viewers", "gauge", "Viewers now.", hub.viewers),
            ("onnxcam_viewers_limit", "gauge", "Viewers at most.", hub.limit),
            ("onnxcam_jpegs_encoded_total", "counter", "Frames encoded for viewers.", hub.encoded),
            ("onnxcam_viewer_frames_missed_total", "counter", "Frames that viewers were too slow for.", hub.skipped),
            ("onnxcam_requests_total", "counter", "Answers by HTTP status.",
             stage.requests.lines("onnxcam_requests_total")),
        ]
    )  # fmt: skip
