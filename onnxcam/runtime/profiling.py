"""Where the time of a model file goes, and which execution provider took which node."""

from __future__ import annotations

__all__ = ["PARTS", "NodeTime", "profile", "shares"]

import json
import re
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import Final

import onnxruntime as ort

from onnxcam.runtime.providers import named_providers
from onnxcam.runtime.timing import random_inputs

PARTS = ("model", "gradient", "explanation")
"""Of an artifact: the model as it was, the backward pass, and what makes a map of both."""
_ADDED: Final = re.compile(rf"(?:v_)?({'|'.join(PARTS[1:])})(?:(?:_\d+)?[/.]|s_once_)")
"""Names of nodes that the exporter added. What ONNX Runtime or a pass put in their place is named by its result."""


@dataclass(frozen=True, slots=True)
class NodeTime:
    """One node as ONNX Runtime ran it, after its own fusions: the median time in seconds."""

    name: str
    operator: str
    provider: str
    seconds: float

    @property
    def part(self) -> str:
        """To which of `PARTS` it belongs. A change of layout that ONNX Runtime adds counts as the model's."""
        found = _ADDED.match(self.name)
        return found[1] if found else PARTS[0]


def profile(
    path: str | PathLike[str],
    inputs: Mapping[str, tuple[Sequence[int], str]],
    *,
    threads: int = 0,
    providers: str | Sequence[str] | None = None,
    runs: int = 20,
) -> list[NodeTime]:
    """The nodes of the model file at ``path`` in the order in which they ran, from ONNX Runtime's own profile.

    inputs: shape and NumPy type of each. threads: 0 is one for each core. providers: as `onnxcam.load` takes them.
    """
    with tempfile.TemporaryDirectory() as folder:
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = threads
        options.enable_profiling = True
        options.profile_file_prefix = fspath(Path(folder) / "profile")
        session = ort.InferenceSession(fspath(path), options, providers=named_providers(providers))
        feed = random_inputs(inputs)
        for _ in range(runs):
            session.run(None, feed)
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    times: dict[tuple[str, str, str], list[int]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            node = event["name"].removesuffix("_kernel_time"), event["args"]["op_name"], event["args"]["provider"]
            times.setdefault(node, []).append(event["dur"])
    return [NodeTime(*node, statistics.median(durations) / 1e6) for node, durations in times.items()]


def shares(nodes: Sequence[NodeTime]) -> dict[str, float]:
    """How much of the time each of `PARTS` takes, 0-1."""
    whole = sum(node.seconds for node in nodes) or 1.0
    return {part: sum(node.seconds for node in nodes if node.part == part) / whole for part in PARTS}
