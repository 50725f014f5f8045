"""What a user may choose about the changed pictures."""

from __future__ import annotations

__all__ = ["DEFAULT_BATCH", "Perturbation", "Settings"]

from dataclasses import dataclass

from onnxcam.errors import MethodError

DEFAULT_BATCH = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Perturbation:
    """How pictures are changed; None is the method's own default.

    samples: how many changed pictures: masks of ``rise``, noisy pictures of ``smoothgrad`` and ``smoothgradcam++``,
        steps of ``integrated-gradients``; for each channel, noisy masks of ``sscam`` and steps of ``iscam``.
    sigma: standard deviation of the noise: of ``smoothgrad`` over the range of the picture's values, of
        ``smoothgradcam++`` in the units of the model's input, of ``sscam`` in those of a mask, 0-1.
    window, stride: side of the square that ``occlusion`` hides, and how far it moves, in pixels of the model's input.
    seed: of everything random. The same seed gives the same map, for each picture alone as in a batch of any size.
    batch: how many changed pictures go through the model at once; memory grows with it. A model with a fixed batch
        takes that.
    """

    samples: int | None = None
    sigma: float | None = None
    window: int | None = None
    stride: int | None = None
    seed: int = 0
    batch: int = DEFAULT_BATCH

    def __post_init__(self) -> None:
        for name in ("samples", "window", "stride", "batch"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise MethodError(f"{name} is {value}: it is 1 or more")
        if self.sigma is not None and not 0 <= self.sigma < float("inf"):
            raise MethodError(f"sigma is {self.sigma}: it is 0 or more")
        if self.seed < 0:
            raise MethodError(f"the seed is {self.seed}: it is 0 or more")

    def settings(self, method: str, *, samples: int | None, sigma: float | None, windows: bool) -> Settings:
        """These options with the defaults of ``method``. Raises `MethodError` for one that it does not take."""
        taken = {"samples": samples is not None, "sigma": sigma is not None, "window": windows, "stride": windows}
        surplus = [name for name in taken if getattr(self, name) is not None and not taken[name]]
        if surplus:
            raise MethodError(f"'{method}' takes no {' and no '.join(surplus)}: leave it out")
        return Settings(
            samples=self.samples or samples or 1,
            sigma=(sigma or 0.0) if self.sigma is None else self.sigma,
            window=self.window,
            stride=self.stride,
            seed=self.seed,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a method works with; see `Perturbation`."""

    samples: int
    sigma: float
    window: int | None
    stride: int | None
    seed: int
