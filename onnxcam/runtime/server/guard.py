"""Who may ask for what: before any route is reached."""

from __future__ import annotations

__all__ = ["TRUSTED", "Guard"]

import hmac
import ipaddress
import socket
from collections.abc import Callable, Collection, MutableMapping
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from onnxcam.runtime.server.answers import Refused, refusal
from onnxcam.runtime.server.entrance import POLICY, entrance
from onnxcam.runtime.server.limits import RateLimit

TRUSTED = "onnxcam.trusted"
"""Key of a request's scope: whether it carried the token, where one is needed."""

_OPEN = "/health"
_STREAMS = ("/live", "/stream.mjpg")
_LINKED = ("/stream.mjpg", "/snapshot.jpg", "/snapshot.png")
"""What players and scripts that know nothing but an address may ask for with the token in it."""
_HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class Guard:
    """ASGI middleware that lets through what may ask, and says in a sentence why it turns the rest away.

    token: what a request must carry, as ``Authorization: Bearer``, as cookie, or once as ``/?token=``; in the address
        of a picture or stream too. None where everybody who reaches the address may ask.
    names: the host names it answers to, and whose pages may ask, which a proxy that ends TLS serves under an address of
        its own. ``host``, where it listens, ``localhost``, this machine's name and IP addresses are always among those
        it answers to: a page elsewhere whose name was bound anew to this address (DNS rebinding) comes with a name of
        its own.
    port: sets its cookie apart from that of another server on the same host.
    largest: of a request's body, in bytes.
    count: called with the status of every answer.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        token: str | None = None,
        names: Collection[str] = (),
        host: str = "localhost",
        port: int = 8080,
        largest: int = 16 * 2**20,
        rate: RateLimit | None = None,
        count: Callable[[int], None] = lambda status: None,
    ) -> None:
        own = socket.gethostname()
        self._app = app
        self._token = token
        self._public = {name.casefold() for name in names}
        self._names = self._public | {name.casefold() for name in (host, "localhost", own, f"{own}.local")}
        self._cookie = f"onnxcam_{port}"
        self._largest = largest
        self._rate = RateLimit() if rate is None else rate
        self._count = count

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        watched = self._watched(send)
        headers = Headers(scope=scope)
        try:
            answer = self._admit(scope, headers)
        except Refused as refused:
            answer = self._turned_away(scope, headers, refused)
        if answer is None:
            await self._app(scope, self._measured(receive), watched)
        elif scope["type"] == "http" or "websocket.http.response" in scope.get("extensions", {}):
            await answer(scope, receive, watched)
        else:
            await send({"type": "websocket.close", "code": 1008})

    def _admit(self, scope: Scope, headers: Headers) -> Response | None:
        """None if the request may go on, or the answer that sets the cookie. Raises `Refused`."""
        client = scope["client"][0] if scope.get("client") else ""
        if wait := self._rate.wait(client):
            raise Refused(429, "too many requests from this address: slow down", wait=wait)
        self._check_host(headers)
        self._check_origin(scope, headers)
        self._check_length(headers)
        given = self._given(scope)
        fits = given is not None and self._is_token(given)
        scope[TRUSTED] = fits or self._trusted(headers)
        if given is not None and fits and scope["path"] == "/":
            back = RedirectResponse("/", HTTPStatus.SEE_OTHER, {"Cache-Control": "no-store"})
            back.set_cookie(self._cookie, quote(given, safe=""), httponly=True, samesite="strict", path="/")
            return back
        if scope[TRUSTED] or scope["path"] == _OPEN:
            return None
        if given is None:
            raise Refused(401, "a token is needed: it was printed where onnxcam was started")
        raise Refused(401, "this is not the token: take the one that was printed where onnxcam was started")

    def _check_host(self, headers: Headers) -> None:
        name = _host_name(headers.get("host", ""))
        if name.casefold() not in self._names and not _is_ip(name):
            raise Refused(
                421,
                f"this server does not answer to the name '{name[:80]}': ask by its IP address, or start it with "
                "--host-name and that name",
            )

    def _check_origin(self, scope: Scope, headers: Headers) -> None:
        """Another site's page may neither change anything nor look on. (Pictures and forms send no `Origin` as a rule,
        but recent browsers say ``Sec-Fetch-Site``.)"""
        if scope["type"] == "http" and scope["method"] in ("GET", "HEAD") and scope["path"] not in _STREAMS:
            return
        origin = headers.get("origin")
        site = None if origin is None else urlsplit(origin).netloc
        foreign = site not in (None, headers.get("host")) and _host_name(site or "").casefold() not in self._public
        if foreign or headers.get("sec-fetch-site") in ("cross-site", "same-site"):
            raise Refused(403, "this was asked for by a page of another site: open the live view itself")

    def _check_length(self, headers: Headers) -> None:
        length = headers.get("content-length", "0")
        if not length.isdecimal():
            raise Refused(400, "the header Content-Length is no number: send the length of the body in bytes")
        if int(length) > self._largest:
            raise self._too_large()

    def _trusted(self, headers: Headers) -> bool:
        if self._token is None:
            return True
        kind, _, bearer = headers.get("authorization", "").partition(" ")
        if kind.casefold() == "bearer" and self._is_token(bearer.strip()):
            return True
        cookie = cookie_parser(headers.get("cookie", "")).get(self._cookie, "")
        return hmac.compare_digest(cookie.encode(), quote(self._token, safe="").encode())

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode("utf-8", "replace"), (self._token or "").encode())

    def _given(self, scope: Scope) -> str | None:
        """The token in the address."""
        if self._token is None or scope["type"] != "http" or scope["method"] != "GET":
            return None
        if scope["path"] != "/" and scope["path"] not in _LINKED:
            return None
        given: list[str] = parse_qs(scope["query_string"].decode("latin-1")).get("token", [])
        return given[0] if given else None

    def _turned_away(self, scope: Scope, headers: Headers, refused: Refused) -> Response:
        page = scope["type"] == "http" and scope["path"] == "/" and "text/html" in headers.get("accept", "")
        return entrance(refused.sentence) if page and refused.status == HTTPStatus.UNAUTHORIZED else refusal(refused)

    def _measured(self, receive: Receive) -> Receive:
        """``receive`` that ends where a body of unknown length grows too large."""
        left = self._largest

        async def measured() -> Message:
            nonlocal left
            message = await receive()
            if message["type"] == "http.request":
                left -= len(message.get("body", b""))
                if left < 0:
                    raise self._too_large()
            return message

        return measured

    def _too_large(self) -> Refused:
        return Refused(413, f"the body has more than {self._largest} bytes: send a smaller picture")

    def _watched(self, send: Send) -> Send:
        """``send`` that adds the headers every answer has, and counts it."""

        async def watched(message: MutableMapping[str, Any]) -> None:
            kind = message["type"]
            if kind in ("http.response.start", "websocket.http.response.start"):
                self._count(message["status"])
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
                headers.setdefault("Cache-Control", "no-store")
            elif kind == "websocket.accept":
                self._count(101)
            await send(message)

        return watched


def _host_name(host: str) -> str:
    """``host`` without its port; an IPv6 address without brackets."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


def _is_ip(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
