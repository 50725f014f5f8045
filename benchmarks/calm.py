"""How calm the heat is over time, and whether it still follows what moves.

    python benchmarks/calm.py [--smooth 0.05 ...] [--json FILE]

On the clip that ships, as ``onnxcam video`` explains it: the mean absolute change of the heat (0-1) from one frame to
the next of one class, and how often another class is explained. On a cup of coffee and a cat, cut out of the sample
picture, each going to and fro over the other, blurred, at 25 frames per second: how often the centre of the map's
hottest cell is on it (pointing), and the share of the heat that is. Slow is there and back in 4 seconds, fast in 2: up
to 0.43 and 0.87 of the picture's width in a second.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
from table import Table

from onnxcam import load
from onnxcam.runtime.calm import Calm
from onnxcam.runtime.explainer import Explainer, Look
from onnxcam.runtime.session import CamModel
from onnxcam.runtime.sources import Frame, VideoSource

SAMPLES = Path(__file__).parents[1] / "models/samples"
ESPRESSO, EGYPTIAN_CAT = 967, 285
SIDE, SIZE, FRAMES, RATE = 448, 200, 200, 25


@dataclass(frozen=True)
class Placed:
    """A frame, and the left and top of the thing on it, `SIZE` pixels large, if there is one."""

    frame: Frame
    corner: tuple[int, int] | None = None


def clip() -> Iterator[Placed]:
    with VideoSource(SAMPLES / "cat_to_coffee.mp4") as video:
        yield from map(Placed, video)


def crossing(seconds: float, *, cat: bool) -> Iterator[Placed]:
    """The cup, or the ``cat``, there and back in so many seconds, up and down as it goes."""
    picture = cv2.imread(str(SAMPLES / "cat_and_coffee.jpg"))
    height, width = picture.shape[:2]
    left_half, cup = picture[:, : width // 2], picture[:, width - height :]
    thing, behind = (picture[:, :height], cup) if cat else (cup, left_half)
    thing = cv2.resize(thing, (SIZE, SIZE), interpolation=cv2.INTER_AREA)
    ground = cv2.GaussianBlur(cv2.resize(behind, (SIDE, SIDE)), (0, 0), 12)
    for i in range(FRAMES):
        left = round((SIDE - SIZE) * (0.5 - 0.5 * np.cos(2 * np.pi * i / (RATE * seconds))))
        top = round((SIDE - SIZE) * (0.5 - 0.5 * np.cos(2 * np.pi * i / (RATE * seconds * 1.6))))
        shown = ground.copy()
        shown[top : top + SIZE, left : left + SIZE] = thing
        yield Placed(Frame(i, i, 1, Fraction(1, RATE), shown), (left, top))


def watched(model: CamModel, frames: Iterator[Placed], calm: Calm, choice: dict[str, int]) -> dict[str, float]:
    """Change of the heat, changes of the class, and the share of frames and of heat that point at the thing."""
    explainer, before, last = Explainer(model, lambda: Look(choice=choice), calm), None, None
    changes, switches, hits, energies = [], 0, [], []
    for placed in frames:
        explained = explainer.explain(placed.frame, model.prepare(placed.frame.picture))
        heat = explained.explanation.scaled_heatmap(explained.peak)
        if before is not None and explained.explanation.class_index == last:
            changes.append(float(np.abs(heat - before).mean()))
        switches += last not in (None, explained.explanation.class_index)
        before, last = heat, explained.explanation.class_index
        if placed.corner and heat.any():
            left, top = placed.corner
            cam = explained.explanation.cam  # its hottest cell, for between and beyond the cells' centres heat can tie
            y, x = (np.array(np.unravel_index(int(cam.argmax()), cam.shape)) + 0.5) * SIDE / cam.shape
            hits.append(left <= x < left + SIZE and top <= y < top + SIZE)
            energies.append(float(heat[top : top + SIZE, left : left + SIZE].sum() / heat.sum()))
    return {
        "change": float(np.mean(changes)),
        "switches": switches,
        "pointing": float(np.mean(hits)) if hits else None,
        "energy": float(np.mean(energies)) if hits else None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--smooth", type=float, nargs="+", default=[0.05, 0.1, 0.15, 0.3, 0.6])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    table = Table(video="{:<9}", calm="{:<16}", change="{:>8.4f}", switches="{:>8}", pointing="{:>8.3f}",
                  energy="{:>6.3f}")  # fmt: skip
    settings = {"off": Calm(smoothing=0, scale=0, hold=0, cut=0), "scale and hold": Calm(smoothing=0)}
    settings |= {f"and {seconds} s": Calm(smoothing=seconds) for seconds in arguments.smooth}
    with load() as model:
        for name, calm in settings.items():
            table.add(video="clip", calm=name, **watched(model, clip(), calm, {}))
    with load(resize="stretch") as model:
        for thing, index in (("cup", ESPRESSO), ("cat", EGYPTIAN_CAT)):
            for speed, seconds in (("slow", 4), ("fast", 2)):
                for name, calm in settings.items():
                    frames = crossing(seconds, cat=thing == "cat")
                    found = watched(model, frames, calm, {"class_index": index})
                    table.add(video=f"{speed} {thing}", calm=name, **found)
    if arguments.json:
        table.save(arguments.json)


if __name__ == "__main__":
    main()
