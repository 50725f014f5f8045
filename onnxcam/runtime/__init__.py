"""The lightweight half: runs artifacts on pictures and video with ONNX Runtime, NumPy and OpenCV alone.

::

    pictures ──► preprocess ──► session ──► explanation ──► render
                     └── geometry: which pixels the model saw ──┘

The public names are imported when they are first used, so that the command line answers ``--help`` at once.
"""

from __future__ import annotations

__all__ = ["CamModel", "Explanation", "Perturbation", "load", "read_picture"]

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnxcam.runtime.explanation import Explanation
    from onnxcam.runtime.perturbation import Perturbation
    from onnxcam.runtime.pictures import read_picture
    from onnxcam.runtime.session import CamModel, load

_HOMES = {
    "CamModel": "session",
    "Explanation": "explanation",
    "Perturbation": "perturbation",
    "load": "session",
    "read_picture": "pictures",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'onnxcam.runtime' has no attribute '{name}'")
    return getattr(import_module(f"onnxcam.runtime.{_HOMES[name]}"), name)
