"""What goes into an artifact beside the graph."""

from __future__ import annotations

__all__ = ["ArtifactOptions"]

from dataclasses import dataclass

from onnxcam.contract import Explain, Fuse, Preprocess


@dataclass(frozen=True, slots=True, kw_only=True)
class ArtifactOptions:
    """What goes into an artifact beside the graph.

    gradients: whether the gradient is an output; where it is not, and no method needs it, nothing is differentiated.
    """

    methods: tuple[str, ...] = ("gradcam",)
    explain: Explain = "class"
    fuse: Fuse | None = None
    eigen_smooth: bool = False
    gradients: bool = True
    preprocess: Preprocess | None = None
    labels: tuple[str, ...] | None = None
    source: str | None = None
    license: str | None = None
