"""What each address answers, and the sentence where it refuses."""

from __future__ import annotations

import asyncio
import base64
import json
import re

import numpy as np
import pytest
from starlette.routing import Route

from onnxcam.runtime.server.app import create_app
from onnxcam.runtime.server.explain import Explainer
from onnxcam.runtime.server.metrics import Counts
from onnxcam.runtime.server.state import Stage

from ..clips import BLUE, GREEN, RED, plain  # noqa: TID252 tests are no package
from .scene import application, ask, png, scene, shown

BEARER = {"authorization": "Bearer s3cret"}


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("model")


@pytest.fixture
def stage(model_folder):
    with scene(model_folder) as made:
        yield made


@pytest.fixture
def app(stage):
    with application(stage) as made:
        yield made


def striped() -> np.ndarray:
    """Green on the left, blue on the right, and more of the green."""
    picture = plain(BLUE)
    picture[:, :20] = GREEN
    return picture


def test_the_page_comes_from_the_package_and_asks_for_nothing_elsewhere(app):
    page = ask(app, "GET", "/")
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    named = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert {"app.js", "style.css", "icon.svg", "snapshot.png"} <= set(named)
    for name in set(named) - {"stream.mjpg", "snapshot.png"}:
        assert ask(app, "GET", f"/{name}").status_code == 200, name
    for name in ("app.js", "scores.js", "style.css", ""):
        assert "//" not in re.sub(r"(?m)(^|\s)//.*$", "", ask(app, "GET", f"/{name}").text).replace(
            "http://www.w3.org", ""
        )


def test_the_state_before_the_first_frame(app):
    state = ask(app, "GET", "/state").json()
    assert (state["number"], state["age_ms"], state["top"], state["problem"]) == (None, None, [], None)
    assert state["settings"]["class_choice"] == -1


def test_the_state_is_that_of_the_newest_frame(app, stage):
    stage.publish(RED, number=1)
    stage.publish(GREEN, number=2, taken=stage.hub.clock() - 2)
    state = ask(app, "GET", "/state").json()
    assert (state["number"], state["class_index"], state["label"], state["name"]) == (2, 1, "green", "green")
    assert (state["score"], state["rate"], state["method"]) == (1, 12.5, "gradcam")
    assert state["top"][0] == {"class_index": 1, "label": "green", "score": 1}
    assert 2000 <= state["age_ms"] < 60000
    assert state["settings"]["method"] == "gradcam"


def test_where_no_frame_comes_any_more_there_is_no_rate(app, stage):
    stage.publish(GREEN, taken=stage.hub.clock() - 4)
    assert ask(app, "GET", "/state").json()["rate"] == 0


def test_what_may_be_set(app):
    choices = ask(app, "GET", "/choices").json()
    assert (choices["methods"], choices["labels"], choices["classes"]) == (["gradcam"], ["red", "green", "blue"], 3)
    assert choices["layouts"] == ["overlay", "side-by-side", "heatmap"]
    assert choices["colormaps"]["gray"] == [f"#{x:02x}{x:02x}{x:02x}" for x in (0, 32, 64, 96, 128, 159, 191, 223, 255)]
    assert choices["colormaps"]["hot"][0] == "#000000"
    assert choices["colormaps"]["hot"][3] == "#f00000"  # red


def test_settings_are_in_force_at_once(app, stage):
    answer = ask(app, "POST", "/settings", json={"alpha": 0.25, "class_choice": "blue", "paused": True})
    assert answer.status_code == 200
    assert answer.json()["settings"] | {"alpha": 0.25, "class_choice": "blue"} == answer.json()["settings"]
    assert (stage.controls.settings.alpha, stage.controls.settings.class_choice) == (0.25, "blue")
    assert stage.controls.settings.paused is True


JSON = {"content-type": "application/json"}


