"""onnxcam: the answer and its explanation in one pass of ONNX Runtime.

`load` runs an artifact and needs neither torch nor onnx; `export` makes one from a PyTorch model, `attach` from any
ONNX file, `verify` checks one, and `autodiff` differentiates ONNX graphs. Each is imported when it is first used.
"""

from __future__ import annotations

__all__ = [
    "BoxInfo",
    "CamModel",
    "Explanation",
    "Perturbation",
    "Preprocess",
    "__version__",
    "attach",
    "autodiff",
    "contract",
    "errors",
    "export",
    "load",
    "methods",
    "verify",
]

from importlib import import_module
from typing import TYPE_CHECKING, Any

from onnxcam import contract, errors
from onnxcam.contract import BoxInfo, Preprocess

if TYPE_CHECKING:
    from onnxcam import autodiff, methods
    from onnxcam.exporter import attach, export, verify
    from onnxcam.runtime import CamModel, Explanation, Perturbation, load

__version__ = "0.1.0"

_HOMES = {
    "CamModel": "onnxcam.runtime",
    "Explanation": "onnxcam.runtime",
    "Perturbation": "onnxcam.runtime",
    "load": "onnxcam.runtime",
    "attach": "onnxcam.exporter",
    "export": "onnxcam.exporter",
    "verify": "onnxcam.exporter",
}


def __getattr__(name: str) -> Any:
    if name in ("autodiff", "methods"):
        return import_module(f"onnxcam.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'onnxcam' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)
