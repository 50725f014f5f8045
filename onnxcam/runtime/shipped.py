"""The model that comes with onnxcam."""

from __future__ import annotations

__all__ = ["shipped_model"]

from pathlib import Path

import onnxcam
from onnxcam.errors import ArtifactError

NAME = "efficientnet_lite0.cam.onnx"


def shipped_model() -> Path:
    """Path of the artifact that ships: EfficientNet-lite0, ImageNet's 1000 classes.

    A wheel carries it inside the package; an editable install reads the repository's ``models`` folder.
    Raises `ArtifactError` if it is in neither place.
    """
    package = Path(onnxcam.__file__).parent
    for folder in (package / "_models", package.parent / "models"):
        if (folder / NAME).is_file():
            return folder / NAME
    raise ArtifactError(
        f"the model that ships, '{NAME}', is not in this installation: reinstall onnxcam, or name a model of your own"
    )