@pytest.mark.parametrize(
    ("status", "words", "method", "path", "options"),
    [
        (404, "there is no such address", "GET", "/nothing", {}),
        (404, "there is no such address", "GET", "/page/../app.py", {}),
        (405, "DELETE is not what this address takes", "DELETE", "/state", {}),
        (405, "GET is not what this address takes", "GET", "/settings", {}),
        (415, "the settings are sent as JSON", "POST", "/settings", {"content": b'{"alpha": 1}'}),
        (400, "the body is no JSON", "POST", "/settings", {"content": b"{", "headers": JSON}),
        (400, "the body is no JSON", "POST", "/settings", {"content": b"\xff", "headers": JSON}),
        (400, "the body is no JSON", "POST", "/settings", {"content": b"[" * 9999, "headers": JSON}),
        (400, "the settings are no JSON object", "POST", "/settings", {"json": [1]}),
        (400, "there is no setting 'alfa': did you mean 'alpha'?", "POST", "/settings", {"json": {"alfa": 1}}),
        (400, "'alpha' takes a number from 0 to 1", "POST", "/settings", {"json": {"alpha": "1"}}),
        (400, "'alpha' takes a number from 0 to 1", "POST", "/settings", {"json": {"alpha": True}}),
        (400, "'paused' takes true or false", "POST", "/settings", {"json": {"paused": 1}}),
        (400, "'class_choice' takes", "POST", "/settings", {"json": {"class_choice": 1.5}}),
        (413, "settings are shorter", "POST", "/settings", {"content": b" " * 20000, "headers": JSON}),
        (422, "alpha is 1.5", "POST", "/settings", {"json": {"alpha": 1.5}}),
        (422, "alpha is nan", "POST", "/settings", {"content": b'{"alpha": NaN}', "headers": JSON}),
        (422, "there is no class 3", "POST", "/settings", {"json": {"class_choice": 3}}),
        (422, "no class 'bleu': did you mean 'blue'?", "POST", "/settings", {"json": {"class_choice": "bleu"}}),
        (422, "there is no method", "POST", "/settings", {"json": {"method": "gradcan"}}),
        (422, "longer than any name", "POST", "/settings", {"json": {"class_choice": "x" * 999}}),
        (422, "it takes an index", "POST", "/settings", {"json": {"class_choice": 10**30}}),
        (503, "there is no picture yet", "GET", "/snapshot.png", {}),
        (400, "the body is empty", "POST", "/explain", {}),
        (415, "the body is no picture", "POST", "/explain", {"content": b"GET / HTTP/1.1"}),
        (400, "the picture is cut short", "POST", "/explain", {"content": png(plain(RED))[:-20]}),
        (400, "the picture is cut short or damaged", "POST", "/explain", {"content": b"\x89PNG\r\n\x1a\n"}),
        (400, "no class 'bleu'", "POST", "/explain?class=bleu", {"content": png(plain(RED))}),
        (400, "there is no class 7", "POST", "/explain?class=7", {"content": png(plain(RED))}),
        (400, "has no map by 'rise'", "POST", "/explain?method=rise", {"content": png(plain(RED))}),
        (400, "format is 'gif': it takes json or png", "POST", "/explain?format=gif", {"content": png(plain(RED))}),
        (400, "map is 'x': it takes list or base64", "POST", "/explain?map=x", {"content": png(plain(RED))}),
        (413, "the picture has 1000 pixels", "POST", "/explain", {"content": png(np.zeros((20, 50, 3), np.uint8))}),
        (400, "the form names no boundary", "POST", "/explain",
         {"content": b"x", "headers": {"content-type": "multipart/form-data"}}),
        (400, "the form is empty", "POST", "/explain",
         {"content": b"--b--\r\n", "headers": {"content-type": "multipart/form-data; boundary=b"}}),
    ],
)  # fmt: skip
def test_every_refusal_is_a_sentence(stage, status, words, method, path, options):
    before = stage.controls.settings
    with application(stage, explainer={"max_pixels": 900}) as app:
        answer = ask(app, method, path, **options)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/json"
    assert words in answer.json()["error"]
    assert "\n" not in answer.json()["error"]
    assert stage.controls.settings == before
    assert stage.lines == []


