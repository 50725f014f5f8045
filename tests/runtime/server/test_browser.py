"""The page in a real Chromium."""

from __future__ import annotations

import re
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from onnxcam.runtime.live.frames import LiveFrame
from onnxcam.runtime.render import render
from onnxcam.runtime.server.address import Address
from onnxcam.runtime.server.serving import Server

from ..clips import GREEN, RED, plain  # noqa: TID252 tests are no package
from .scene import Scene, scene, shown

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")

ANY = Address("127.0.0.1", 0)
TOKEN = "the right one"
PIXELS = "document.getElementById('picture').toDataURL()"
COPY = "new OffscreenCanvas(1, 1).getContext('2d', {willReadFrequently: true})"
PIXEL = (  # of a copy: a canvas that is read from is moved to the CPU, of which Chromium complains
    f"((copy) => (copy.drawImage(document.getElementById('picture'), -45, -50), "
    f"[...copy.getImageData(0, 0, 1, 1).data.slice(0, 3)]))({COPY})"
)
"""Red, green and blue of a place in the picture."""


class Camera:
    """Publishes a picture that changes with every frame, explained and drawn as the controls say."""

    def __init__(self, scene: Scene) -> None:
        self.color = RED
        self._scene = scene
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def close(self) -> None:
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        number, found = 0, None
        while not self._end.wait(0.03):
            settings = self._scene.controls.settings
            if found is None or not settings.paused:
                picture = plain(self.color, height=60, width=90)
                picture[20:26, number % 60 : number % 60 + 8] = 0
                number += 1
                found = self._scene.model.explain(picture, class_index=settings.class_choice, method=settings.method)
            drawn = render(
                found, layout=settings.layout, alpha=settings.alpha, colormap=settings.colormap, caption=False
            )
            self._scene.hub.publish(
                LiveFrame(number=number, taken=time.monotonic(), explanation=found, drawn=drawn, rate=30)
            )


@dataclass
class Visit:
    """A page that is open, and what it asked for and complained of."""

    page: Page
    scene: Scene
    camera: Camera
    server: Server
    asked: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def settles(self, expression: str) -> None:
        """Wait until the page finds ``expression`` true. (Playwright's own waiting evaluates text, which the page's
        policy forbids.)"""
        end = time.monotonic() + 30
        while not self.page.evaluate(expression):
            assert time.monotonic() < end, expression
            self.page.wait_for_timeout(20)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture(params=["phone", "desktop"])
def visit(request: pytest.FixtureRequest, browser: Browser, tmp_path: Path) -> Iterator[Visit]:
    size = {"phone": (390, 844), "desktop": (1280, 800)}[request.param]
    context = browser.new_context(viewport={"width": size[0], "height": size[1]})
    with scene(tmp_path) as made:
        camera = Camera(made)
        try:
            with Server(
                made.hub, made.controls, made.model, at=ANY, token=TOKEN, health=lambda: made.problem
            ) as server:
                visit = Visit(context.new_page(), made, camera, server)
                visit.page.on("request", lambda request: visit.asked.append(request.url))
                visit.page.on("websocket", lambda opened: visit.asked.append(opened.url))
                visit.page.on("console", lambda message: visit.complaints.append(message.text))
                visit.page.on("pageerror", lambda error: visit.complaints.append(str(error)))
                yield visit
                context.close()
        finally:
            camera.close()


