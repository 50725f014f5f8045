"""What the page is told, and what it may set."""

from __future__ import annotations

__all__ = ["Stage", "changes"]

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from onnxcam.errors import OnnxCamError, nearest_names
from onnxcam.runtime.live.controls import Controls
from onnxcam.runtime.render import colorize
from onnxcam.runtime.server.answers import Refused
from onnxcam.runtime.server.hub import Facts, Hub
from onnxcam.runtime.server.metrics import Counts, Requests
from onnxcam.runtime.session import CamModel
from onnxcam.runtime.style import COLORMAPS, LAYOUTS

_STILL = 3.0  # seconds without a frame after which there is no rate

_KINDS: Mapping[str, tuple[tuple[type, ...], str]] = {
    "class_choice": ((int, str), "an index, a rank or a label"),
    "method": ((str,), "a name"),
    "layout": ((str,), "a name"),
    "alpha": ((int, float), "a number from 0 to 1"),
    "colormap": ((str,), "a name"),
    "caption": ((bool,), "true or false"),
    "figures": ((bool,), "true or false"),
    "paused": ((bool,), "true or false"),
}


@dataclass(frozen=True, slots=True, eq=False)
class Stage:
    """All that the page shows and sets.

    health: the reason in a sentence while the source is lost, else None. counts: of frames so far. Both are called from
    the server's thread.
    """

    hub: Hub
    controls: Controls
    model: CamModel
    health: Callable[[], str | None]
    counts: Callable[[], Counts]
    requests: Requests = field(default_factory=Requests)

    def state(self, facts: Facts | None) -> dict[str, Any]:
        """The newest frame's answer, and what is set now."""
        age = None if facts is None else max(self.hub.clock() - facts.taken, 0.0)
        return {
            "number": facts and facts.number,
            "age_ms": None if age is None else round(1000 * age),
            "rate": None if facts is None or age is None else 0.0 if age > _STILL else round(facts.rate, 2),
            "class_index": facts and facts.class_index,
            "label": facts and facts.label,
            "name": facts and facts.name,
            "score": _number(facts.score) if facts else None,
            "method": facts and facts.method,
            "top": [{"class_index": i, "label": label, "score": _number(p)} for i, label, p in facts.top]
            if facts
            else [],
            "problem": self.health(),
            "viewers": self.hub.viewers,
            "settings": asdict(self.controls.settings),
        }

    def choices(self) -> dict[str, Any]:
        """What may be set; of each colour map, nine of its colours from cold to hot."""
        return {
            "methods": list(self.controls.methods),
            "labels": None if self.controls.labels is None else list(self.controls.labels),
            "classes": self.controls.classes,
            "colormaps": {name: _ramp(name) for name in COLORMAPS},
            "layouts": list(LAYOUTS),
        }


def changes(given: object) -> dict[str, Any]:
    """``given`` as changes of the settings. Raises `Refused` for what is none."""
    if not isinstance(given, dict):
        raise Refused(400, 'the settings are no JSON object: send one such as {"alpha": 0.5}')
    for name, value in given.items():
        if name not in _KINDS:
            near = nearest_names(str(name), _KINDS) or f"take one of {', '.join(_KINDS)}"
            raise Refused(400, f"there is no setting '{str(name)[:80]}': {near}")
        kinds, what = _KINDS[name]
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise Refused(400, f"'{name}' takes {what}")
        if isinstance(value, str) and len(value) > 200:
            raise OnnxCamError(f"'{name}' is longer than any name here: it takes {what}")
        if isinstance(value, int) and abs(value) > 2**31:
            raise OnnxCamError(f"'{name}' is {value}: it takes {what}")
    return given


def _ramp(colormap: str) -> list[str]:
    colors = colorize(np.linspace(0, 1, 9, dtype=np.float32)[None], colormap)[0]
    return [f"#{red:02x}{green:02x}{blue:02x}" for blue, green, red in colors.tolist()]


def _number(x: float) -> float | None:
    """JSON has neither NaN nor infinities."""
    return round(float(x), 6) if math.isfinite(x) else None
