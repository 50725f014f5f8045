"""A hub, controls and a model that tells colours: what a page is made of, without a camera."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np

from onnxcam.runtime.live.controls import Controls, Settings
from onnxcam.runtime.live.frames import LiveFrame
from onnxcam.runtime.server.app import create_app
from onnxcam.runtime.server.explain import Explainer
from onnxcam.runtime.server.guard import Guard
from onnxcam.runtime.server.hub import Hub
from onnxcam.runtime.server.limits import RateLimit
from onnxcam.runtime.server.metrics import Counts
from onnxcam.runtime.server.state import Stage
from onnxcam.runtime.session import CamModel

from ..clips import RED, color_artifact, plain  # noqa: TID252 tests are no package

ADDRESS = "http://127.0.0.1:8080"


@dataclass
class Scene:
    """hub, controls, model: of the page. problem, counts, lines: what its callables give, and what it logged."""

    model: CamModel
    controls: Controls
    hub: Hub
    problem: str | None = None
    counts: Counts = field(default_factory=Counts)
    lines: list[str] = field(default_factory=list)

    def publish(self, color: tuple[int, int, int] = RED, *, number: int = 0, taken: float | None = None) -> LiveFrame:
        """A frame of one colour, explained, drawn without heat, and given to the hub."""
        picture = plain(color)
        taken = time.monotonic() if taken is None else taken
        frame = LiveFrame(
            number=number, taken=taken, explanation=self.model.explain(picture), drawn=picture.copy(), rate=12.5
        )
        self.hub.publish(frame)
        return frame


@contextmanager
def scene(folder: Path, **hub: Any) -> Iterator[Scene]:
    """One whose model tells red, green and blue."""
    with CamModel(color_artifact(folder / "colors.cam.onnx"), providers="cpu") as model, Hub(**hub) as opened:
        yield Scene(model, Controls(model, Settings(method="gradcam")), opened)


@contextmanager
def application(scene: Scene, *, explainer: dict[str, Any] | None = None, **guard: Any) -> Iterator[Guard]:
    """The guarded application of ``scene``."""
    stage = Stage(scene.hub, scene.controls, scene.model, lambda: scene.problem, lambda: scene.counts)
    explains = Explainer(scene.model, **(explainer or {}))
    try:
        yield Guard(
            create_app(stage, explains, scene.lines.append),
            count=stage.requests.count,
            **{"rate": RateLimit(1000, 1000)} | guard,
        )
    finally:
        explains.close()


def ask(app: Any, method: str, path: str, **options: Any) -> httpx.Response:
    """The whole answer of ``app``, without a socket."""

    async def asked() -> httpx.Response:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False, client=("192.168.1.9", 5000))
        async with httpx.AsyncClient(transport=transport, base_url=ADDRESS) as client:
            return await client.request(method, path, **options)

    return asyncio.run(asked())


def png(picture: np.ndarray) -> bytes:
    """``picture`` as the content of a PNG file."""
    return cv2.imencode(".png", picture)[1].tobytes()


def shown(data: bytes) -> np.ndarray:
    """The pixels of a picture file, uint8 BGR."""
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    return picture
