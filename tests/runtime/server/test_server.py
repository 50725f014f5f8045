"""The page on a real address."""

from __future__ import annotations

import gc
import json
import logging
import signal
import socket
import sys
import threading
import weakref
from contextlib import suppress
from dataclasses import replace

import httpx
import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from onnxcam.errors import MissingExtraError, ServerError
from onnxcam.runtime.server.address import Address, parse_address
from onnxcam.runtime.server.serving import Server

from ..clips import BLUE, GREEN  # noqa: TID252 tests are no package
from .scene import scene, shown

ANY = Address("127.0.0.1", 0)


@pytest.fixture(autouse=True)
def _no_proxy_and_no_thread_is_left(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "*")
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


@pytest.fixture
def stage(tmp_path):
    with scene(tmp_path) as made:
        yield made


@pytest.fixture
def server(stage):
    with Server(
        stage.hub, stage.controls, stage.model, at=ANY, health=lambda: stage.problem, log=stage.lines.append
    ) as made:
        yield made


def live(server, **options):
    return connect(server.address.replace("http", "ws") + "/live", **options)


def test_it_serves_at_its_address_and_gives_it_back(stage):
    with Server(stage.hub, stage.controls, stage.model, at=ANY) as server:
        assert server.address.startswith("http://127.0.0.1:")
        assert server.link == server.address
        assert server.token is None
        answer = httpx.get(f"{server.address}/health")
        assert (answer.status_code, answer.json()) == (200, {"status": "running"})
        assert "server" not in answer.headers
    with socket.create_server(("127.0.0.1", int(server.address.rpartition(":")[2]))):
        pass
    server.close()


def test_a_taken_port_is_one_sentence(stage):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ServerError) as caught:
            Server(stage.hub, stage.controls, stage.model, at=Address("127.0.0.1", port))
    assert str(caught.value) == (
        f"127.0.0.1:{port} is taken by another program: serve at another port, such as 127.0.0.1:{port + 1}"
    )


@pytest.mark.parametrize(
    ("host", "words"),
    [("192.0.2.1", "192.0.2.1 is no address of this machine"), ("no-such-host.invalid", "there is no host")],
)
def test_an_address_that_is_not_there_is_one_sentence(stage, host, words):
    with pytest.raises(ServerError, match=words):
        Server(stage.hub, stage.controls, stage.model, at=Address(host, 0))


def test_where_others_reach_it_a_token_is_made(stage):
    with Server(stage.hub, stage.controls, stage.model, at=parse_address("0.0.0.0:0")) as server:
        port = server.address.rpartition(":")[2]
        assert len(server.token) >= 24
        assert server.link == f"{server.address}/?token={server.token}"
        assert "0.0.0.0" not in server.address
        with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
            assert client.get("/state").status_code == 401
            assert client.get("/", params={"token": "wrong"}).status_code == 401
            assert client.get("/", params={"token": server.token}).headers["location"] == "/"
            assert client.get("/state").status_code == 200  # by the cookie


def test_a_page_that_a_proxy_shows_under_a_name_asks_for_a_token(stage):
    with Server(stage.hub, stage.controls, stage.model, at=ANY, names=["cam.example"]) as server:
        headers = {"authorization": f"Bearer {server.token}", "host": "cam.example"}
        with httpx.Client(base_url=server.address) as client:
            assert client.get("/state").status_code == 401
            assert client.get("/state", headers=headers).status_code == 200
            proxied = headers | {"host": server.address.removeprefix("http://"), "origin": "https://cam.example"}
            assert client.post("/settings", headers=proxied, json={"alpha": 0.5}).status_code == 200


