"""What is answered where something is refused: JSON with one sentence."""

from __future__ import annotations

__all__ = ["Refused", "refusal"]

import http

from starlette.responses import JSONResponse


class Refused(Exception):  # noqa: N818 an answer, not an error of the program
    """A request that is answered with ``status`` and ``sentence``.

    wait: seconds after which it may be tried again.
    """

    def __init__(self, status: int, sentence: str, *, wait: int | None = None) -> None:
        super().__init__(sentence)
        self.status, self.sentence, self.wait = status, sentence, wait


def refusal(refused: Refused) -> JSONResponse:
    """The answer: ``{"error": sentence}``."""
    headers = {} if refused.wait is None else {"Retry-After": str(refused.wait)}
    if refused.status == http.HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = 'Bearer realm="onnxcam"'
    return JSONResponse({"error": refused.sentence}, refused.status, headers)