def test_a_visit(visit: Visit, tmp_path: Path) -> None:
    page, controls = visit.page, visit.scene.controls
    page.goto(visit.server.link)
    assert page.url == f"{visit.server.address}/"  # the token is in the cookie now, not in the address

    # the picture moves
    expect(page.locator("#condition")).to_have_text("live")
    expect(page.locator("#name")).to_have_text("red")
    before = page.evaluate(PIXELS)
    visit.settles(f"{PIXELS} !== {before!r}")

    # the slider changes it
    visit.settles(f"{PIXEL}[0] < 250")  # under heat
    page.locator("#alpha").fill("0")
    visit.settles(f"{PIXEL}[0] > 250")  # bare
    assert controls.settings.alpha == 0
    expect(page.locator("#alpha-value")).to_have_text("0 %")

    # by the keyboard too
    page.locator("#alpha").focus()
    page.keyboard.press("End")
    visit.settles(f"{PIXEL}[0] < 200")
    assert controls.settings.alpha == 1

    # the rest of what may be set
    page.locator("#colormap").select_option("gray")
    visit.settles(f"{PIXEL}.every((part) => part > 250)")
    page.locator("input[value=side-by-side]").check()
    visit.settles("document.getElementById('picture').width === 180")
    assert (controls.settings.colormap, controls.settings.layout) == ("gray", "side-by-side")
    page.locator("#caption").uncheck()
    page.locator("#search").fill("Green")
    page.keyboard.press("Enter")
    expect(page.locator("#name")).to_have_text("green")
    assert (controls.settings.class_choice, controls.settings.caption) == (1, False)
    expect(page.locator("input[value=lock]")).to_be_checked()
    page.locator("#search").fill("grene")
    page.keyboard.press("Enter")
    expect(page.locator("#refusal")).to_have_text("This model has no class 'grene': did you mean 'green'?")
    page.locator("input[value='-1']").check()
    expect(page.locator("#name")).to_have_text("red")
    expect(page.locator("#refusal")).to_be_empty()
    page.locator("#scores button", has_text="blue").click()
    expect(page.locator("#name")).to_have_text("blue")
    page.locator("input[value='-1']").check()

    # the bars follow
    visit.camera.color = GREEN
    expect(page.locator("#scores [aria-current=true] span")).to_have_text("green")
    expect(page.locator("#scores [aria-current=true] b")).to_have_text(re.compile(r"^9\d %$"))

    # a pause, in which the picture is still drawn anew
    page.locator("#pause").click()
    expect(page.locator("#condition")).to_have_text("paused")
    page.locator("input[value=overlay]").check()
    page.locator("#alpha").fill("0")
    visit.settles(f"document.getElementById('picture').width === 90 && {PIXEL}[0] < 5")
    assert controls.settings.paused

    # a snapshot
    with page.expect_download() as download:
        page.locator("#snapshot").click()
    assert download.value.suggested_filename.startswith("onnxcam_")
    download.value.save_as(tmp_path / "snapshot.png")
    picture = shown((tmp_path / "snapshot.png").read_bytes())
    assert (picture.shape, picture[50, 45].tolist()) == ((60, 90, 3), list(GREEN))
    page.locator("#pause").click()
    expect(page.locator("#condition")).to_have_text("live")

    # a lost source
    visit.scene.problem = "the camera is gone: trying again"
    expect(page.get_by_role("alert")).to_have_text("The camera is gone: trying again")
    expect(page.locator("#condition")).to_have_text("source lost")
    visit.scene.problem = None
    expect(page.get_by_role("alert")).to_be_hidden()

    # nothing wider than the screen, nothing unnamed, nothing from elsewhere, no complaint
    assert page.evaluate("document.documentElement.scrollWidth") == page.viewport_size["width"]
    controls_there = "[...document.querySelectorAll('input, select, button, a')]"
    unnamed = f"{controls_there}.filter((x) => !x.labels?.length && !x.ariaLabel && !x.innerText.trim())"
    assert page.evaluate(f"{unnamed}.map((x) => x.id)") == []
    origin = visit.server.address.removeprefix("http://")
    assert {url.split("/")[2] for url in visit.asked} == {origin}
    assert f"ws://{origin}/live" in visit.asked
    assert [line for line in visit.complaints if "422" not in line] == []  # but of the class that was refused


def test_a_wrong_token_is_turned_away_and_the_right_one_let_in(visit: Visit) -> None:
    page = visit.page
    page.goto(f"{visit.server.address}/?token=wrong")
    expect(page.get_by_role("alert")).to_have_text(
        "This is not the token: take the one that was printed where onnxcam was started."
    )
    assert page.locator("#picture").count() == 0
    page.get_by_label("Token").fill(TOKEN)
    page.get_by_role("button").click()
    expect(page.locator("#condition")).to_have_text("live")
    assert page.url == f"{visit.server.address}/"
    assert page.evaluate("document.cookie") == ""


def test_a_page_comes_back_by_itself_when_the_server_does(visit: Visit) -> None:
    page = visit.page
    page.goto(visit.server.link)
    expect(page.locator("#condition")).to_have_text("live")
    again = visit.server.address.removeprefix("http://").rsplit(":", 1)
    visit.camera.close()
    visit.server.close()
    expect(page.get_by_role("alert")).to_have_text("The connection to onnxcam is lost: trying again")
    expect(page.locator("#condition")).to_have_text("no connection")
    with scene(visit.scene.model.path.parent) as made:
        camera = Camera(made)
        try:
            with Server(made.hub, made.controls, made.model, at=Address(again[0], int(again[1])), token=TOKEN):
                expect(page.locator("#condition")).to_have_text("live", timeout=30000)
                expect(page.get_by_role("alert")).to_be_hidden()
        finally:
            camera.close()
