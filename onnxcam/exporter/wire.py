"""ONNX files as bytes: large weights stay in the file when it is read, and go straight into it when it is written.

Parsing a whole file copies its weights several times. Here the messages around them are walked in protobuf's wire
format (https://protobuf.dev/programming-guides/encoding): a field is a tag (number and type), then a length and that
many bytes, or a number.
"""

from __future__ import annotations

__all__ = ["read_without_weights", "write_with_weights"]

import mmap
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, Final, TypeAlias

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError

_LARGE: Final = 4096
"""Bytes from which a weight stays in the file. Shapes, axes and the like are smaller: inference wants to see them."""

_Fields: TypeAlias = "Mapping[int, _Fields]"
_TENSOR: Final[_Fields] = {}
_GRAPH, _INITIALIZER, _RAW_DATA = 7, 5, 9
_WITH_WEIGHTS: Final[_Fields] = {_GRAPH: {_INITIALIZER: _TENSOR}}
"""Which messages hold weights."""
_BYTES: Final = 2
"""The wire type of what has a length."""


def read_without_weights(path: Path) -> onnx.ModelProto:
    """The model in ``path``, in which large weights are external data at their places in ``path`` itself.

    Raises `google.protobuf.message.DecodeError` where the file is none.
    """
    with path.open("rb") as file:
        if not os.fstat(file.fileno()).st_size:
            raise DecodeError("the file is empty")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content, memoryview(content) as view:
            slim = _slim(view, 0, len(view), _WITH_WEIGHTS, path.name)
    model = onnx.ModelProto()
    model.ParseFromString(slim)
    return model


def write_with_weights(model: ir.Model, file: BinaryIO) -> None:
    """Write ``model`` into ``file``, one weight at a time."""
    graph = model.graph
    kept = dict(graph.initializers)
    large = {
        name: tensor
        for name, value in kept.items()
        if (tensor := value.const_value) is not None
        and (tensor.nbytes >= _LARGE or isinstance(tensor, ir.ExternalTensor))
        and tensor.dtype != ir.DataType.STRING
    }
    for name in large:
        graph.initializers.pop(name)
    try:
        proto = ir.to_proto(model)
    finally:
        graph.initializers.clear()
        graph.initializers.update(kept)
    head = proto.graph.SerializeToString()
    proto.ClearField("graph")
    weights = [(_header(name, tensor), tensor) for name, tensor in large.items()]
    sizes = [len(header) + tensor.nbytes for header, tensor in weights]
    length = len(head) + sum(len(_tag(_INITIALIZER, size)) + size for size in sizes)
    file.write(proto.SerializeToString())
    file.write(_tag(_GRAPH, length) + head)
    for (header, tensor), size in zip(weights, sizes, strict=True):
        file.write(_tag(_INITIALIZER, size) + header)
        file.write(tensor.tobytes())


def _header(name: str, tensor: ir.TensorProtocol) -> bytes:
    """What a tensor's message has before its bytes."""
    message = onnx.TensorProto(
        name=name, data_type=int(tensor.dtype), dims=tensor.shape.numpy(), doc_string=tensor.doc_string or None
    )
    return bytes(message.SerializeToString()) + _tag(_RAW_DATA, tensor.nbytes)


def _slim(view: memoryview, start: int, end: int, inside: _Fields, location: str) -> bytes:
    """The message in ``view[start:end]``, the bytes of large tensors replaced by where they are in the file."""
    found = bytearray()
    copied = start
    for number, begin, first, last in _fields(view, start, end):
        if last - first < _LARGE:
            continue
        if inside is _TENSOR and number == _RAW_DATA:
            replacement = onnx.TensorProto(data_location=onnx.TensorProto.EXTERNAL)
            where = {"location": location, "offset": first, "length": last - first}
            for key, value in where.items():
                replacement.external_data.add(key=key, value=str(value))
            found += bytes(view[copied:begin]) + replacement.SerializeToString()
        elif number in inside:
            smaller = _slim(view, first, last, inside[number], location)
            found += bytes(view[copied:begin]) + _tag(number, len(smaller)) + smaller
        else:
            continue
        copied = last
    return bytes(found) + bytes(view[copied:end])


def _fields(view: memoryview, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Of each field with a length: its number, where it begins, and where its content does and ends."""
    at = start
    while at < end:
        begin = at
        tag, at = _number(view, at, end)
        number, kind = tag >> 3, tag & 7
        if kind == _BYTES:
            length, at = _number(view, at, end)
            if at + length > end:
                raise DecodeError("a field goes beyond the end")
            yield number, begin, at, at + length
            at += length
        elif kind == 0:
            _, at = _number(view, at, end)
        elif kind in (1, 5):
            at += 8 if kind == 1 else 4
        else:
            raise DecodeError(f"there is no wire type {kind}")
    if at > end:
        raise DecodeError("a field goes beyond the end")


def _number(view: memoryview, at: int, end: int) -> tuple[int, int]:
    """A number of variable length at ``at``, and where it ends."""
    number = 0
    for shift in range(0, 64, 7):
        if at >= end:
            raise DecodeError("a number goes beyond the end")
        byte = view[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
    raise DecodeError("a number is too long")


def _tag(number: int, length: int) -> bytes:
    """What stands before ``length`` bytes of field ``number``."""
    found = bytearray()
    for value in (number << 3 | _BYTES, length):
        while value >= 0x80:
            found.append(value & 0x7F | 0x80)
            value >>= 7
        found.append(value)
    return bytes(found)
