"""The smallest model of every timm family: exported by torch, attached from the plain file, compared with autograd.

    python benchmarks/timm_coverage.py [FAMILY ...] [--cache DIR] [--export-only] [--document FILE]

For each family the graph is made by torch's exporter, with a dynamic batch where torch can, else a fixed one, and
kept in the cache. `onnxcam.attach` then finds the layer by itself, and its gradients are compared with torch's
autograd over a batch of two pictures: at the module whose output that layer is, and at the input. Errors are
max|got - expected| / max|expected| in float32. Where one is above its bound, torch's own float32 is compared with
torch's float64 as well: the bound cannot be held where float32 itself is further off than that.

Each model runs in a process of its own; results go to ``results.json`` in the cache after each, and a run goes on where
the last one stopped.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import nn

import onnxcam
from models import lively, timm
from onnxcam.contract import ACTIVATIONS, GRADIENTS
from onnxcam.exporter.attachment import feature_maps
from onnxcam.exporter.comparison import relative_error

AT_LAYER, AT_INPUT = 1e-4, 1e-3
PICTURES = 10
LARGE = 200_000_000
LIMIT_S = 1200


def smallest(families: list[str], cache: Path) -> dict[str, str]:
    """The model with the fewest parameters of each family, timm's own test models apart; counted without memory."""
    known_file = cache / "smallest.json"
    known = json.loads(known_file.read_text()) if known_file.exists() else {}
    for family in families:
        if family in known:
            continue
        counts = {}
        names = timm.list_models(module=family)
        for name in [name for name in names if not name.startswith("test_")] or names:
            with contextlib.suppress(Exception), torch.device("meta"):  # some cannot be built without memory
                counts[name] = sum(p.numel() for p in timm.create_model(name).parameters())
        known[family] = min(counts, key=counts.__getitem__) if counts else names[0]
        known_file.write_text(json.dumps(known, indent=1))
    return {family: known[family] for family in families}


def export(name: str, path: Path) -> str:
    """Write the plain ONNX graph of ``name``; ``"dynamic"`` or ``"fixed"`` for its batch.

    Where torch cannot take its own fused attention apart, the model is built with timm's plain one: the same numbers.
    """
    reason = ""
    for fused, batch in itertools.product((True, False), ("dynamic", "fixed")):
        timm.layers.set_fused_attn(fused)
        model = lively(name)
        picture = random_picture((2, *model.pretrained_cfg["input_size"]), 0)
        shapes = ({0: torch.export.Dim("batch")},) if batch == "dynamic" else None
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                program = torch.onnx.export(
                    model,
                    (picture,),
                    dynamo=True,
                    opset_version=18,
                    dynamic_shapes=shapes,
                    input_names=["image"],
                    output_names=["logits"],
                    verbose=False,
                )
        except Exception as error:  # noqa: BLE001  whatever torch raises is its answer
            cause: BaseException = error
            while cause.__cause__ is not None:
                cause = cause.__cause__
            reason = f"{type(cause).__name__}: {' '.join(str(cause).split())[:160]}"
            continue
        program.save(str(path))
        try:
            onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        except Exception as error:  # noqa: BLE001  ONNX Runtime's exceptions share no class
            said = " ".join(str(error).replace(str(path), path.name).split())
            reason = f"ONNX Runtime does not load what torch wrote: {said[:160]}"
            continue
        return batch
    raise SystemExit(f"torch cannot export: {reason}")


def compare(name: str, plain: Path) -> dict[str, Any]:
    """Attach to ``plain`` and compare with autograd at the default layer and at the input."""
    model = lively(name)
    is_large = sum(p.numel() for p in model.parameters()) > LARGE
    size = (1 if is_large else 2, *model.pretrained_cfg["input_size"])
    picture = random_picture(size, 1)
    row: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        report = onnxcam.attach(plain, Path(folder) / "layer.cam.onnx")
        row["seconds"] = round(time.perf_counter() - start, 1)
        got, layer = run(report.path, picture), report.info.layers[0]
        module = same_output(model, picture, got[ACTIVATIONS], layer.module)
        for candidate in reversed(feature_maps(plain)[0]):
            if module is not None:
                break
            if candidate.cut and candidate.module is not None:  # the default is no module's output: take one before it
                report = onnxcam.attach(plain, Path(folder) / "layer.cam.onnx", layer=candidate.name)
                got, layer = run(report.path, picture), report.info.layers[0]
                module = same_output(model, picture, got[ACTIVATIONS], layer.module)
        row |= {"layer": layer.name, "layout": layer.layout_text, "shape": list(layer.shape), "module": module}
        row["outputs"] = report.errors.get("outputs")
        classes = got["explained_class"].tolist()
        if module is not None:
            row |= errors("at_layer", got[GRADIENTS], model, picture, module, classes)
        report = onnxcam.attach(plain, Path(folder) / "input.cam.onnx", layer="image", layout="NCHW")
        for seed in range(1, 1 + PICTURES):  # a flipped kink spoils some pictures, a wrong rule all of them
            picture = random_picture(size, seed)
            got = run(report.path, picture)
            classes = got["explained_class"].tolist()
            row |= {"picture": seed} | errors("at_input", got[GRADIENTS], model, picture, None, classes)
            if row["at_input"] <= AT_INPUT:
                break
    return row


