"""Who is let through, and who is told why not."""

from __future__ import annotations

from collections import Counter

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse

from onnxcam.runtime.server.answers import Refused, refusal
from onnxcam.runtime.server.guard import TRUSTED, Guard
from onnxcam.runtime.server.limits import RateLimit

from .scene import ask

TOKEN = "a/token with ünicode;"
BEARER = {"authorization": "Bearer s3cret"}


async def inner(scope, receive, send):
    """Says what reached it."""
    request = Request(scope, receive)
    try:
        body = await request.body()
    except Refused as refused:
        await refusal(refused)(scope, receive, send)
        return
    await JSONResponse({"path": scope["path"], "bytes": len(body), "trusted": scope[TRUSTED]})(scope, receive, send)


@pytest.mark.parametrize(
    ("method", "path", "headers", "status", "words"),
    [
        # the token
        ("GET", "/state", {}, 401, "a token is needed"),
        ("GET", "/", {}, 401, "a token is needed"),
        ("GET", "/state", BEARER, 200, None),
        ("GET", "/state", {"authorization": "bearer s3cret"}, 200, None),
        ("GET", "/state", {"authorization": "Bearer S3cret"}, 401, "a token is needed"),
        ("GET", "/state", {"authorization": "Bearer "}, 401, "a token is needed"),
        ("GET", "/state", {"authorization": "Basic s3cret"}, 401, "a token is needed"),
        ("GET", "/state", {"cookie": "onnxcam_8080=s3cret"}, 200, None),
        ("GET", "/state", {"cookie": "onnxcam_8080=wrong"}, 401, "a token is needed"),
        ("GET", "/state", {"cookie": "onnxcam_9090=s3cret"}, 401, "a token is needed"),
        ("GET", "/state?token=s3cret", {}, 401, "a token is needed"),
        ("POST", "/?token=s3cret", {}, 401, "a token is needed"),
        ("GET", "/?token=wrong", {}, 401, "this is not the token"),
        ("GET", "/?token=s3cret", {}, 303, None),
        ("GET", "/stream.mjpg?token=s3cret", {}, 200, None),
        ("GET", "/stream.mjpg?token=wrong", {}, 401, "this is not the token"),
        ("GET", "/snapshot.jpg?token=s3cret", {}, 200, None),
        ("GET", "/health", {}, 200, None),
        # the name it is asked by
        ("GET", "/state", BEARER | {"host": "localhost:8080"}, 200, None),
        ("GET", "/state", BEARER | {"host": "192.168.1.4:9999"}, 200, None),
        ("GET", "/state", BEARER | {"host": "[fe80::1]:8080"}, 200, None),
        ("GET", "/state", BEARER | {"host": "Shop.Example"}, 200, None),
        ("GET", "/state", BEARER | {"host": "evil.example:8080"}, 421, "does not answer to the name 'evil.example'"),
        ("GET", "/health", {"host": "evil.example"}, 421, "does not answer to the name"),
        ("GET", "/state", BEARER | {"host": "127.0.0.1.evil.example"}, 421, "does not answer to the name"),
        ("GET", "/state", BEARER | {"host": ""}, 421, "does not answer to the name ''"),
        # the page that asks
        ("POST", "/settings", BEARER | {"origin": "http://127.0.0.1:8080"}, 200, None),
        ("POST", "/settings", BEARER | {"origin": "https://127.0.0.1:8080"}, 200, None),
        ("POST", "/settings", BEARER, 200, None),
        ("POST", "/settings", BEARER | {"origin": "http://evil.example"}, 403, "by a page of another site"),
        ("POST", "/settings", BEARER | {"origin": "http://127.0.0.1:3000"}, 403, "by a page of another site"),
        ("POST", "/settings", BEARER | {"origin": "https://Shop.example"}, 200, None),
        ("POST", "/settings", BEARER | {"origin": "https://shop.example.evil"}, 403, "by a page of another site"),
        ("POST", "/settings", BEARER | {"origin": "null"}, 403, "by a page of another site"),
        ("POST", "/explain", BEARER | {"sec-fetch-site": "cross-site"}, 403, "by a page of another site"),
        ("GET", "/stream.mjpg", BEARER | {"origin": "http://evil.example"}, 403, "by a page of another site"),
        ("GET", "/stream.mjpg", BEARER | {"sec-fetch-site": "cross-site"}, 403, "by a page of another site"),
        ("GET", "/stream.mjpg", BEARER | {"sec-fetch-site": "same-origin"}, 200, None),
        ("GET", "/", BEARER | {"sec-fetch-site": "cross-site"}, 200, None),
        # the body
        ("POST", "/explain", BEARER | {"content-length": "101"}, 413, "the body has more than 100 bytes"),
        ("POST", "/explain", BEARER | {"content-length": "-1"}, 400, "Content-Length is no number"),
    ],
)
def test_the_table(method, path, headers, status, words):
    guard = Guard(inner, token="s3cret", names=["shop.example"], port=8080, largest=100)
    answer = ask(guard, method, path, headers=headers)
    assert answer.status_code == status
    if words:
        assert words in answer.json()["error"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
    assert answer.headers["content-security-policy"].startswith("default-src 'self'")
    assert ("www-authenticate" in answer.headers) == (status == 401)


def test_without_a_token_all_who_reach_it_may_ask():
    answer = ask(Guard(inner), "GET", "/state")
    assert (answer.status_code, answer.json()["trusted"]) == (200, True)


def test_the_link_sets_a_cookie_that_then_opens_everything():
    guard = Guard(inner, token=TOKEN, port=81)
    answer = ask(guard, "GET", "/", params={"token": TOKEN})
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    cookie, *flags = answer.headers["set-cookie"].split("; ")
    assert cookie.startswith("onnxcam_81=")
    assert {flag.casefold() for flag in flags} == {"httponly", "path=/", "samesite=strict"}
    assert ask(guard, "GET", "/state", headers={"cookie": f"other=1; {cookie}"}).status_code == 200
    assert ask(guard, "GET", "/state", headers={"cookie": cookie[:-1]}).status_code == 401


def test_health_is_open_but_says_who_asked():
    guard = Guard(inner, token="s3cret")
    assert ask(guard, "GET", "/health").json()["trusted"] is False
    assert ask(guard, "GET", "/health", headers=BEARER).json()["trusted"] is True


def test_a_browser_without_the_token_is_asked_for_it():
    answer = ask(Guard(inner, token="s3cret"), "GET", "/?token=<wrong>", headers={"accept": "text/html"})
    assert (answer.status_code, answer.headers["content-type"]) == (401, "text/html; charset=utf-8")
    assert "This is not the token" in answer.text
    assert 'name="token"' in answer.text
    assert "<wrong>" not in answer.text


def test_a_body_that_does_not_say_its_length_is_counted():
    async def parts(count):
        for _ in range(count):
            yield b"x" * 30

    guard = Guard(inner, largest=100)
    assert ask(guard, "POST", "/explain", content=parts(3)).json()["bytes"] == 90
    answer = ask(guard, "POST", "/explain", content=parts(4))
    assert (answer.status_code, answer.json()["error"][:32]) == (413, "the body has more than 100 bytes")


def test_one_that_asks_too_often_is_told_to_wait():
    statuses: Counter[int] = Counter()
    guard = Guard(inner, rate=RateLimit(0.5, 3, clock=lambda: 0.0), count=lambda status: statuses.update([status]))
    answers = [ask(guard, "GET", "/state") for _ in range(5)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429]
    assert answers[-1].headers["retry-after"] == "2"
    assert "slow down" in answers[-1].json()["error"]
    assert statuses == {200: 3, 429: 2}


def test_the_bucket_fills_again_and_never_over():
    now = [0.0]
    limit = RateLimit(2, 3, clock=lambda: now[0])
    assert [limit.wait("a") for _ in range(4)] == [0, 0, 0, 1]
    now[0] = 0.5
    assert [limit.wait("a") for _ in range(2)] == [0, 1]
    now[0] = 1000
    assert [limit.wait("a") for _ in range(4)] == [0, 0, 0, 1]
    assert limit.wait("b") == 0


def test_of_many_addresses_only_so_many_are_remembered():
    limit = RateLimit(clients=10)
    for client in range(1000):
        limit.wait(str(client))
    assert len(limit) == 10
