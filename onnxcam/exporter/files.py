"""Reading ONNX files that may be damaged, and writing artifacts in one step."""

from __future__ import annotations

__all__ = ["read_model", "write_model"]

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError

from onnxcam.errors import ModelSourceError, OutputError
from onnxcam.exporter.logs import without_logs
from onnxcam.exporter.wire import read_without_weights, write_with_weights

_LARGEST_FILE: Final = 2**31 - 2**26
"""Bytes of weights above which they go into a file of their own: protobuf ends at 2 GiB, and the graph needs room."""


def read_model(path: Path) -> ir.Model:
    """The model in ``path``; weights in further files are mapped into memory, not read.

    Raises `ModelSourceError` naming everything that is wrong with the file: no protobuf, no graph, values that
    nothing gives, external data that is missing or lies outside the model's folder.
    """
    if not path.exists():
        raise ModelSourceError(f"there is no file '{path}'")
    if not path.is_file():
        raise ModelSourceError(f"'{path}' is not a file: name an .onnx file")
    try:
        proto = onnx.load(path, load_external_data=False) if path.is_symlink() else read_without_weights(path)
        with without_logs():  # what is wrong is said below
            model = ir.from_proto(proto)
    except DecodeError:
        raise ModelSourceError(
            f"'{path}' is not an ONNX file, or it is cut short: download or export it again"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError, ir.serde.SerdeError) as error:
        raise ModelSourceError(f"'{path}' cannot be read as an ONNX model: {_reason(error)}") from None
    ir.external_data.set_base_dir(model.graph, path.parent.resolve())
    if not model.graph.outputs or not model.opset_imports:
        raise ModelSourceError(
            f"'{path}' is not an ONNX file, or an empty one: it has no outputs or names no operator set"
        )
    problems = [*_external_problems(model, path), *_weight_problems(model), *_graph_problems(model)]
    if problems:
        raise ModelSourceError(f"'{path}' is damaged: {'; '.join(problems)}")
    return model


def write_model(model: ir.Model, path: Path) -> None:
    """Save ``model`` under ``path`` in one step: a failure leaves nothing, and an older file as it was.

    Weights of more than 2 GB go into ``<path>.data`` beside it.
    """
    data = f"{path.name}.data" if _weight_bytes(model) > _LARGEST_FILE else None
    with _folder_beside(path) as folder:
        try:
            if data is None:
                with (folder / path.name).open("wb") as file:
                    write_with_weights(model, file)
            else:
                ir.save(model, folder / path.name, external_data=data)
            for name in filter(None, (data, path.name)):  # the graph last: it must not name data that is not there
                os.chmod(folder / name, 0o666 & ~_umask())
                os.replace(folder / name, path.parent / name)
        except OSError as error:
            raise OutputError(f"cannot write '{path}': {error.strerror or error}") from None


@contextlib.contextmanager
def _folder_beside(path: Path) -> Iterator[Path]:
    try:
        folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent))
    except OSError as error:
        raise OutputError(f"cannot write to '{path.parent}': {error.strerror}; choose another place with -o") from None
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _weight_bytes(model: ir.Model) -> int:
    return sum(
        value.const_value.nbytes
        for graph in model.graphs()
        for value in graph.initializers.values()
        if value.const_value is not None
    )


def _external_problems(model: ir.Model, path: Path) -> list[str]:
    folder = path.parent.resolve()
    files: dict[str, int] = {}
    for graph in model.graphs():
        for value in graph.initializers.values():
            tensor = value.const_value
            if isinstance(tensor, ir.ExternalTensor):
                end = (tensor.offset or 0) + (tensor.length or tensor.nbytes)
                files[str(tensor.location)] = max(end, files.get(str(tensor.location), 0))
    problems = []
    for location, end in files.items():
        file = (folder / location).resolve()
        if not file.is_relative_to(folder):
            problems.append(f"its weights point to '{location}', outside the model's folder")
        elif not file.is_file():
            problems.append(f"its weights are in '{location}', which is missing: put it beside the model")
        elif file.stat().st_size < end:
            problems.append(
                f"its weights in '{location}' are cut short: {file.stat().st_size} of {end} bytes are there"
            )
    return problems


def _weight_problems(model: ir.Model) -> list[str]:
    """Weights whose bytes do not fill their shape."""
    problems = []
    for graph in model.graphs():
        for value in graph.initializers.values():
            tensor = value.const_value
            if isinstance(tensor, ir.ExternalTensor):
                whole = tensor.length in (None, tensor.nbytes)
            else:
                whole = _is_whole(tensor)
            if not whole:
                shape = [] if tensor is None else list(tensor.shape)
                problems.append(f"the weight '{value.name}' {shape} does not have the bytes of its shape")
    return problems


def _is_whole(tensor: ir.TensorProtocol | None) -> bool:
    try:
        return tensor is not None and tensor.numpy().size == tensor.size
    except (ValueError, TypeError):
        return False


def _graph_problems(model: ir.Model) -> list[str]:
    """Values that nothing gives, and cycles."""
    graph = model.graph
    dangling = _dangling(graph, set())
    if dangling:
        more = f"; and {len(dangling) - 5} more" if len(dangling) > 5 else ""
        return ["; ".join(dangling[:5]) + more]
    try:
        graph.sort()
    except ValueError:
        return ["its nodes form a cycle"]
    return []


def _dangling(graph: ir.Graph, outer: set[ir.Value]) -> list[str]:
    """What ``graph`` and its branches read or give that is neither theirs nor among the ``outer`` values."""
    given = {*outer, *graph.inputs, *graph.initializers.values(), *(y for node in graph for y in node.outputs)}
    found = []
    for node in graph:
        found += [
            f"{node.op_type} '{node.name or node.outputs[0].name}' reads '{x.name}', which nothing gives"
            for x in node.inputs
            if x is not None and x not in given
        ]
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.GRAPH:
                found += _dangling(attribute.as_graph(), given)
    return found + [f"the output '{y.name}' is given by nothing" for y in graph.outputs if y not in given]


def _reason(error: Exception) -> str:
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    text = str(cause).strip().splitlines()
    return text[0][:200] if text else type(cause).__name__
