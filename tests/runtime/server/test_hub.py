"""The newest frame for every viewer, each at its own pace."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from dataclasses import replace

import numpy as np
import pytest

from onnxcam.runtime.server.hub import FullError, Hub

from ..clips import BLUE, GREEN, RED  # noqa: TID252 tests are no package
from .scene import scene, shown

FOREVER = 60.0


@pytest.fixture
def stage(tmp_path):
    with scene(tmp_path) as made:
        yield made


def test_a_frame_is_encoded_once_however_many_look_on(stage):
    async def look():
        async with stage.hub.viewer() as a, stage.hub.viewer() as b, stage.hub.viewer() as c:
            assert stage.hub.viewers == 3
            stage.publish(GREEN, number=7)
            return await asyncio.gather(a.next(), b.next(), c.next())

    views = asyncio.run(look())
    assert stage.hub.encoded == 1
    assert len({id(view.jpeg) for view in views}) == 1
    np.testing.assert_allclose(shown(views[0].jpeg).mean(axis=(0, 1)), GREEN, atol=3)
    facts = views[0].facts
    assert (facts.number, facts.class_index, facts.label, facts.rate) == (7, 1, "green", 12.5)
    assert [label for _, label, _ in facts.top] == ["green", "red", "blue"]
    assert stage.hub.viewers == 0


def test_nothing_is_encoded_while_nobody_looks(stage):
    for number in range(5):
        stage.publish(number=number)
    assert stage.hub.encoded == 0
    assert stage.hub.newest.number == 4


def test_a_slow_viewer_loses_frames_and_holds_none(stage):
    """Of a hundred frames published while a viewer is busy, one is alive: the newest."""
    held = []

    async def look():
        async with stage.hub.viewer() as viewer:
            first = stage.publish(RED, number=0)
            held.append(weakref.ref(first.drawn))
            view = await viewer.next()
            for number in range(1, 101):
                frame = replace(first, number=number, drawn=first.drawn.copy())
                held.append(weakref.ref(frame.drawn))
                stage.hub.publish(frame)
            del first, frame
            gc.collect()
            alive = sum(ref() is not None for ref in held)
            return view, await viewer.next(), alive

    first, second, alive = asyncio.run(look())
    assert (first.facts.number, second.facts.number) == (0, 100)
    assert alive == 1
    assert (stage.hub.encoded, stage.hub.skipped) == (2, 99)


def test_the_same_frame_is_not_given_twice(stage):
    async def look():
        async with stage.hub.viewer() as viewer:
            stage.publish()
            return await viewer.next(), await viewer.next(patience=0.01)

    first, second = asyncio.run(look())
    assert first is not None
    assert second is None


def test_a_frame_drawn_anew_is_given_though_its_number_is_the_same(stage):
    """Paused, one frame is drawn again and again as the settings change."""

    async def look():
        async with stage.hub.viewer() as viewer:
            stage.publish(RED, number=3)
            first = await viewer.next()
            stage.publish(BLUE, number=3)
            return first, await viewer.next()

    first, second = asyncio.run(look())
    assert first.jpeg != second.jpeg


def test_one_that_waits_is_woken_from_another_thread(stage):
    async def look():
        async with stage.hub.viewer() as viewer:
            waiting = asyncio.create_task(viewer.next(FOREVER))
            await asyncio.sleep(0)
            thread = threading.Thread(target=stage.publish, kwargs={"number": 5})
            thread.start()
            view = await waiting
            thread.join()
            return view

    assert asyncio.run(look()).facts.number == 5


def test_no_more_look_on_than_may(tmp_path):
    async def look(hub):
        async with hub.viewer(), hub.viewer():
            with pytest.raises(FullError, match="2 viewers look on already"):
                async with hub.viewer():
                    pass
        async with hub.viewer():
            return hub.viewers

    with scene(tmp_path, limit=2) as made:
        assert asyncio.run(look(made.hub)) == 1


def test_closing_ends_those_who_wait(stage):
    async def look():
        async with stage.hub.viewer() as viewer:
            stage.publish()
            assert await viewer.next() is not None
            waiting = asyncio.create_task(viewer.next(FOREVER))
            await asyncio.sleep(0)
            thread = threading.Thread(target=stage.hub.close)
            thread.start()
            view = await waiting
            thread.join()
            return view, await viewer.next(FOREVER)

    assert asyncio.run(look()) == (None, None)
    assert stage.hub.newest is None
    stage.publish()
    assert stage.hub.newest is None


def test_a_large_frame_is_sent_smaller(tmp_path):
    async def look(made):
        async with made.hub.viewer() as viewer:
            made.publish()
            return await viewer.next()

    with scene(tmp_path, largest=17) as made:
        assert shown(asyncio.run(look(made)).jpeg).shape == (12, 17, 3)


def test_a_viewer_that_leaves_in_the_middle_takes_nothing_with_it(stage):
    async def look():
        async with stage.hub.viewer() as other:
            async with stage.hub.viewer() as viewer:
                leaving = asyncio.create_task(viewer.next(FOREVER))
                await asyncio.sleep(0)
                leaving.cancel()
                await asyncio.gather(leaving, return_exceptions=True)
            stage.publish(number=1)
            return await other.next()

    assert asyncio.run(look()).facts.number == 1


def test_the_age_is_counted_when_a_frame_is_shown(stage):
    hub = Hub(clock=lambda: 100.0)
    frame = stage.publish()
    for taken in (99.97, 99.85, 90.0):
        hub.publish(replace(frame, taken=taken))
    hub.close()
    lines = list(hub.ages.lines("age"))
    assert 'age_bucket{le="0.02"} 0' in lines
    assert 'age_bucket{le="0.05"} 1' in lines
    assert 'age_bucket{le="0.2"} 2' in lines
    assert 'age_bucket{le="5"} 2' in lines
    assert lines[-3:] == ['age_bucket{le="+Inf"} 3', "age_sum 10.180000", "age_count 3"]
