"""A model file, run by ONNX Runtime."""

from __future__ import annotations

__all__ = ["ORT_ERRORS", "Engine", "numpy_type"]

import warnings
from collections.abc import Mapping, Sequence
from os import fspath
from pathlib import Path
from threading import Lock
from typing import Any

import onnxruntime as ort
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as ort_state

from onnxcam.contract import METADATA_KEY
from onnxcam.errors import ArtifactError, InputError
from onnxcam.runtime.providers import named_providers

ORT_ERRORS = (
    RuntimeError,
    ValueError,
    *(
        getattr(ort_state, name)
        for name in (
            "EPFail",
            "EngineError",
            "Fail",
            "InvalidArgument",
            "InvalidGraph",
            "InvalidProtobuf",
            "NoModel",
            "NoSuchFile",
            "NotImplemented",
            "RuntimeException",
        )
    ),
)
"""What ONNX Runtime raises, whose own exceptions have no ancestor in common."""
_CPU = "CPUExecutionProvider"
_QUIET = 4  # of ONNX Runtime's severities, fatal: all else comes back as an exception


class Engine:
    """The model file at ``path``, ready to run.

    providers: those that really run it, best first; the CPU alone once another has failed in a run, which is warned of
        (`RuntimeWarning`).
    threads: for one operator; None is a thread for each core. spinning: whether they wait for work without sleeping.
    inputs, outputs: their shapes by name; an open axis is its name, or None. Inputs that may be left out are not named.
    types: of the inputs, as NumPy names them.
    metadata: the text under `METADATA_KEY`; None where there is none.

    Raises `ArtifactError` if ONNX Runtime cannot load the file, and `ProviderError` if a provider is not installed.
    """

    def __init__(
        self, path: Path, providers: str | Sequence[str] | None, *, threads: int | None = None, spinning: bool = True
    ) -> None:
        _check_file(path)
        self._options = _options(threads, spinning)
        session = _session(path, providers, self._options)
        self.path = path
        self.providers: tuple[str, ...] = tuple(session.get_providers())
        self.inputs: dict[str, list[int | str | None]] = {x.name: x.shape for x in session.get_inputs()}
        self.outputs: dict[str, list[int | str | None]] = {y.name: y.shape for y in session.get_outputs()}
        self.types: dict[str, str] = {x.name: numpy_type(x.type) for x in session.get_inputs()}
        self.metadata: str | None = session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
        self._running: ort.InferenceSession | None = session
        self._falling = Lock()

    def close(self) -> None:
        """Give session and device memory back. May be called twice."""
        self._running = None

    def run(self, names: Sequence[str], feed: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """The outputs ``names`` in one pass. Raises `InputError` where an input lacks or the model cannot take one."""
        session = self._running
        if session is None:
            raise ArtifactError(f"'{self.path}' is closed: load it again")
        lacking = [name for name in self.inputs if name not in feed]
        if lacking:
            raise InputError(f"'{self.path}' needs the input '{lacking[0]}' as well: give it in inputs, by name")
        try:
            values = session.run(list(names), dict(feed))
        except ORT_ERRORS as error:
            if isinstance(error, ort_state.InvalidArgument) or not self._fall_back(session, error):
                raise InputError(f"'{self.path}' cannot take this input: {_first_line(error)}") from None
            return self.run(names, feed)
        return dict(zip(names, values, strict=True))

    def _fall_back(self, failed: ort.InferenceSession, error: Exception) -> bool:
        """Go on with the CPU: a device may be lost, or run out of memory, while a program is to run for weeks.

        False if ``failed`` was the CPU's. Several threads may have been in a device that is lost: each runs again.
        """
        with self._falling:
            if self._running is not failed:
                return True
            if self.providers[0] == _CPU:
                return False
            try:
                self._running = _start(self.path, self._options, [_CPU])
            except ORT_ERRORS as second:
                raise ArtifactError(
                    f"{self.providers[0]} failed ({_first_line(error)}), and {_CPU} cannot load '{self.path}': "
                    f"{_first_line(second)}"
                ) from None
            lost, self.providers = self.providers[0], (_CPU,)
        warnings.warn(
            f"{lost} failed ({_first_line(error)}), so {_CPU} runs the model from now on",
            RuntimeWarning,
            stacklevel=4,
        )
        return True


def numpy_type(onnx_type: str) -> str:
    """NumPy's name of what ONNX Runtime calls ``tensor(float)``."""
    element = onnx_type.removeprefix("tensor(").removesuffix(")")
    return {"float": "float32", "double": "float64"}.get(element, element)


def _check_file(path: Path) -> None:
    if not path.exists():
        raise ArtifactError(f"there is no file '{path}'")
    if not path.is_file():
        raise ArtifactError(f"'{path}' is not a file: name an artifact, NAME.cam.onnx")
    if path.stat().st_size == 0:
        raise ArtifactError(f"'{path}' is empty: export or download the model again")


def _options(threads: int | None, spinning: bool) -> ort.SessionOptions:
    if threads is not None and threads < 1:
        raise InputError(f"a model cannot run on {threads} threads: take 1 or more, or None for all cores")
    options = ort.SessionOptions()
    options.log_severity_level = _QUIET
    options.intra_op_num_threads = threads or 0
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spinning else "0")
    return options


def _session(path: Path, providers: str | Sequence[str] | None, options: ort.SessionOptions) -> ort.InferenceSession:
    wanted = named_providers(providers)
    ort.set_default_logger_severity(_QUIET)
    try:
        session = _start(path, options, wanted)
    except ORT_ERRORS as error:
        raise ArtifactError(
            f"'{path}' is not an ONNX file that this ONNX Runtime can load: {_first_line(error)}"
        ) from None
    lost = [name for name in wanted if name not in session.get_providers()]
    if lost:
        warnings.warn(
            f"{', '.join(lost)} is installed but could not start (a driver or library is missing), so "
            f"{session.get_providers()[0]} runs the model",
            RuntimeWarning,
            stacklevel=5,
        )
    return session


def _start(path: Path, options: ort.SessionOptions, wanted: Sequence[str]) -> ort.InferenceSession:
    """A session on ``wanted``, or else on the CPU. (ONNX Runtime's own fallback prints to stdout.)"""
    try:
        return ort.InferenceSession(fspath(path), options, providers=list(wanted), enable_fallback=0)
    except ORT_ERRORS:
        if tuple(wanted) == (_CPU,):
            raise
        return ort.InferenceSession(fspath(path), options, providers=[_CPU], enable_fallback=0)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0].rstrip(". ") if str(error).strip() else type(error).__name__
