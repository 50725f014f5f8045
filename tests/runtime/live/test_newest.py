"""The newest frame of a source, however slow whoever takes it; and the source when it is lost."""

from __future__ import annotations

import gc
import os
import threading
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from onnxcam.errors import InputError
from onnxcam.runtime.live import newest
from onnxcam.runtime.live.newest import Grabber
from onnxcam.runtime.opening import CameraOptions, open_source
from onnxcam.runtime.sources import Frame, VideoInfo

from ..clips import RED, plain, write_clip  # noqa: TID252 tests are no package
from ..streaming import HEIGHT, WIDTH, MjpegCamera, eventually  # noqa: TID252 tests are no package

INFO = VideoInfo(width=4, height=2, average_rate=Fraction(25), time_base=Fraction(1, 25), frames=None, duration=None,
                 has_audio=False)  # fmt: skip


class Scripted:
    """A source that gives what it is told: numbers are frames, an event is waited for, an exception is raised."""

    def __init__(self, *script):
        self.script, self.info, self.problem, self.closed = script, INFO, None, False

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.closed = True

    def __iter__(self):
        for count, item in enumerate(self.script):
            if isinstance(item, threading.Event):
                item.wait(10)
            elif isinstance(item, Exception):
                raise item
            elif isinstance(item, str):
                self.problem = item
            else:
                yield Frame(count, item, 1, INFO.time_base, np.full((2, 4, 3), item, np.uint8))


def opener(*sources):
    """Opens one after another; an exception among them is raised, and after the last there is none."""
    left = list(sources)

    def open_next():
        if not left:
            raise InputError("no more of them")
        source = left.pop(0)
        if isinstance(source, Exception):
            raise source
        return source

    return open_next


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(newest, "_FIRST_PAUSE", 0.01)


def value(frame):
    return int(frame.picture[0, 0, 0])


def test_only_the_newest_is_kept_and_the_others_are_counted():
    hold = threading.Event()
    with Grabber(opener(Scripted(1, 2, 3, 4, hold, 5)), again=False) as grabber:
        eventually(lambda: grabber.seen == 4)
        assert value(grabber.next(1)) == 4
        assert grabber.next(0) is None
        hold.set()
        assert value(grabber.next(1)) == 5
        eventually(lambda: grabber.ended)
        assert (grabber.seen, grabber.dropped) == (5, 3)
        assert grabber.next(5) is None  # at once: nothing more comes


def test_of_a_file_no_frame_is_missed_however_slow_it_is_taken():
    with Grabber(opener(Scripted(*range(20))), every=True, again=False) as grabber:
        taken = []
        while (frame := grabber.next(2)) is not None:
            taken.append(value(frame))
            time.sleep(0.001 * (len(taken) % 3))
    assert taken == list(range(20))
    assert (grabber.seen, grabber.dropped, grabber.ended) == (20, 0, True)


def test_a_loop_begins_again_and_its_time_goes_on():
    sources = [Scripted(0, 1), Scripted(0, 1), Scripted(0, 1)]
    with Grabber(opener(*sources), paced=True, every=True) as grabber:
        taken = [grabber.next(2) for _ in range(6)]
    assert [value(each) for each in taken] == [0, 1] * 3
    times = [each.time for each in taken]
    assert times == sorted(times)
    assert times[1] - times[0] == pytest.approx(0.04, abs=0.03)  # paced as the file is
    assert [each.index for each in taken] == list(range(6))


def test_a_source_that_is_lost_is_opened_again_with_growing_pauses():
    told = []
    sources = [Scripted(1), InputError("still gone"), InputError("still gone"), Scripted(2, "the plug was pulled")]
    with Grabber(opener(*sources), tell=lambda event, **facts: told.append((event, facts))) as grabber:
        assert value(grabber.next(2)) == 1
        assert value(grabber.next(5)) == 2
        eventually(lambda: len(told) >= 5)
    assert told[:3] == [
        ("lost", {"reason": "no more frames came", "pause": 0.01}),
        ("lost", {"reason": "still gone", "pause": 0.02}),
        ("lost", {"reason": "still gone", "pause": 0.04}),
    ]
    assert told[3] == ("running", {})
    assert told[4] == ("lost", {"reason": "the plug was pulled", "pause": 0.01})  # frames came: it begins anew