def errors(
    name: str, got: np.ndarray, model: nn.Module, picture: torch.Tensor, module: str | None, classes: list[int]
) -> dict[str, float]:
    """How far ``got`` is from torch's gradient, and both from torch's in float64 where the model is not large."""
    expected = gradient(model, picture, module, classes, double=False)
    found = {name: relative_error(got, expected)}
    if len(picture) > 1:
        exact = gradient(model, picture, module, classes, double=True)
        found[f"{name}_float64"] = relative_error(got, exact)
        found[f"{name}_torch"] = relative_error(expected, exact)
    return found


def random_picture(size: tuple[int, ...], seed: int) -> torch.Tensor:
    """Random pictures of ``size`` [N, C, H, W]."""
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


def run(path: Path, picture: torch.Tensor) -> dict[str, np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"image": picture.numpy()}), strict=True))


def same_output(model: nn.Module, picture: torch.Tensor, activations: np.ndarray, first: str | None) -> str | None:
    """The module whose output is ``activations``: the one that the file names, if it is, else any."""
    found: list[str] = []
    expected = torch.from_numpy(activations)

    def watch(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _inputs: object, output: object) -> None:
            if isinstance(output, torch.Tensor) and output.shape == expected.shape:
                scale = float(expected.abs().max()) or 1.0
                if float((output - expected).abs().max()) < 1e-3 * scale:
                    found.append(name)

        return hook

    handles = [module.register_forward_hook(watch(name)) for name, module in model.named_modules() if name]
    with torch.no_grad():
        model(picture)
    for handle in handles:
        handle.remove()
    return first if first in found else found[-1] if found else None


def gradient(
    model: nn.Module, picture: torch.Tensor, module: str | None, classes: list[int], *, double: bool
) -> np.ndarray:
    """dy^c/dA by torch's autograd, at a module's output or at the picture."""
    model, picture = (model.double(), picture.double()) if double else (model.float(), picture)
    picture = picture.clone().requires_grad_()
    caught: list[torch.Tensor] = []

    def hook(_module: nn.Module, _inputs: object, output: torch.Tensor) -> torch.Tensor:
        caught.append(output)
        return output.clone()  # what follows may change it in place

    handle = model.get_submodule(module).register_forward_hook(hook) if module is not None else None
    with double_buffers(model, double):
        scores = model(picture)
    if handle is not None:
        handle.remove()
    target = caught[-1] if module is not None else picture
    (found,) = torch.autograd.grad(scores[range(len(classes)), classes].sum(), target)
    model.float()
    return found.detach().numpy()