def test_without_the_extra_it_says_what_to_install(stage, monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(
        MissingExtraError, match=r'needs uvicorn, which is not installed: pip install "onnxcam\[serve\]"'
    ):
        Server(stage.hub, stage.controls, stage.model, at=ANY)


@pytest.mark.parametrize("token", ["", "grün", "a\nb"])
def test_a_token_that_no_header_carries_is_refused(stage, token):
    with pytest.raises(ServerError, match="the token is empty or not ASCII"):
        Server(stage.hub, stage.controls, stage.model, at=ANY, token=token)


def test_one_that_leaves_in_the_middle_of_a_picture_is_no_error(stage, server):
    host, port = server.address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as leaving:
        leaving.sendall(b"POST /explain HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\n\r\nab")
    answers = 'onnxcam_requests_total{status="400"} 1'
    while answers not in httpx.get(f"{server.address}/metrics").text:
        assert stage.lines == []
    assert stage.lines == []


def test_signals_and_logging_stay_the_callers(stage):
    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    logger = logging.getLogger("uvicorn")
    before = list(logger.handlers), logger.propagate
    assert before == ([], True)
    lines: list[str] = []
    with Server(stage.hub, stage.controls, stage.model, at=ANY, log=lines.append):
        assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == handlers
        logging.getLogger("uvicorn.error").warning("something\nlong")
        logging.getLogger("uvicorn.error").info("nothing")
        logging.getLogger("uvicorn.error").error("it failed\n", exc_info=ValueError("why"))
    assert lines == ["something", "it failed: ValueError: why"]
    assert (list(logger.handlers), logger.propagate) == before


def newest(page):
    """The next state that comes with a picture, and the picture."""
    state = json.loads(page.recv(timeout=30))
    while not state["picture"]:
        state = json.loads(page.recv(timeout=30))
    jpeg = page.recv(timeout=30)
    page.send("shown")
    return state, shown(jpeg)


def test_the_page_is_sent_state_and_picture(stage, server):
    stage.publish(GREEN, number=1)
    with live(server) as page:
        state, picture = newest(page)
        assert (state["number"], state["label"], state["viewers"]) == (1, "green", 1)
        np.testing.assert_allclose(picture.mean(axis=(0, 1)), GREEN, atol=3)
        httpx.post(f"{server.address}/settings", json={"alpha": 0.125})
        stage.publish(BLUE, number=2)
        state, picture = newest(page)
        assert (state["number"], state["settings"]["alpha"]) == (2, 0.125)
        np.testing.assert_allclose(picture.mean(axis=(0, 1)), BLUE, atol=3)


def test_where_no_frame_comes_the_page_is_told_why(stage, server):
    stage.publish(number=1)
    with live(server) as page:
        newest(page)
        stage.problem = "the camera is gone"
        state = json.loads(page.recv(timeout=30))
    assert (state["picture"], state["number"], state["problem"]) == (False, 1, "the camera is gone")


def test_a_page_that_does_not_answer_is_sent_two_frames_and_then_the_newest(stage, server):
    with live(server) as page:
        for number in range(2):
            stage.publish(number=number)
            while not json.loads(page.recv(timeout=30))["picture"]:
                pass
            page.recv(timeout=30)
        for number in range(2, 50):
            stage.publish(number=number)
        page.send("shown")
        assert json.loads(page.recv(timeout=30))["number"] == 49


def test_only_so_many_look_on(tmp_path):
    with scene(tmp_path, limit=1) as made, Server(made.hub, made.controls, made.model, at=ANY) as server:
        made.publish()
        with live(server) as page:
            newest(page)
            with pytest.raises(InvalidStatus) as caught:
                live(server)
            assert caught.value.response.status_code == 503
            assert "1 viewers look on already" in json.loads(caught.value.response.body)["error"]
            answer = httpx.get(f"{server.address}/stream.mjpg")
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")


@pytest.mark.parametrize(
    ("status", "name", "origin"), [(403, "127.0.0.1", "http://evil.example"), (421, "evil.example", None)]
)
def test_a_page_of_another_site_does_not_look_on(stage, server, status, name, origin):
    host, port = server.address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as sock, pytest.raises(InvalidStatus) as caught:
        connect(f"ws://{name}:{port}/live", sock=sock, origin=origin)
    assert caught.value.response.status_code == status
    assert json.loads(caught.value.response.body)["error"]
    assert stage.lines == []


def test_players_are_sent_mjpeg(stage, server):
    with httpx.stream("GET", f"{server.address}/stream.mjpg", timeout=30) as answer:
        assert answer.headers["content-type"] == "multipart/x-mixed-replace; boundary=onnxcam-frame"
        chunks = answer.iter_raw()
        received = next(chunks)
        for color in (GREEN, BLUE):
            stage.publish(color)
            while received.count(b"--onnxcam-frame\r\n") < 2:
                received += next(chunks)
            _, part, received = received.split(b"--onnxcam-frame\r\n", 2)
            received = b"--onnxcam-frame\r\n" + received
            head, _, jpeg = part.partition(b"\r\n\r\n")
            assert head == b"Content-Type: image/jpeg\r\nContent-Length: %d" % (len(jpeg) - 2)
            np.testing.assert_allclose(shown(jpeg).mean(axis=(0, 1)), color, atol=3)


def test_one_that_reads_nothing_costs_no_memory(stage, server):
    """Noise makes JPEGs of 1 MB: some fill what the system keeps, then frames are lost."""
    host, port = server.address.removeprefix("http://").split(":")
    noise = np.random.default_rng(0).integers(0, 256, (720, 1280, 3), np.uint8)
    first = stage.publish()
    with socket.create_connection((host, int(port))) as deaf, live(server) as page:
        deaf.sendall(b"GET /stream.mjpg HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert deaf.recv(12) == b"HTTP/1.1 200"
        held = []
        for number in range(60):
            frame = replace(first, number=number, drawn=noise.copy())
            held.append(weakref.ref(frame.drawn))
            stage.hub.publish(frame)
            del frame
            newest(page)
        gc.collect()
        assert sum(ref() is not None for ref in held) <= 1
        assert stage.hub.viewers == 2
        while stage.hub.skipped <= 20:  # as soon as it has read what lay ready, it is sent the newest
            assert deaf.recv(2**20)


def test_closing_does_not_wait_for_one_that_reads_nothing(stage, server):
    host, port = server.address.removeprefix("http://").split(":")
    first = stage.publish()
    noise = np.random.default_rng(0).integers(0, 256, (720, 1280, 3), np.uint8)
    with socket.create_connection((host, int(port))) as deaf, live(server) as page:
        deaf.sendall(b"GET /stream.mjpg HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert deaf.recv(12) == b"HTTP/1.1 200"
        for number in range(12):
            stage.hub.publish(replace(first, number=number, drawn=noise))
            newest(page)
        server.close()
    assert stage.lines == []


def test_closing_ends_those_who_look_on(stage, server):
    with live(server) as page, httpx.stream("GET", f"{server.address}/stream.mjpg", timeout=30) as answer:
        stage.publish()
        chunks = answer.iter_raw()
        next(chunks)
        server.close()
        assert stage.hub.viewers == 0
        with suppress(ConnectionClosed):
            for _ in page:
                pass
        for _ in chunks:
            pass


def test_a_page_that_leaves_gives_its_place_back(stage, server):
    stage.publish()
    with live(server) as page:
        newest(page)
        assert stage.hub.viewers == 1
    with live(server) as page:
        state, _ = newest(page)
        while state["viewers"] != 1:
            stage.publish()
            state, _ = newest(page)
    assert stage.lines == []
