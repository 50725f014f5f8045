"""``POST /explain``: a picture in, its answer and map out."""

from __future__ import annotations

__all__ = ["Explainer"]

import asyncio
import base64
import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from email.message import Message
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from onnxcam.errors import MethodError, OnnxCamError, nearest_names
from onnxcam.runtime.explanation import Explanation
from onnxcam.runtime.pictures import decoded, encoded, is_picture, pixels
from onnxcam.runtime.render import panels
from onnxcam.runtime.server.answers import Refused
from onnxcam.runtime.session import CamModel

T = TypeVar("T")

_FORMATS = ("json", "png")
_MAPS = ("list", "base64")


class Explainer:
    """Explains pictures that are sent in, in one thread beside the live view.

    places: how many requests may be at work or waiting at once; further ones are told to come again.
    patience: seconds within which a picture must have arrived. max_pixels: that it may have.
    """

    def __init__(
        self, model: CamModel, *, places: int = 4, patience: float = 30.0, max_pixels: int = 40_000_000
    ) -> None:
        self._model = model
        self._places, self._patience, self._max_pixels = places, patience, max_pixels
        self._busy = 0
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="onnxcam-explain")

    def close(self) -> None:
        """Wait for the picture in work; those that wait are dropped. May be called twice."""
        self._worker.shutdown(wait=True, cancel_futures=True)

    async def answer(self, request: Request) -> Response:
        """The class, its score and map as JSON, or the overlay as PNG. Raises `Refused` or `OnnxCamError`."""
        query = request.query_params
        kind = _one_of("format", query.get("format", "json"), _FORMATS)
        form = _one_of("map", query.get("map", "list"), _MAPS)
        with self._place():
            body = await self._body(request)
            return await self.work(lambda: self._answer(body, query.get("class"), query.get("method"), kind, form))

    async def snapshot(self, make: Callable[[], bytes]) -> bytes:
        """What ``make`` gives, in its turn. Raises `Refused` if too many wait."""
        with self._place():
            return await self.work(make)

    async def work(self, make: Callable[[], T]) -> T:
        """What ``make`` gives in the explainer's thread. Raises `Refused` when the server closes."""
        try:
            return await asyncio.wrap_future(self._worker.submit(make))
        except RuntimeError as error:
            if "shutdown" not in str(error):
                raise
            raise Refused(503, "the server is closing: try again once it is back", wait=5) from None

    @contextmanager
    def _place(self) -> Iterator[None]:
        if self._busy >= self._places:
            raise Refused(503, f"{self._places} pictures are in work already: try again in a second", wait=1)
        self._busy += 1
        try:
            yield
        finally:
            self._busy -= 1

    async def _body(self, request: Request) -> bytes:
        try:
            body = await asyncio.wait_for(request.body(), self._patience)
        except asyncio.TimeoutError:
            raise Refused(408, f"the picture did not arrive within {self._patience:g} s: send a smaller one") from None
        kind = request.headers.get("content-type", "")
        return _part(body, kind) if kind.startswith("multipart/") else body

    def _answer(self, body: bytes, chosen: str | None, method: str | None, kind: str, form: str) -> Response:
        if not body:
            raise Refused(400, "the body is empty: send the picture as the body, or as a file of a form")
        if not is_picture(body):
            raise Refused(415, "the body is no picture that can be read: it takes JPEG, PNG, WebP, BMP, TIFF and GIF")
        count = pixels(body)
        if count > self._max_pixels:
            raise Refused(413, f"the picture has {count} pixels, over the limit of {self._max_pixels}: reduce it first")
        model = self._model
        if method is not None and method not in model.methods:
            near = nearest_names(method, model.methods) or f"take one of {', '.join(model.methods)}"
            raise MethodError(f"this model has no map by '{method}': {near}")
        index: Any = None if chosen is None else [_index_or_label(chosen)] * model.explained
        explanation = model.explain(decoded(body), class_index=index, method=method)
        if kind == "png":
            return Response(encoded(panels(explanation), ".png"), media_type="image/png")
        return JSONResponse(_facts(explanation, form))


def _facts(explanation: Explanation, form: str) -> dict[str, Any]:
    height, width = explanation.picture.shape[:2]
    return {
        "class_index": explanation.class_index,
        "label": explanation.label,
        "score": _number(explanation.score),
        "top": [{"class_index": i, "label": label, "score": _number(p)} for i, label, p in explanation.top(5)],
        "method": explanation.method,
        "layer": explanation.layer,
        "height": height,
        "width": width,
        "map": _map(explanation.cam, form),
    }


def _map(cam: NDArray[np.float32], form: str) -> dict[str, Any]:
    """The raw map: as rows of numbers, or as its bytes."""
    shape = list(cam.shape)
    if form == "base64":
        data = np.ascontiguousarray(cam, "<f4").tobytes()
        return {"shape": shape, "dtype": "float32", "base64": base64.b64encode(data).decode()}
    return {"shape": shape, "dtype": "float32", "values": [[_number(x) for x in row] for row in cam.tolist()]}


def _number(x: float) -> float | None:
    """JSON has neither NaN nor infinities."""
    return float(x) if math.isfinite(x) else None


def _part(body: bytes, content_type: str) -> bytes:
    """The first file of a form (RFC 7578), or its first field where none is a file. Raises `Refused`."""
    header = Message()
    header["content-type"] = content_type
    boundary = header.get_param("boundary")
    if not isinstance(boundary, str) or not boundary:
        raise Refused(400, "the form names no boundary: let the program that sends it write Content-Type itself")
    parts = [
        part.partition(b"\r\n\r\n")
        for part in (b"\r\n" + body).split(b"\r\n--" + boundary.encode())[1:]
        if not part.startswith(b"--")
    ]
    if not parts:
        raise Refused(400, "the form is empty or cut short: send the picture as a file in it")
    files = [part for part in parts if b"filename" in part[0].lower()]
    return (files or parts)[0][2]


def _index_or_label(text: str) -> int | str:
    return int(text) if text.removeprefix("-").isdecimal() else text


def _one_of(name: str, given: str, known: tuple[str, ...]) -> str:
    if given not in known:
        raise OnnxCamError(f"{name} is '{given[:80]}': it takes {' or '.join(known)}")
    return given
