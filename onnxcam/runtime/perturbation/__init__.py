"""Methods that run the model on changed copies of the picture, each found by its name.

A method is a function of a `Subject`, one picture whose class is settled, and the `Perturbation` options; it gives a
map, float32 [h, w], that covers the whole model input. Changes are made to the model's input, behind preprocessing:
what is hidden becomes 0, the mean colour where the preprocessing subtracts the mean.

The equations and papers stand in `onnxcam.methods.perturbation`; a test holds the two sides together. Nothing here
imports OpenCV or ONNX Runtime.
"""

from __future__ import annotations

__all__ = ["METHODS", "Entry", "Perturbation", "Reads"]

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from onnxcam.runtime.perturbation.options import Perturbation, Settings

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from onnxcam.runtime.perturbation.subject import Subject

    Mapper: TypeAlias = Callable[[Subject, Settings], NDArray[np.float32]]

Reads = Literal["scores", "activations", "gradients", "input gradients"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One method.

    module: of this package, which has the method as a function.
    reads: which outputs of an artifact it needs: the class ``scores`` alone, the ``activations`` or ``gradients`` at a
        layer, or the ``input gradients``, those at the picture itself.
    samples, sigma: how many runs and how much noise it takes where the user does not say; None where it takes none.
    windows: whether it slides a window.
    """

    name: str
    module: str
    reads: Reads
    samples: int | None = None
    sigma: float | None = None
    windows: bool = False

    def load(self) -> Mapper:
        """The function that makes the map."""
        module = import_module(f"onnxcam.runtime.perturbation.{self.module}")
        mapper: Mapper = getattr(module, self.name.replace("-", "_").replace("++", "_plus_plus"))
        return mapper

    def settings(self, options: Perturbation) -> Settings:
        """``options`` with this method's own defaults. Raises `MethodError` for one that the method does not take."""
        return options.settings(self.name, samples=self.samples, sigma=self.sigma, windows=self.windows)


METHODS: Final[Mapping[str, Entry]] = MappingProxyType(
    {
        entry.name: entry
        for entry in (
            Entry(name="scorecam", module="channels", reads="activations"),
            Entry(name="sscam", module="channels", reads="activations", samples=10, sigma=0.2),
            Entry(name="iscam", module="channels", reads="activations", samples=10),
            Entry(name="smoothgradcam++", module="noise", reads="gradients", samples=5, sigma=0.3),
            Entry(name="smoothgrad", module="noise", reads="input gradients", samples=50, sigma=0.15),
            Entry(name="integrated-gradients", module="path", reads="input gradients", samples=50),
            Entry(name="rise", module="masks", reads="scores", samples=4000),
            Entry(name="occlusion", module="masks", reads="scores", windows=True),
        )
    }
)
