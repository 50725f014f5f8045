"""Addresses as they are typed."""

from __future__ import annotations

import pytest

from onnxcam.errors import ServerError
from onnxcam.runtime.server.address import Address, parse_address


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        (None, "127.0.0.1", 8080),
        ("", "127.0.0.1", 8080),
        ("9000", "127.0.0.1", 9000),
        (":9000", "127.0.0.1", 9000),
        ("0.0.0.0:8081", "0.0.0.0", 8081),
        ("0.0.0.0", "0.0.0.0", 8080),
        ("box.local:80", "box.local", 80),
        ("[::]:8080", "::", 8080),
        ("[::1]", "::1", 8080),
        ("localhost:0", "localhost", 0),
    ],
)
def test_what_is_left_out_is_loopback_and_8080(text, host, port):
    assert parse_address(text) == Address(host, port)


@pytest.mark.parametrize(
    "text", ["::1", "::", "[::1", "[box]:80", "box:http", "box:70000", "70000", "http://box:80", "a/b", "a b", "box:-1"]
)
def test_what_is_no_address_is_refused_in_a_sentence(text):
    with pytest.raises(ServerError, match=r"is no address to serve at: write HOST:PORT") as caught:
        parse_address(text)
    assert f"'{text}'" in str(caught.value)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("127.8.0.1", True), ("::1", True), ("localhost", True),
     ("0.0.0.0", False), ("::", False), ("192.168.1.4", False), ("box.local", False)],
)  # fmt: skip
def test_loopback_is_what_no_other_machine_reaches(host, loopback):
    assert Address(host).loopback is loopback


def test_the_url_can_be_typed_into_a_browser():
    assert Address("127.0.0.1", 8080).url == "http://127.0.0.1:8080"
    assert Address("::1", 9).url == "http://[::1]:9"
    assert "0.0.0.0" not in Address("0.0.0.0", 8080).url
    assert str(Address("::1", 9)) == "[::1]:9"
