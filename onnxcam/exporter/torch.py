"""PyTorch: a module's ONNX graph with the targets caught, and autograd as the reference.

The only file that imports torch.
"""

from __future__ import annotations

__all__ = [
    "INPUT",
    "Example",
    "Module",
    "Reference",
    "Tensor",
    "TorchExport",
    "export_module",
    "feed",
    "is_module",
    "load_weights",
    "moved",
    "random_example",
    "reference",
    "tensor",
]

import ast
import contextlib
import io
import itertools
import logging
import pickle
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir

from onnxcam.contract import SCORE
from onnxcam.errors import ExportError, LayerError, MissingExtraError, ModelSourceError, nearest_names
from onnxcam.exporter.answers import given, named, output_name
from onnxcam.exporter.layers import behind_identity

try:
    import torch
    from torch import nn
    from torch.nn.attention import SDPBackend, sdpa_kernel
except ModuleNotFoundError as error:
    raise MissingExtraError(
        'exporting a PyTorch model needs torch, which is not installed: pip install "onnxcam[torch]"'
    ) from error

Module: TypeAlias = nn.Module
Tensor: TypeAlias = torch.Tensor
Example: TypeAlias = "torch.Tensor | Sequence[torch.Tensor] | Mapping[str, torch.Tensor]"
"""A batch of pictures, or all inputs of a model that takes several."""

OPSET = 18
INPUT = "input"
"""The name under which the picture itself can be a target."""
_NAME_SCOPES = "pkg.torch.onnx.name_scopes"
_MOVING = frozenset({"PermuteBackward0", "TransposeBackward0"})
_SQUASHING = frozenset({"SoftmaxBackward0", "LogSoftmaxBackward0", "SigmoidBackward0"})


@dataclass(frozen=True, slots=True, kw_only=True)
class TorchExport:
    """A module's graph: ``targets`` are the feature map of each layer asked for."""

    model: ir.Model
    targets: tuple[ir.Value, ...]
    dynamic_batch: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """What torch's autograd says of a batch, all arrays float32: ``gradients`` are of each y, at each layer.

    output: what is explained is read from.
    """

    output: np.ndarray
    activations: tuple[np.ndarray, ...]
    gradients: tuple[tuple[np.ndarray, ...], ...]


class _Tap(nn.Module):
    """A model that returns its tensors, the number that ``score`` makes of them, and the outputs of some layers.

    The layer's output is caught before anything after it can change it in place (``ReLU(inplace=True)``,
    ``out += x``): what goes on through the model is a copy. Of a module that runs more than once, the last run
    counts.
    """

    def __init__(
        self, model: nn.Module, names: Sequence[str], example: Example, score: Callable[[Any], Any] | None = None
    ) -> None:
        super().__init__()
        self.model = model
        self.names = tuple(names)
        self.score = score
        self.given = tuple(given(example, model.forward, torch.Tensor))
        self.by_name = isinstance(example, Mapping)
        self.outputs: tuple[str, ...] = ()

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        caught: dict[str, torch.Tensor] = {}

        def catch(name: str) -> Any:
            def hook(_module: nn.Module, _inputs: object, output: object) -> torch.Tensor:
                if not isinstance(output, torch.Tensor):
                    raise LayerError(f"layer '{name}' returns a {type(output).__name__}, not a tensor: choose another")
                caught[name] = output
                return output.clone()

            return hook

        modules = dict(self.model.named_modules())
        handles = [modules[name].register_forward_hook(catch(name)) for name in self.names if name != INPUT]
        if INPUT in self.names:
            at = _picture(inputs)
            caught[INPUT] = inputs[at]
            inputs = tuple(x.clone() if i == at else x for i, x in enumerate(inputs))
        try:
            found = self.model(**dict(zip(self.given, inputs, strict=True))) if self.by_name else self.model(*inputs)
        finally:
            for handle in handles:
                handle.remove()
        unseen = [name for name in self.names if name not in caught]
        if unseen:
            raise LayerError(
                f"layer '{unseen[0]}' does not run in the forward pass: choose one that 'onnxcam layers' lists"
            )
        outputs = named(found, torch.Tensor)
        if self.score is not None:
            outputs = {SCORE: self.score(found), **outputs}
        self.outputs = tuple(outputs)
        return (*outputs.values(), *(caught[name] for name in self.names))