def test_a_device_that_fails_in_its_own_way_comes_back_as_well():
    with Grabber(opener(Scripted(1, RuntimeError("select() timeout")), Scripted(2))) as grabber:
        assert value(grabber.next(2)) == 1
        assert value(grabber.next(2)) == 2


def test_a_reader_that_hangs_for_ever_is_left_behind():
    told, hang = [], threading.Event()
    stuck = Scripted(1, hang, 9)
    with Grabber(
        opener(stuck, Scripted(2)), stall_after=0.2, tell=lambda event, **facts: told.append(facts.get("reason"))
    ) as grabber:
        assert value(grabber.next(2)) == 1
        end = time.monotonic() + 5
        while (frame := grabber.next(0.05)) is None:
            assert time.monotonic() < end
        assert value(frame) == 2
        assert told[0] == "no picture came for 0.2 s"
        hang.set()  # it wakes up too late, and what it gives is not taken
        eventually(lambda: stuck.closed)
        assert grabber.next(0.05) is None


def test_what_cannot_be_opened_at_first_is_said_at_once():
    with pytest.raises(InputError, match="no more of them"):
        Grabber(opener())


@pytest.mark.parametrize("script", [(1, threading.Event()), (1,), ()], ids=["hanging", "lost", "empty"])
def test_closing_ends_it_in_every_state(script):
    grabber = Grabber(opener(Scripted(*script)), stall_after=60)
    grabber.next(0.1)
    began = time.monotonic()
    grabber.close()
    grabber.close()
    assert time.monotonic() - began < 4


def test_a_camera_that_is_unplugged_stalls_and_sends_garbage_comes_back():
    told = []
    camera = MjpegCamera()
    options = CameraOptions(stall_after=0.5)
    with Grabber(
        lambda: open_source(camera.address, options),
        stall_after=4.0,
        tell=lambda event, **facts: told.append((event, facts.get("reason", ""))),
    ) as grabber:
        assert grabber.next(5).picture.shape == (HEIGHT, WIDTH, 3)
        for behaviour in ("stall", "garbage", "refuse"):
            camera.behaviour = behaviour
            eventually(lambda: grabber.trouble or (grabber.next(0.05) is None and grabber.trouble))
            camera.behaviour = "run"
            eventually(lambda: grabber.trouble is None)
            assert grabber.next(5) is not None
            if behaviour == "garbage":
                camera.close()  # this connection would go on
                camera = MjpegCamera(camera.port)
        port = camera.port
        camera.close()
        eventually(lambda: grabber.trouble)
        camera = MjpegCamera(port)
        camera.behaviour = "large"  # it is another one
        eventually(lambda: (found := grabber.next(1)) and found.picture.shape == (2 * HEIGHT, 2 * WIDTH, 3))
    camera.close()
    assert {event for event, _ in told} == {"lost", "running"}
    assert ("lost", "the stream broke off: no picture came for 0.5 s") in told


def test_a_source_that_hangs_when_it_is_opened_again_is_left_behind_and_not_for_ever(monkeypatch):
    monkeypatch.setattr(newest, "_MOST_LEFT", 2)
    told, hang, opened = [], threading.Event(), []

    def stuck():
        opened.append(None)
        if len(opened) == 1:
            return Scripted(1)
        if not hang.is_set():
            hang.wait(10)
            raise InputError("too late")
        return Scripted(2)

    with Grabber(
        stuck, stall_after=0.02, tell=lambda event, **facts: told.append(facts.get("reason", event))
    ) as grabber:
        assert value(grabber.next(2)) == 1
        eventually(lambda: grabber.next(0.01) is None and len(opened) == 4)
        for _ in range(20):
            assert grabber.next(0.01) is None
        assert len(opened) == 4  # the first, two that are left behind, and one that is waited for
        assert grabber.trouble == "no picture came for 0.06 s"
        assert told == ["no more frames came", *["no picture came for 0.06 s"] * 2]
        hang.set()
        eventually(lambda: (found := grabber.next(0.01)) and value(found) == 2)
        assert "running" in told


