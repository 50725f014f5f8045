"""The page on its address, in a thread of its own."""

from __future__ import annotations

__all__ = ["Server"]

import errno
import logging
import secrets
import socket
from collections.abc import Callable, Collection
from dataclasses import replace
from threading import Thread
from typing import TYPE_CHECKING
from urllib.parse import quote

from onnxcam.errors import MissingExtraError, ServerError
from onnxcam.runtime.closing import Closing
from onnxcam.runtime.live.controls import Controls
from onnxcam.runtime.server.address import DEFAULT_ADDRESS, Address
from onnxcam.runtime.server.hub import Hub
from onnxcam.runtime.server.metrics import Counts
from onnxcam.runtime.session import CamModel

if TYPE_CHECKING:
    import uvicorn
    from starlette.types import ASGIApp

_SEND_BUFFER = 2**18
"""Bytes the system keeps for a viewer: left to grow, it would hold seconds of frames for a slow one."""
_EVERY_DAY = ("without completing handshake", "Invalid HTTP request")
"""What uvicorn says of a viewer that was turned away, and of one that speaks no HTTP: nothing the user can do about."""
_CONNECTIONS = 128
_BACKLOG = 64
_GRACE = 1  # seconds for answers under way when it closes


class Server(Closing):
    """The page of ``hub``, with ``controls``, at the address ``at``; a context manager. Closing it closes the hub.

    token: what to ask for; None makes one where other machines reach the address, or there are ``names``, and asks for
        none where they do not.
    names: host names it answers to, besides ``localhost``, this machine's and IP addresses: those of a proxy.
    health: the reason in a sentence while the source is lost, else None. counts: of frames so far.
    log: told, in a line each, what goes wrong.

    address: what to type into a browser, ``http://127.0.0.1:8080``; link: the same with the token.

    Raises `ServerError` if the address is taken or none of this machine, and `MissingExtraError` without the extra.
    Installs no signal handlers.

    ::

        with Hub() as hub, Server(hub, controls, model, at=parse_address("0.0.0.0:8080")) as server:
            print(server.link)
            hub.publish(live_frame)  # from any thread, again and again
    """

    def __init__(
        self,
        hub: Hub,
        controls: Controls,
        model: CamModel,
        *,
        at: Address = DEFAULT_ADDRESS,
        token: str | None = None,
        names: Collection[str] = (),
        health: Callable[[], str | None] = lambda: None,
        counts: Callable[[], Counts] = Counts,
        log: Callable[[str], None] = lambda line: None,
    ) -> None:
        try:
            import uvicorn
            import websockets  # noqa: F401 uvicorn's, which would answer the page without it, but show nothing

            from onnxcam.runtime.server.app import create_app
            from onnxcam.runtime.server.explain import Explainer
            from onnxcam.runtime.server.guard import Guard
            from onnxcam.runtime.server.state import Stage
        except ModuleNotFoundError as error:
            raise MissingExtraError(
                f'the page needs {error.name}, which is not installed: pip install "onnxcam[serve]"'
            ) from None
        if token is not None and not (token and token.isascii() and token.isprintable()):
            raise ServerError("the token is empty or not ASCII: give letters and digits, or none to have one made")
        self.token = token or (None if at.loopback and not names else secrets.token_urlsafe(18))
        self._hub = hub
        self._socket = _listening(at)
        self._at = replace(at, port=self._socket.getsockname()[1])
        self._explainer = Explainer(model)
        stage = Stage(hub, controls, model, health, counts)
        guarded: ASGIApp = Guard(
            create_app(stage, self._explainer, log),
            token=self.token,
            names=names,
            host=at.host,
            port=self._at.port,
            count=stage.requests.count,
        )
        self._log = _Log(log)
        self._server = _uvicorn_server()(
            uvicorn.Config(
                guarded,
                http="h11",
                ws="websockets-sansio",
                ws_max_size=1024,  # of what a page sends, not of frames
                loop="asyncio",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                limit_concurrency=_CONNECTIONS,
                timeout_graceful_shutdown=_GRACE,
            )
        )
        self._thread = Thread(target=self._run, name="onnxcam-page", daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        """What to type into a browser."""
        return self._at.url

    @property
    def link(self) -> str:
        """The same with the token in it, for the first time."""
        return self.address if self.token is None else f"{self.address}/?token={quote(self.token, safe='')}"

    def close(self) -> None:
        """End the viewers and give the address back, within 2 s. May be called twice."""
        self._log.quiet = True  # of those it ends
        self._hub.close()
        self._server.should_exit = True
        self._thread.join()
        self._explainer.close()
        self._socket.close()
        self._log.close()

    def _run(self) -> None:
        self._server.run([self._socket])


def _uvicorn_server() -> type[uvicorn.Server]:
    """uvicorn's server, that at the end drops those who do not read what they were sent."""
    import asyncio

    import uvicorn

    class Impatient(uvicorn.Server):
        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            await super().shutdown(sockets)
            for connection in list(self.server_state.connections):
                transport = getattr(connection, "transport", None)
                if isinstance(transport, asyncio.WriteTransport):
                    transport.abort()
            await asyncio.sleep(0)  # in which they are closed

    return Impatient


class _Log(logging.Handler):
    """Hands uvicorn's warnings to ``log`` while it is open and not ``quiet``, in place of its own handlers."""

    def __init__(self, log: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._told = log
        self.quiet = False
        self._logger = logging.getLogger("uvicorn")
        self._propagated = self._logger.propagate
        self._logger.addHandler(self)
        self._logger.propagate = False

    def emit(self, record: logging.LogRecord) -> None:
        if not self.quiet and not any(words in record.msg for words in _EVERY_DAY):
            error = record.exc_info and record.exc_info[1]
            self._told(record.getMessage().splitlines()[0] + (f": {type(error).__name__}: {error}" if error else ""))

    def close(self) -> None:
        self._logger.removeHandler(self)
        self._logger.propagate = self._propagated
        super().close()


def _listening(at: Address) -> socket.socket:
    """A socket that takes connections from now on: none is refused while the server starts."""
    try:
        (family, _, _, _, address), *_ = socket.getaddrinfo(
            at.host, at.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        everywhere = family == socket.AF_INET6 and address[0] == "::" and socket.has_dualstack_ipv6()
        bound = socket.create_server((at.host, at.port), family=family, backlog=_BACKLOG, dualstack_ipv6=everywhere)
    except socket.gaierror:
        raise ServerError(
            f"there is no host '{at.host}': serve at 127.0.0.1, at 0.0.0.0 for all networks, or at an address of this "
            "machine"
        ) from None
    except OSError as error:
        raise ServerError(_why(at, error)) from None
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)  # accepted connections inherit it
    return bound


def _why(at: Address, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        other = replace(at, port=at.port + 1 if at.port < 65535 else 8080)
        return f"{at} is taken by another program: serve at another port, such as {other}"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{at.host} is no address of this machine: serve at 127.0.0.1, or at 0.0.0.0 for all networks"
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"port {at.port} is not for this user: serve at one from 1024 on, such as {replace(at, port=8080)}"
    return f"nothing can be served at {at}: {error.strerror}"