def export_module(
    model: nn.Module, example: Example, names: Sequence[str], score: Callable[[Any], Any] | None = None
) -> TorchExport:
    """The graph of ``model`` at opset 18 with the outputs of the layers ``names`` caught.

    score: what turns the model's outputs into one number an image, an output then as well.
    The batch is dynamic where torch can export it so, else fixed to that of ``example``.
    Raises `LayerError` for an unknown layer and `ExportError` where torch cannot export the model.
    """
    _check_names(model, names)
    tap = _Tap(model, names, example, score)
    inputs = tuple(x.detach() for x in given(example, model.forward, torch.Tensor).values())
    with _evaluating(model), _quiet():
        tap.train(False)
        with torch.no_grad(), _noting_containers(model) as containers:
            found = tap(*inputs)  # to know the names of its outputs
            if score is not None:
                _refuse_no_number(found[0], len(inputs[0]))
        reason = ""
        for dynamic, fused in itertools.product((True, False), (True, False)):
            shapes = (tuple({0: torch.export.Dim("batch")} for _ in inputs),) if dynamic else None
            try:
                with (
                    contextlib.nullcontext() if fused else sdpa_kernel(SDPBackend.MATH)
                ):  # masked, torch cannot take it apart
                    program = torch.onnx.export(
                        tap,
                        inputs,
                        dynamo=True,
                        opset_version=OPSET,
                        dynamic_shapes=shapes,
                        input_names=list(tap.given),
                        output_names=[*tap.outputs, *(f"target_{k}" for k in range(len(names)))],
                        verbose=False,
                    )
            except torch.onnx.errors.OnnxExporterError as error:
                reason = _first_cause(error)
                continue
            assert program is not None
            graph = program.model.graph
            targets = graph.outputs[len(tap.outputs) :]
            for target in targets:
                graph.outputs.remove(target)
            _forget_traces(graph, containers)
            return TorchExport(
                model=program.model,
                targets=tuple(behind_identity(target) for target in targets),
                dynamic_batch=not _is_fixed(graph.inputs),  # torch may fix it in silence
            )
    raise ExportError(f"torch cannot export this model to ONNX: {reason}")


def _is_fixed(inputs: Sequence[ir.Value]) -> bool:
    return any(x.shape is not None and len(x.shape) > 0 and isinstance(x.shape[0], int) for x in inputs)