def test_a_loop_over_a_file_that_was_removed_tries_again_with_pauses():
    told = []
    missing = [InputError("there is no file")] * 3
    with Grabber(
        opener(Scripted(0, 1), *missing, Scripted(5)),
        paced=True,
        tell=lambda event, **facts: told.append((event, facts.get("pause"))),
    ) as grabber:
        eventually(lambda: (found := grabber.next(1)) and value(found) == 5)
        eventually(lambda: len(told) >= 4)
    assert told[:4] == [("lost", 0.01), ("lost", 0.02), ("lost", 0.04), ("running", None)]


def test_a_file_of_one_frame_is_shown_at_its_rate():
    opened = []

    def still():
        opened.append(time.monotonic())
        return Scripted(0)

    with Grabber(still, paced=True) as grabber:
        eventually(lambda: len(opened) == 4)
        assert grabber.trouble is None
    assert opened[3] - opened[1] >= 2 * 0.039


def test_slow_frames_of_a_file_and_a_slow_model_are_no_loss():
    told = []
    options = {"stall_after": 0.03, "tell": lambda event, **facts: told.append(event)}
    with Grabber(opener(Scripted(0, 5), Scripted(0, 5)), paced=True, **options) as grabber:
        taken = []
        while len(taken) < 2:  # 0.2 s pass between them
            taken += [each for each in [grabber.next(0.01)] if each]
        assert (told, grabber.dropped) == ([], 0)
    hold = threading.Event()
    with Grabber(opener(Scripted(0, 1, 2, hold)), every=True, **options) as grabber:
        time.sleep(0.1)
        assert [value(grabber.next(1)) for _ in range(3)] == [0, 1, 2]
        assert told == []
        hold.set()


class Far(Scripted):
    """Its time stamp lies beyond reason, as in a damaged file."""

    def __iter__(self):
        yield Frame(0, 2**60, 1, INFO.time_base, np.zeros((2, 4, 3), np.uint8))


def test_a_time_stamp_beyond_reason_does_not_hold_a_loop(monkeypatch):
    monkeypatch.setattr(newest, "_LONGEST_FRAME", 0.05)
    with Grabber(opener(Far()), paced=True) as grabber:
        assert grabber.next(2) is not None


@pytest.mark.parametrize(
    ("script", "options"),
    [
        ((1,), {}),
        ((0, 200), {"paced": True}),
        ((0, 1, 2), {"every": True}),
        ((0,), {"again": False}),
    ],
    ids=["pausing", "pacing", "not taken", "ended"],
)
def test_closing_ends_the_thread_whatever_it_waits_for(script, options, monkeypatch):
    monkeypatch.setattr(newest, "_FIRST_PAUSE", 60.0)
    grabber = Grabber(opener(Scripted(*script)), stall_after=60, **options)
    eventually(lambda: grabber.seen and (options or grabber.trouble))
    grabber.close()
    assert not grabber._thread.is_alive()


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="counts threads as Linux tells them")
def test_a_loop_gathers_no_decoders(tmp_path):
    clip = write_clip(tmp_path / "clip.mp4", [plain(RED)] * 2)
    gc.disable()  # it comes when it likes
    try:
        with Grabber(lambda: open_source(str(clip)), paced=True, every=True) as grabber:
            counts = []
            for _ in range(12):
                assert grabber.next(5) is not None
                counts.append(len(os.listdir("/proc/self/task")))
    finally:
        gc.enable()
    assert min(counts[-4:]) <= max(counts[:4])  # a decoder may be at work whenever they are counted