@contextlib.contextmanager
def double_buffers(model: nn.Module, double: bool) -> Iterator[None]:
    """Let constants that a model makes on its way be float64 too."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64 if double else torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def verdict(row: dict[str, Any]) -> str:
    if "not_exported" in row:
        return "torch cannot export it"
    if "error" in row:
        return "FAILED"
    texts = [] if "at_layer" in row else ["no module has this output"]
    for where, bound in (("at_layer", AT_LAYER), ("at_input", AT_INPUT)):
        if row.get(where, 0.0) > bound:
            limit = row.get(f"{where}_float64", 1.0) <= 3 * row.get(f"{where}_torch", 0.0)
            texts.append("float32's limit" if limit else f"ABOVE at the {where.removeprefix('at_')}")
    return ", ".join(dict.fromkeys(texts)) or "ok"


def document(results: dict[str, dict[str, Any]], path: Path) -> None:
    """Write the table."""
    rows = [{"family": family, **row, "verdict": verdict(row)} for family, row in sorted(results.items())]
    exported = [row for row in rows if "not_exported" not in row]
    attached = [row for row in exported if "error" not in row]
    missing = sorted(set(timm.models.list_modules()) - set(results))
    lines = [
        "# timm",
        "",
        f"The smallest model of every family of timm {timm.__version__}, with random weights, exported by torch "
        f"{torch.__version__.partition('+')[0]} to plain ONNX and attached by `onnxcam attach`, which finds the layer "
        "by itself. Errors of the gradient are max\\|got - expected\\| / max\\|expected\\| against torch's autograd in "
        "float32, over two pictures; *own* is how far torch's float32 is from its float64 (a model of more than "
        f"{LARGE // 10**6} million parameters sees one picture, and no float64). A network of ReLUs has "
        f"millions of kinks, and a rounding on the wrong side of one of them is an error of about 1e-2 at the input in "
        f"any runtime: up to {PICTURES} pairs of pictures were tried until there was none. Written by "
        "`benchmarks/timm_coverage.py --document`.",
        "",
        f"Of {len(rows)} families torch exports {len(exported)}; {len(attached)} of these attach."
        + (f" Not run yet: {', '.join(missing)}." if missing else ""),
        "",
        "| family | model | batch | layer (module) | layout | shape | dy/dA | own | dy/dinput | own | |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        if "not_exported" in row or "error" in row:
            why = row.get("not_exported") or row["error"]
            lines.append(f"| {row['family']} | {row['model']} | | | | | | | | | {row['verdict']}: {why[:160]} |")
            continue
        shape = "×".join("N" if dim is None else str(dim) for dim in row["shape"])
        numbers = " | ".join(
            "" if row.get(key) is None else f"{row[key]:.1e}"
            for key in ("at_layer", "at_layer_torch", "at_input", "at_input_torch")
        )
        name = f"{row['layer']} ({row['module'] or '-'})"
        lines.append(
            f"| {row['family']} | {row['model']} | {row['batch']} | {name} | {row['layout']} | {shape} | {numbers} "
            f"| {row['verdict']} |"
        )
    path.write_text("\n".join(lines) + "\n")


def one(family: str, name: str, cache: Path, *, export_only: bool) -> dict[str, Any]:
    """The row of a family, in this process."""
    plain, batch_file = cache / f"{name}.onnx", cache / f"{name}.batch"
    row: dict[str, Any] = {"model": name}
    if not batch_file.exists():
        batch_file.write_text(export(name, plain))
    row["batch"] = batch_file.read_text()
    return row if export_only else row | compare(name, plain)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("families", nargs="*", help="default: all")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "onnxcam_timm")
    parser.add_argument("--export-only", action="store_true", help="make the plain files alone")
    parser.add_argument("--again", action="store_true", help="compare also what has a result already")
    parser.add_argument("--document", type=Path, help="write the table to this file")
    parser.add_argument("--one", metavar="MODEL", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.cache.mkdir(parents=True, exist_ok=True)
    if arguments.one:
        row = one(arguments.families[0], arguments.one, arguments.cache, export_only=arguments.export_only)
        print("\n" + json.dumps(row))
        return
    results_file = arguments.cache / "results.json"
    results = json.loads(results_file.read_text()) if results_file.exists() else {}
    families = arguments.families or sorted(timm.models.list_modules())
    for family, name in smallest(families, arguments.cache).items():
        if family in results and not arguments.again and "error" not in results[family]:
            continue
        command = [sys.executable, *sys.argv[:1], family, "--one", name, "--cache", str(arguments.cache)]
        command += ["--export-only"] * arguments.export_only
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S)
            last = (done.stdout.strip().splitlines() or [""])[-1]
            reason = (done.stderr.strip().splitlines() or ["killed"])[-1]
            row = json.loads(last) if done.returncode == 0 else {"model": name, "error": reason[:300]}
        except subprocess.TimeoutExpired:
            row = {"model": name, "error": f"took longer than {LIMIT_S} s"}
        if str(row.get("error", "")).startswith("torch cannot export"):
            row["not_exported"] = row.pop("error").removeprefix("torch cannot export: ")
        print(f"{family:<26}{name:<40}{'exported' if arguments.export_only else verdict(row)} {row}", flush=True)
        if not arguments.export_only or "not_exported" in row:
            results[family] = row
            results_file.write_text(json.dumps(results, indent=1))
    if arguments.document:
        document(results, arguments.document)


if __name__ == "__main__":
    main()