def _first_cause(error: BaseException) -> str:
    """What the error that all others follow from says, in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def reference(
    model: nn.Module,
    example: Example,
    names: Sequence[str],
    adjoints: Sequence[np.ndarray] | None = None,
    *,
    output: str | int | None = None,
    squashed: bool = True,
    score: Callable[[Any], Any] | None = None,
) -> Reference:
    """The scores of ``example``, the feature maps of the layers ``names``, and dy/dA by torch's autograd.

    adjoints: dy/d(scores) of each y that is explained; of their sum where None.
    output: the one that is explained, by name or position; the first where None. score: see `export_module`.
    squashed: whether a final softmax or sigmoid is stepped back over.
    """
    _check_names(model, names)
    tap = _Tap(model, names, example, score)
    with _evaluating(model):
        found = tap(*_free(given(example, model.forward, torch.Tensor).values()))
        if score is not None:
            _refuse_no_number(found[0], len(next(iter(given(example, model.forward, torch.Tensor).values()))))
        outputs, maps = dict(zip(tap.outputs, found, strict=False)), found[len(tap.outputs) :]
        chosen = output_name(tap.outputs, output)
        if chosen is None:
            chosen = next((name for name, y in outputs.items() if y.is_floating_point()), tap.outputs[0])
        answer = outputs[chosen]
        scores = _before_squashing(answer) if squashed else answer
        seeds = _seeds(answer, adjoints)
        if isinstance(scores, torch.Tensor) and seeds[0].shape != scores.shape:
            raise ExportError(
                f"torch's gradients give no way to the scores before the sigmoid in its output '{chosen}', so that the "
                "graph's cannot be compared: export it with torch.onnx and take onnxcam.attach"
            )
        grads = [torch.autograd.grad(scores, maps, seed, allow_unused=True, retain_graph=True) for seed in seeds]
    unused = [name for name, g in zip(names, grads[0], strict=True) if g is None]
    if unused:
        raise LayerError(f"layer '{unused[0]}' is not on the way to the score: choose one that 'onnxcam layers' lists")
    return Reference(
        output=answer.detach().numpy(),
        activations=tuple(a.detach().numpy() for a in maps),
        gradients=tuple(tuple(g.numpy() for g in layers if g is not None) for layers in grads),
    )


def _seeds(output: torch.Tensor, adjoints: Sequence[np.ndarray] | None) -> list[torch.Tensor]:
    """What ``output``, or the scores of it that are of another size, are differentiated with, typed as it."""
    if adjoints is None:
        return [torch.ones_like(output)]
    seeds = [torch.from_numpy(adjoint).to(output.dtype) for adjoint in adjoints]
    return [seed.reshape(output.shape) if seed.numel() == output.numel() else seed for seed in seeds]


def random_example(size: Sequence[int], *, batch: int = 2, seed: int = 0) -> torch.Tensor:
    """A batch of standard normal pictures [batch, *size] from a seeded generator."""
    return torch.randn(batch, *size, generator=torch.Generator().manual_seed(seed))


def moved(example: Example, model: nn.Module, seed: int) -> Example:
    """``example``, its picture with seeded noise of a tenth of the standard deviation."""
    found = given(example, model.forward, torch.Tensor)
    name = list(found)[_picture(tuple(found.values()))]
    noise = torch.randn(found[name].shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    image = found[name].detach()
    found[name] = (image + 0.1 * image.std(correction=0) * noise).to(image.dtype)
    if isinstance(example, torch.Tensor):
        return tensor(found[name].numpy())
    return found if isinstance(example, Mapping) else tuple(found.values())


def feed(example: Example, model: nn.Module) -> dict[str, np.ndarray]:
    """The arrays of ``example`` by the names of the graph's inputs."""
    return {name: x.detach().numpy() for name, x in given(example, model.forward, torch.Tensor).items()}


def tensor(array: np.ndarray) -> torch.Tensor:
    """``array`` as a tensor."""
    return torch.from_numpy(array)


def load_weights(model: nn.Module, path: Path) -> None:
    """Load the state dict in ``path`` (``weights_only=True``: no code in it runs) into ``model``, strictly.

    Dictionaries that keep it under ``state_dict`` or ``model`` and names that begin with ``module.`` are understood.
    Raises `ModelSourceError` where the file is no state dict or does not fit.
    """
    if not path.is_file():
        raise ModelSourceError(f"the weights '{path}' do not exist: check --weights")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch remarks on the pickle protocol of other tools
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, OSError, KeyError) as error:
        reason = str(error).strip().partition("\n")[0][:200]
        raise ModelSourceError(f"'{path}' holds no weights that can be read safely: {reason}") from None
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(isinstance(v, torch.Tensor) for v in content.values()):
        raise ModelSourceError(f"'{path}' holds no state dict (names and tensors): save model.state_dict()")
    weights = {str(key).removeprefix("module."): value for key, value in content.items()}
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelSourceError(f"the weights '{path}' do not fit the model: {reason}") from None


