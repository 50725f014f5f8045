"""The execution providers of ONNX Runtime: which there are, and which are meant."""

from __future__ import annotations

__all__ = ["default_providers", "installed_providers", "named_providers"]

from collections.abc import Sequence

import onnxruntime as ort

from onnxcam.errors import ProviderError, nearest_names

_BY_NAME_ONLY = {"AzureExecutionProvider", "TensorrtExecutionProvider"}
"""Not taken unless asked for: the first sends data away, the second compiles the model for minutes."""


def installed_providers() -> tuple[str, ...]:
    """The execution providers of the ONNX Runtime that is installed, in its order: the best first."""
    return tuple(ort.get_available_providers())


def default_providers() -> tuple[str, ...]:
    """Those of `installed_providers` that are taken when none is named, best first."""
    return tuple(name for name in installed_providers() if name not in _BY_NAME_ONLY)


def named_providers(names: str | Sequence[str] | None) -> list[str]:
    """The installed providers that ``names`` mean. Raises `ProviderError` for one that is not installed."""
    installed = installed_providers()
    if not names:
        return list(default_providers())
    suffix = "ExecutionProvider"
    by_short_name = {name.removesuffix(suffix).casefold(): name for name in installed}
    found = []
    for name in [names] if isinstance(names, str) else names:
        short = name.casefold().removesuffix(suffix.casefold())
        if short not in by_short_name:
            near = nearest_names(short, by_short_name)
            raise ProviderError(
                f"execution provider '{name}' is not installed: this ONNX Runtime has {', '.join(by_short_name)}"
                + (f"; {near}" if near else "")
            )
        found.append(by_short_name[short])
    return found