def test_what_should_not_happen_is_logged_and_told_without_its_insides(app, stage, monkeypatch):
    monkeypatch.setattr(stage.controls, "change", lambda **changes: 1 / 0)
    answer = ask(app, "POST", "/settings", json={"alpha": 1})
    assert (answer.status_code, "division" in answer.text) == (500, False)
    assert stage.lines == ["POST /settings failed: ZeroDivisionError: division by zero"]


def test_a_snapshot_is_the_drawn_frame_itself(app, stage):
    frame = stage.publish(GREEN, number=42)
    answer = ask(app, "GET", "/snapshot.png")
    assert answer.headers["content-disposition"] == 'attachment; filename="onnxcam_000042.png"'
    np.testing.assert_array_equal(shown(answer.content), frame.drawn)
    answer = ask(app, "GET", "/snapshot.jpg")
    assert (answer.headers["content-type"], answer.content[:3]) == ("image/jpeg", b"\xff\xd8\xff")


def test_a_picture_is_explained(app, stage):
    found = ask(app, "POST", "/explain", content=png(striped())).json()
    expected = stage.model.explain(striped())
    assert (found["class_index"], found["label"], found["height"], found["width"]) == (1, "green", 24, 34)
    assert found["score"] == pytest.approx(expected.score)
    assert [each["label"] for each in found["top"]] == ["green", "blue", "red"]
    assert (found["map"]["shape"], found["map"]["dtype"]) == ([6, 8], "float32")
    np.testing.assert_allclose(found["map"]["values"], expected.cam)
    assert expected.cam[0, 0] > 0.9 > 0.1 > expected.cam[0, -1]


@pytest.mark.parametrize(("choice", "label"), [("blue", "blue"), ("2", "blue"), ("-1", "green")])
def test_the_class_is_chosen_by_label_index_or_rank(app, choice, label):
    found = ask(app, "POST", "/explain", params={"class": choice, "map": "base64"}, content=png(striped())).json()
    cam = np.frombuffer(base64.b64decode(found["map"]["base64"]), "<f4").reshape(found["map"]["shape"])
    assert found["label"] == label
    assert (cam[0, 0] > cam[0, -1]) == (label == "green")


def test_the_overlay_comes_as_png(app, stage):
    answer = ask(app, "POST", "/explain?format=png&class=blue", content=png(striped()))
    assert answer.headers["content-type"] == "image/png"
    picture = shown(answer.content)
    assert picture.shape == (24, 34, 3)
    assert np.abs(picture[12, 30].astype(int) - BLUE).max() > 40  # hot
    assert np.abs(picture[20, 1].astype(int) - GREEN).max() < 3  # cold


def test_a_picture_is_taken_from_a_form_whatever_its_bytes(app):
    noise = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    direct = ask(app, "POST", "/explain", content=png(noise)).json()
    form = ask(app, "POST", "/explain", data={"comment": "first"}, files={"image": ("a.png", png(noise))}).json()
    assert form == direct
    only_field = b'--b\r\nContent-Disposition: form-data; name="image"\r\n\r\n' + png(noise) + b"\r\n--b--\r\n"
    kind = {"content-type": 'multipart/form-data; boundary="b"'}
    assert ask(app, "POST", "/explain", content=only_field, headers=kind).json() == direct


def test_when_all_places_are_taken_the_next_is_told_to_come_again(stage):
    with application(stage, explainer={"places": 0}) as app:
        answer = ask(app, "POST", "/explain", content=png(plain(RED)))
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert "in work already" in answer.json()["error"]


