"""``onnxcam image``: pictures in, their explanation out."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from onnxcam.cli.arrays import array_in, reference_for
from onnxcam.cli.options import (
    Numbers,
    choice_options,
    chosen_classes,
    json_option,
    max_pixels_option,
    model_option,
    overwrite_option,
    perturbation_options,
    provider_option,
    question_options,
    render_options,
    resize_option,
)

if TYPE_CHECKING:
    from onnxcam.runtime import Explanation

_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})
"""What a folder is searched for."""


@click.command()
@click.argument(
    "inputs", metavar="[MODEL.onnx] PICTURE|FOLDER...", nargs=-1, required=True, type=click.Path(path_type=Path)
)
@model_option
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="A file, or a folder for several.  [default: NAME_cam.png beside NAME]",
)
@choice_options
@perturbation_options
@click.option(
    "--top", type=click.IntRange(min=1), default=1, show_default=True, help="How many of the likeliest classes to list."
)
@resize_option
@render_options
@click.option("--box", type=Numbers(), metavar="X,Y,WIDTH,HEIGHT", help="Of a segmentation: the part that counts.")
@click.option("--point", type=Numbers(), metavar="X,Y", help="Of a segmentation: the pixel that counts.")
@click.option(
    "--mask", type=click.Path(path_type=Path), help="Of a segmentation: a picture, not black where the picture counts."
)
@question_options
@click.option(
    "--input",
    "arrays",
    multiple=True,
    metavar="NAME=FILE.npy",
    help="A further input of the model, such as score_weights, from a NumPy file; may be repeated.",
)
@provider_option
@json_option
@max_pixels_option
@overwrite_option
def image(
    inputs: tuple[Path, ...],
    model: Path | None,
    output: Path | None,
    class_index: tuple[int | str, ...],
    against: int | str | None,
    method: str | None,
    layer: str | None,
    augment: tuple[str, ...],
    samples: int | None,
    sigma: float | None,
    window: int | None,
    stride: int | None,
    seed: int,
    batch: int,
    top: int,
    box: tuple[float, ...] | None,
    point: tuple[float, ...] | None,
    mask: Path | None,
    box_index: int | None,
    box_threshold: float | None,
    reference: Path | None,
    arrays: tuple[str, ...],
    providers: tuple[str, ...],
    as_json: bool,
    max_pixels: int | None,
    overwrite: bool,
    resize: Any,
    **style: Any,
) -> None:
    """Explain pictures: class, probability and time on stdout, and the picture with the heat of its class.

    A first argument that ends in .onnx is the model.

    \b
    Examples:
      onnxcam image cat.jpg                              -> cat_cam.png
      onnxcam image photos/ -o out/ --top 3
      onnxcam image resnet50.cam.onnx cat.jpg --class tabby --method layercam
      onnxcam image top3.cam.onnx cat.jpg --class tabby,lynx,espresso
      onnxcam image cat.jpg --method rise --samples 2000 --seed 1
      onnxcam image cat.jpg --augment flip,scale
    """
    from rich.console import Console
    from rich.progress import track

    from onnxcam.cli.progress import share_progress
    from onnxcam.errors import OnnxCamError
    from onnxcam.runtime import load
    from onnxcam.runtime.perturbation import Perturbation
    from onnxcam.runtime.pictures import read_picture

    if inputs[0].suffix == ".onnx" and model is None:
        model, inputs = inputs[0], inputs[1:]
    jobs = _jobs(inputs, output, overwrite=overwrite)
    console = Console(stderr=True)
    failures: list[OnnxCamError] = []
    with load(model, providers=providers or None, resize=resize) as loaded:
        choice: dict[str, Any] = {
            "class_index": chosen_classes(class_index, loaded.explained),
            "against": against,
            "method": method,
            "layer": layer,
            "perturbation": Perturbation(
                samples=samples, sigma=sigma, window=window, stride=stride, seed=seed, batch=batch
            ),
            "augment": augment,
        }
        loaded.check(**choice)
        choice |= _arrays(arrays) | {"box": box, "point": point, "box_index": box_index, "box_threshold": box_threshold}
        choice["reference"] = reference_for(loaded, reference)
        choice["mask"] = None if mask is None else read_picture(mask).any(axis=2)
        quiet = len(jobs) == 1 or not console.is_terminal
        for source, target in track(jobs, "pictures", console=console, transient=True, disable=quiet):
            try:
                picture = read_picture(source) if max_pixels is None else read_picture(source, max_pixels=max_pixels)
                start = time.perf_counter()
                with share_progress(source.name, shown=quiet) as told:
                    explanation = loaded.explain(picture, **choice, progress=told)
                milliseconds = (time.perf_counter() - start) * 1e3
                target.parent.mkdir(parents=True, exist_ok=True)
                explanation.save(target, **style)
            except OnnxCamError as error:
                if len(jobs) == 1:
                    raise
                failures.append(error)
                continue
            text = _json if as_json else _text
            click.echo(text(source, target, explanation, milliseconds, top))
    if failures:
        for failure in failures:
            click.echo(f"Error: {failure}", err=True)
        raise SystemExit(1)


def _arrays(named: tuple[str, ...]) -> dict[str, Any]:
    """What ``--input`` names, as `explain` takes it. Raises `InputError`."""
    from onnxcam.contract import SCORE_WEIGHTS
    from onnxcam.errors import InputError

    found: dict[str, Any] = {}
    for text in named:
        name, _, path = text.partition("=")
        if not name or not path:
            raise InputError(f"--input '{text}' names no file: write NAME=FILE.npy")
        found[name] = array_in(Path(path))
    asked = {name: found.pop(name) for name in (SCORE_WEIGHTS,) if name in found}
    return asked | ({"inputs": found} if found else {})


def _jobs(inputs: tuple[Path, ...], output: Path | None, *, overwrite: bool) -> list[tuple[Path, Path]]:
    """What to read, and where to write it. Refuses, before any work, what would be lost or overwritten."""
    from onnxcam.errors import InputError, OutputError

    if not inputs:
        raise InputError("no picture was named: write onnxcam image MODEL.onnx PICTURE")
    sources: list[Path] = []
    for path in inputs:
        sources += _pictures_in(path) if path.is_dir() else [path]
    if not sources:
        raise InputError(f"'{inputs[0]}' holds no picture ({', '.join(sorted(_SUFFIXES))})")
    several = len(sources) > 1 or inputs[0].is_dir()
    into_folder = output is not None and (several or output.is_dir() or not output.suffix)
    jobs = []
    for source in sources:
        name = f"{source.stem}_cam.png"
        target = source.with_name(name) if output is None else output / name if into_folder else output
        jobs.append((source, target))
    read = {source.resolve() for source in sources}
    taken: dict[Path, Path] = {}
    for source, target in jobs:
        if target in taken:
            raise OutputError(f"'{taken[target]}' and '{source}' would both become '{target}': rename one of them")
        taken[target] = source
        same = target.exists() and source.exists() and target.samefile(source)  # by another spelling or link
        if same or target.resolve() in read:
            raise OutputError(f"'{target}' is an input itself: choose another name with -o")
        if target.exists() and not overwrite:
            raise OutputError(f"'{target}' exists: choose another place with -o, or replace it with --overwrite")
    if output is not None and into_folder and output.is_file():
        raise OutputError(f"'{output}' is a file: name a folder with -o for several pictures")
    return jobs


def _pictures_in(folder: Path) -> list[Path]:
    """The pictures of ``folder`` by name, without the results of an earlier run."""
    found = (p for p in folder.iterdir() if p.suffix.casefold() in _SUFFIXES and not p.stem.endswith("_cam"))
    return sorted(p for p in found if not p.name.startswith("."))


def _text(source: Path, target: Path, explanation: Explanation, milliseconds: float, top: int) -> str:
    classes = ", ".join(_answer(each) for each in explanation.classes)
    lines = [f"{source}: {classes} ({milliseconds:.1f} ms) -> {target}"]
    if top > 1:
        lines += [f"  {label or f'class {index}'} {score:.1%}" for index, label, score in explanation.top(top)]
    return "\n".join(lines)


def _answer(explanation: Explanation) -> str:
    if explanation.class_index is None:
        return f"score {explanation.score:.6g}"
    return f"{explanation.label or f'class {explanation.class_index}'} {explanation.score:.1%}"


def _json(source: Path, target: Path, explanation: Explanation, milliseconds: float, top: int) -> str:
    return json.dumps(
        {
            "picture": str(source),
            "output": str(target),
            "class": explanation.class_index,
            "label": explanation.label,
            "score": explanation.score,
            "against": explanation.against,
            "boxes": None if explanation.boxes is None else explanation.boxes.round(2).tolist(),
            "box_scores": None if explanation.box_scores is None else explanation.box_scores.tolist(),
            "method": explanation.method,
            "layer": explanation.layer,
            "classes": [
                {"class": each.class_index, "label": each.label, "score": each.score, "against": each.against}
                for each in explanation.classes
            ],
            "top": [{"class": i, "label": label, "score": score} for i, label, score in explanation.top(top)],
            "ms": round(milliseconds, 3),
        },
        ensure_ascii=False,
    )
