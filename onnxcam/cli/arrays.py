"""What NumPy files hold that commands are given."""

from __future__ import annotations

__all__ = ["array_in", "reference_for"]

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnxcam.runtime import CamModel


def array_in(path: Path) -> Any:
    """The array in the NumPy file ``path``. Raises `InputError`."""
    import numpy as np

    from onnxcam.errors import InputError

    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise InputError(f"'{path}' is no NumPy file that can be read: {str(error).splitlines()[0]}") from None


def reference_for(model: CamModel, path: Path | None) -> Any:
    """The embedding in the NumPy file ``path``, or that of the picture; None without one. Raises `InputError`."""
    from onnxcam.runtime.pictures import read_picture

    if path is None:
        return None
    return array_in(path) if path.suffix == ".npy" else model.embedding(read_picture(path))