def test_a_picture_that_does_not_arrive_gives_its_place_back(stage):
    async def never():
        yield b"\x89PNG"
        await asyncio.Event().wait()

    with application(stage, explainer={"places": 1, "patience": 0.01}) as app:
        answer = ask(app, "POST", "/explain", content=never())
        assert (answer.status_code, "did not arrive" in answer.json()["error"]) == (408, True)
        assert ask(app, "POST", "/explain", content=png(plain(RED))).status_code == 200


def test_health_says_whether_the_source_is_there(stage):
    with application(stage, token="s3cret") as app:
        answer = ask(app, "GET", "/health")
        assert (answer.status_code, answer.json()) == (200, {"status": "running"})
        stage.problem = "the camera 'rtsp://user:secret@cam' is gone"
        answer = ask(app, "GET", "/health")
        assert (answer.status_code, answer.json()) == (503, {"status": "lost"})
        answer = ask(app, "GET", "/health", headers=BEARER)
        assert (answer.status_code, answer.json()) == (503, {"status": "lost", "reason": stage.problem})
        assert ask(app, "GET", "/state", headers=BEARER).json()["problem"] == stage.problem


def test_the_metrics_are_in_the_format_of_prometheus(app, stage):
    stage.counts = Counts(seen=1234567890, explained=60, shown=59, dropped=40)
    stage.publish(taken=stage.hub.clock() - 0.3)
    ask(app, "GET", "/nothing")
    ask(app, "GET", "/state")
    answer = ask(app, "GET", "/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    lines = answer.text.splitlines()
    assert answer.text.endswith("\n")
    samples = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    assert samples["onnxcam_frames_seen_total"] == "1234567890"
    assert samples["onnxcam_frames_dropped_total"] == "40"
    assert samples["onnxcam_up"] == "1"
    assert samples["onnxcam_viewers"] == "0"
    assert samples['onnxcam_requests_total{status="404"}'] == "1"
    assert samples['onnxcam_requests_total{status="200"}'] == "1"
    assert samples['onnxcam_frame_age_seconds_bucket{le="0.2"}'] == "0"
    assert samples['onnxcam_frame_age_seconds_bucket{le="+Inf"}'] == samples["onnxcam_frame_age_seconds_count"] == "1"
    kinds = {line.split()[2]: line.split()[3] for line in lines if line.startswith("# TYPE")}
    helped = {line.split()[2] for line in lines if line.startswith("# HELP")}
    assert kinds.keys() == helped
    pattern = re.compile(r'[a-z_]+(\{[a-z]+="[^"]+"\})? (\d+(\.\d+)?)')
    assert [line for line in lines if not line.startswith("#") and not pattern.fullmatch(line)] == []


def test_the_description_names_every_route_and_no_other(app, stage):
    description = ask(app, "GET", "/openapi.json").json()
    described = {(path, method.upper()) for path, methods in description["paths"].items() for method in methods}
    explainer = Explainer(stage.model)
    routes = create_app(Stage(stage.hub, stage.controls, stage.model, lambda: None, Counts), explainer, print).routes
    explainer.close()
    there = {
        (route.path, method)
        for route in routes
        for method in ((route.methods or set()) - {"HEAD"} if isinstance(route, Route) else {"GET"})
    }
    assert described == there
    references = set(re.findall(r'"#/([^"]+)"', json.dumps(description)))
    for reference in references:
        found = description
        for step in reference.split("/"):
            found = found[step]


def test_the_description_names_what_the_state_holds(app, stage):
    stage.publish()
    schemas = ask(app, "GET", "/openapi.json").json()["components"]["schemas"]
    state = ask(app, "GET", "/state").json()
    assert schemas["State"]["properties"].keys() == state.keys()
    assert schemas["Settings"]["properties"].keys() == state["settings"].keys()
    assert schemas["Choices"]["properties"].keys() == ask(app, "GET", "/choices").json().keys()
    found = ask(app, "POST", "/explain", content=png(plain(RED))).json()
    assert schemas["Explanation"]["properties"].keys() == found.keys()
