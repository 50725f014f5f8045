"""A device that is lost under several threads, and one that the CPU cannot stand in for."""

from __future__ import annotations

import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
import onnx
import pytest
from onnxruntime.capi import onnxruntime_pybind11_state as ort_state

from onnxcam.errors import ArtifactError, InputError
from onnxcam.runtime.engine import Engine

X = np.array([[1, -2, 3]], np.float32)


class Lost:
    """A session on a device that is lost while ``users`` threads are in it."""

    def __init__(self, users: int) -> None:
        self._all_in = Barrier(users, timeout=10)

    def run(self, *_: Any) -> Any:
        self._all_in.wait()
        raise ort_state.EPFail("CUDA failure 700: device lost")


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    model = onnx.parser.parse_model(
        '<ir_version: 9, opset_import: ["" : 18]> g (float[N,3] x) => (float[N,3] y) { y = Abs(x) }'
    )
    onnx.save(model, tmp_path / "abs.onnx")
    return Engine(tmp_path / "abs.onnx", "cpu")


def lose(engine: Engine, users: int = 1) -> None:
    engine.providers = ("CUDAExecutionProvider", "CPUExecutionProvider")
    engine._running = Lost(users)  # type: ignore[assignment]


def test_every_thread_in_a_lost_device_goes_on_with_the_cpu(engine: Engine) -> None:
    lose(engine, users=3)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        with ThreadPoolExecutor(3) as pool:
            answers = list(pool.map(lambda _: engine.run(["y"], {"x": X}), range(3)))
    for answer in answers:
        np.testing.assert_array_equal(answer["y"], [[1, 2, 3]])
    assert [str(one.message) for one in warned] == [
        "CUDAExecutionProvider failed (CUDA failure 700: device lost), so CPUExecutionProvider runs the model from now "
        "on"
    ]
    assert engine.providers == ("CPUExecutionProvider",)


def test_a_failure_of_the_cpu_itself_is_told_as_it_is(engine: Engine) -> None:
    engine._running = Lost(1)  # type: ignore[assignment]
    with pytest.raises(InputError, match=r"cannot take this input: CUDA failure 700: device lost$"):
        engine.run(["y"], {"x": X})


def test_a_model_that_is_gone_is_said_with_what_failed_before(engine: Engine) -> None:
    lose(engine)
    engine.path.unlink()
    with pytest.raises(ArtifactError, match=r"device lost\), and CPUExecutionProvider cannot load"):
        engine.run(["y"], {"x": X})


def test_one_that_was_closed_meanwhile_stays_closed(engine: Engine) -> None:
    class Closing(Lost):
        def run(self, *names: Any) -> Any:
            engine.close()
            return super().run(*names)

    lose(engine)
    engine._running = Closing(1)  # type: ignore[assignment]
    with pytest.raises(ArtifactError, match="is closed: load it again"):
        engine.run(["y"], {"x": X})