def is_module(value: object) -> bool:
    """Whether ``value`` is a PyTorch module."""
    return isinstance(value, nn.Module)


@contextlib.contextmanager
def _noting_containers(model: nn.Module) -> Iterator[set[str]]:
    """The paths of the modules that return something else than a tensor while this lasts: no layer can be there."""
    found: set[str] = set()

    def note(name: str) -> Any:
        def hook(_module: nn.Module, _inputs: object, output: object) -> None:
            if not isinstance(output, torch.Tensor):
                found.add(name)

        return hook

    handles = [module.register_forward_hook(note(name)) for name, module in model.named_modules()]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _forget_traces(graph: ir.Graph, containers: Collection[str]) -> None:
    """Drop what torch notes about the machine that exported (stack traces, paths); keep the module paths.

    They are those of the model, within the module that taps it, without ``containers``.
    """
    for node in graph:
        scopes = node.metadata_props.get(_NAME_SCOPES)
        node.metadata_props.clear()
        node.doc_string = None
        if scopes is not None:
            paths = [path.removeprefix("model.") for path in ast.literal_eval(scopes) if path != "model"]
            paths = [path for path in paths[:-1] if path not in containers] + paths[-1:]  # the last is the node's own
            node.metadata_props[_NAME_SCOPES] = repr(paths)  # without the module around the model
    for value in (*graph.inputs, *graph.initializers.values(), *(y for node in graph for y in node.outputs)):
        value.metadata_props.clear()
    graph.metadata_props.clear()


def _refuse_no_number(y: object, batch: int) -> None:
    """Raise `ExportError` if what a function made of a model's outputs is not one number an image."""
    if not isinstance(y, torch.Tensor) or y.ndim != 1 or y.shape[0] != batch or not y.is_floating_point():
        what = f"shape {list(y.shape)}" if isinstance(y, torch.Tensor) else f"a {type(y).__name__}"
        raise ExportError(f"the score returns {what}, and one real number an image is [{batch}]: let it do so")


def _picture(inputs: Sequence[torch.Tensor]) -> int:
    """Which of ``inputs`` is the picture: the first with four axes or more, else the first."""
    return next((i for i, x in enumerate(inputs) if x.ndim >= 4), 0)


def _free(inputs: Iterable[torch.Tensor]) -> list[torch.Tensor]:
    """Copies that are differentiated where they can be."""
    return [x.detach().clone().requires_grad_(x.is_floating_point()) for x in inputs]


def _before_squashing(output: torch.Tensor) -> torch.Tensor | torch.autograd.graph.GradientEdge:
    """``output``, or where a softmax or sigmoid made it, the scores that went into that.

    Where it was joined of several, what went into that of the last, as a detector's classes.
    """
    node = _unmoved(output.grad_fn)
    if type(node).__name__ == "CatBackward0" and node is not None:
        node = _unmoved(node.next_functions[-1][0])
    if node is None or type(node).__name__ not in _SQUASHING:
        return output
    behind, index = node.next_functions[0]
    return output if behind is None else torch.autograd.graph.GradientEdge(behind, index)


def _unmoved(node: torch.autograd.graph.Node | None) -> torch.autograd.graph.Node | None:
    """The step of autograd before those that only exchange axes."""
    while node is not None and type(node).__name__ in _MOVING:
        node = node.next_functions[0][0]
    return node


def _check_names(model: nn.Module, names: Sequence[str]) -> None:
    known = [name for name, _ in model.named_modules() if name] + [INPUT]
    for name in names:
        if name not in known:
            hint = nearest_names(name, known) or "'onnxcam layers' lists those there are"
            raise LayerError(f"the model has no layer '{name}'; {hint}")


@contextlib.contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode with gradients on, restored afterwards, module by module."""
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.enable_grad():
            yield
    finally:
        for module, mode in training.items():
            module.training = mode


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No progress lines, log records or deprecation warnings of the exporter's own parts."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
