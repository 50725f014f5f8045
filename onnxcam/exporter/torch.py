"""PyTorch: a module's ONNX graph with the targets caught, and autograd as the reference.

The only file that imports torch.
"""

from __future__ import annotations

__all__ = [
    "INPUT",
    "Module",
    "Reference",
    "Tensor",
    "TorchExport",
    "export_module",
    "is_module",
    "load_weights",
    "random_example",
    "reference",
    "tensor",
]

import ast
import contextlib
import io
import logging
import pickle
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir

from onnxcam.errors import ExportError, LayerError, MissingExtraError, ModelSourceError, nearest_names
from onnxcam.exporter.layers import behind_identity

try:
    import torch
    from torch import nn
except ModuleNotFoundError as error:
    raise MissingExtraError(
        'exporting a PyTorch model needs torch, which is not installed: pip install "onnxcam[torch]"'
    ) from error

Module: TypeAlias = nn.Module
Tensor: TypeAlias = torch.Tensor

OPSET = 18
INPUT = "input"
"""The name under which the picture itself can be a target."""
_NAME_SCOPES = "pkg.torch.onnx.name_scopes"
_SQUASHING = frozenset({"SoftmaxBackward0", "LogSoftmaxBackward0", "SigmoidBackward0"})


@dataclass(frozen=True, slots=True, kw_only=True)
class TorchExport:
    """A module's graph: ``output`` the class scores, ``targets`` the feature map of each layer asked for."""

    model: ir.Model
    output: ir.Value
    targets: tuple[ir.Value, ...]
    dynamic_batch: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """What torch's autograd says of a batch, all arrays float32: ``gradients`` are of each y, at each layer."""

    output: np.ndarray
    activations: tuple[np.ndarray, ...]
    gradients: tuple[tuple[np.ndarray, ...], ...]


class _Tap(nn.Module):
    """A model that also returns the outputs of some of its layers.

    The layer's output is caught before anything after it can change it in place (``ReLU(inplace=True)``,
    ``out += x``): what goes on through the model is a copy. Of a module that runs more than once, the last run
    counts.
    """

    def __init__(self, model: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.model = model
        self.names = tuple(names)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
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
            caught[INPUT] = image
            image = image.clone()
        try:
            output = self.model(image)
        finally:
            for handle in handles:
                handle.remove()
        unseen = [name for name in self.names if name not in caught]
        if unseen:
            raise LayerError(
                f"layer '{unseen[0]}' does not run in the forward pass: choose one that 'onnxcam layers' lists"
            )
        return (_scores(output), *(caught[name] for name in self.names))


def export_module(model: nn.Module, example: torch.Tensor, names: Sequence[str]) -> TorchExport:
    """The graph of ``model`` at opset 18 with the outputs of the layers ``names`` caught.

    The batch is dynamic where torch can export it so, else fixed to that of ``example``.
    Raises `LayerError` for an unknown layer and `ExportError` where torch cannot export the model.
    """
    _check_names(model, names)
    tap = _Tap(model, names)
    with _evaluating(model), _quiet():
        tap.train(False)
        reason = ""
        for dynamic in (True, False):
            shapes = ({0: torch.export.Dim("batch")},) if dynamic else None
            try:
                program = torch.onnx.export(
                    tap,
                    (example.detach(),),
                    dynamo=True,
                    opset_version=OPSET,
                    dynamic_shapes=shapes,
                    input_names=["image"],
                    output_names=["logits", *(f"target_{k}" for k in range(len(names)))],
                    verbose=False,
                )
            except torch.onnx.errors.OnnxExporterError as error:
                reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
                continue
            assert program is not None
            graph = program.model.graph
            output, *targets = graph.outputs
            for target in targets:
                graph.outputs.remove(target)
            _forget_traces(graph)
            return TorchExport(
                model=program.model,
                output=output,
                targets=tuple(behind_identity(target) for target in targets),
                dynamic_batch=dynamic,
            )
    raise ExportError(f"torch cannot export this model to ONNX: {reason}")


def reference(
    model: nn.Module, example: torch.Tensor, names: Sequence[str], adjoints: Sequence[np.ndarray] | None = None
) -> Reference:
    """The scores of ``example``, the feature maps of the layers ``names``, and dy/dA by torch's autograd.

    adjoints: dy/d(scores) of each y that is explained; of their sum where None.
    """
    _check_names(model, names)
    with _evaluating(model):
        output, *maps = _Tap(model, names)(example.detach().clone().requires_grad_())
        scores = _before_squashing(output)
        grads = [
            torch.autograd.grad(scores, maps, seed, allow_unused=True, retain_graph=True)
            for seed in _seeds(output, adjoints)
        ]
    unused = [name for name, g in zip(names, grads[0], strict=True) if g is None]
    if unused:
        raise LayerError(f"layer '{unused[0]}' is not on the way to the score: choose one that 'onnxcam layers' lists")
    return Reference(
        output=output.detach().numpy(),
        activations=tuple(a.detach().numpy() for a in maps),
        gradients=tuple(tuple(g.numpy() for g in layers if g is not None) for layers in grads),
    )


def _seeds(output: torch.Tensor, adjoints: Sequence[np.ndarray] | None) -> list[torch.Tensor]:
    """What ``output`` is differentiated with, shaped and typed as it."""
    if adjoints is None:
        return [torch.ones_like(output)]
    return [torch.from_numpy(adjoint).to(output.dtype).reshape(output.shape) for adjoint in adjoints]


def random_example(size: Sequence[int], *, batch: int = 2, seed: int = 0) -> torch.Tensor:
    """A batch of standard normal pictures [batch, *size] from a seeded generator."""
    return torch.randn(batch, *size, generator=torch.Generator().manual_seed(seed))


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


def _forget_traces(graph: ir.Graph) -> None:
    """Drop what torch notes about the machine that exported (stack traces, paths); keep the module paths.

    They are those of the model, within the module that taps it.
    """
    for node in graph:
        scopes = node.metadata_props.get(_NAME_SCOPES)
        node.metadata_props.clear()
        node.doc_string = None
        if scopes is not None:
            paths = [path.removeprefix("model.") for path in ast.literal_eval(scopes) if path != "model"]
            node.metadata_props[_NAME_SCOPES] = repr(paths)  # without the module around the model
    for value in (*graph.inputs, *graph.initializers.values(), *(y for node in graph for y in node.outputs)):
        value.metadata_props.clear()
    graph.metadata_props.clear()


def _scores(output: object) -> torch.Tensor:
    """The class scores among what a model returned."""
    if not isinstance(output, torch.Tensor) or output.ndim != 2:
        what = f"shape {list(output.shape)}" if isinstance(output, torch.Tensor) else f"a {type(output).__name__}"
        raise ExportError(
            f"the model returns {what}, and a classifier returns one tensor [N, classes]: wrap it so that it does"
        )
    return output


def _before_squashing(output: torch.Tensor) -> torch.Tensor | torch.autograd.graph.GradientEdge:
    """``output``, or where a softmax or sigmoid made it, the scores that went into that."""
    node = output.grad_fn
    if node is None or type(node).__name__ not in _SQUASHING:
        return output
    behind, index = node.next_functions[0]
    return output if behind is None else torch.autograd.graph.GradientEdge(behind, index)


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
