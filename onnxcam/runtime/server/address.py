"""Where the page is served."""

from __future__ import annotations

__all__ = ["DEFAULT_ADDRESS", "Address", "parse_address"]

import ipaddress
import socket
from dataclasses import dataclass

from onnxcam.errors import ServerError


@dataclass(frozen=True, slots=True)
class Address:
    """host: a name or an IP address, without brackets. port: 0 takes any that is free."""

    host: str = "127.0.0.1"
    port: int = 8080

    @property
    def loopback(self) -> bool:
        """Whether only this machine reaches it."""
        ip = _ip(self.host)
        return self.host == "localhost" if ip is None else ip.is_loopback

    @property
    def url(self) -> str:
        """What to type into a browser: ``http://127.0.0.1:8080``. Where it listens everywhere, one of its addresses."""
        ip = _ip(self.host)
        host = _outward(ip.version) if ip is not None and ip.is_unspecified else self.host
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


DEFAULT_ADDRESS = Address()


def parse_address(text: str | None) -> Address:
    """``HOST:PORT``, ``HOST``, ``:PORT`` or ``PORT``; what is left out is 127.0.0.1 and 8080. IPv6 stands in brackets.

    Raises `ServerError` for anything else.
    """
    text = (text or "").strip()
    host, _, port = ("", "", text) if text.isdecimal() else text.rpartition(":")
    if not text.isdecimal() and (not _ or text.endswith("]")):
        host, port = text, ""
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        known = _ip(host)
        fits = known is not None and known.version == 6
    else:
        fits = not set(host) & set(":/[]@?# ")
    if not fits or (port and not (port.isdecimal() and int(port) <= 65535)):
        raise ServerError(
            f"'{text}' is no address to serve at: write HOST:PORT such as 0.0.0.0:8080 or [::]:8080, or the port alone"
        )
    return Address(host or DEFAULT_ADDRESS.host, int(port) if port else DEFAULT_ADDRESS.port)


def _ip(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _outward(version: int) -> str:
    """The address that other machines would see. (Connecting a UDP socket sends nothing.)"""
    family, far, own = (
        (socket.AF_INET, "192.0.2.1", "127.0.0.1") if version == 4 else (socket.AF_INET6, "2001:db8::1", "::1")
    )
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((far, 9))
            return str(probe.getsockname()[0])
    except OSError:
        return own
