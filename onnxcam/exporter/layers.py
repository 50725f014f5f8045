"""The feature maps of an ONNX graph: which there are, under which names, and which one is taken by default."""

from __future__ import annotations

__all__ = [
    "Candidate",
    "Target",
    "behind_identity",
    "candidates",
    "find_value",
    "is_weight",
    "module_outputs",
    "on_the_way",
    "picture_target",
]

import ast
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import onnx_ir as ir

from onnxcam.errors import LayerError, nearest_names
from onnxcam.exporter.axes import find_layouts
from onnxcam.exporter.layout import Layout, shape_text

_NAME_SCOPES: Final = "pkg.torch.onnx.name_scopes"
_FLOATING: Final = frozenset({ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16})


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A feature map to explain at: the name the user knows it by, its value, and how its axes are laid out.

    module: see `Candidate`.
    """

    name: str
    value: ir.Value
    layout: Layout
    module: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A feature map on the way from the picture to the score.

    module: path of the PyTorch module whose output it is, where the file says so.
    share: the part of the model's multiplications that come behind it, 0–1.
    cut: whether every way from the picture to the score leads through it.
    """

    value: ir.Value
    layout: Layout
    module: str | None
    share: float
    cut: bool

    @property
    def name(self) -> str:
        return self.value.name or ""

    @property
    def kind(self) -> str:
        """The operator that gives it."""
        node = self.value.producer()
        return "input" if node is None else node.op_type

    @property
    def shape(self) -> tuple[int | None, ...]:
        return tuple(dim if isinstance(dim, int) else None for dim in self.value.shape or ())


def candidates(graph: ir.Graph, score: ir.Value, image: ir.Value) -> list[Candidate]:
    """The feature maps between ``image`` and ``score`` that have several places, in the order of the graph."""
    path = on_the_way(graph, score, image)
    layouts = find_layouts(graph)
    modules = {value: path for path, value in reversed(module_outputs(graph).items())}
    readers = _readers(path)
    cuts = _cuts(path, readers, image)
    behind = _work_behind(path, readers)
    total = max(sum(_work(node) for node in graph), 1)
    return [
        Candidate(
            value=y,
            layout=layouts[y],
            module=modules.get(y),
            share=behind[i] / total,
            cut=y in cuts,
        )
        for i, node in enumerate(path)
        for y in node.outputs
        if y in layouts and y.dtype in _FLOATING
    ]


def picture_target(graph: ir.Graph, image: ir.Value) -> Target:
    """The picture itself as target. Raises `LayerError` where it has no gradient, or no height and width."""
    if image.dtype not in _FLOATING:
        raise LayerError(
            f"the picture goes into '{image.name}' as {str(image.dtype).lower()}, of which there is no gradient: "
            "take a method at a layer, such as 'gradcam', or a model that takes floating-point numbers"
        )
    layout = find_layouts(graph).get(image)
    if layout is None:
        raise LayerError(
            f"the picture goes into '{image.name}' as {shape_text(image.shape)}, in which no height and width are "
            "to be seen: take a method at a layer, such as 'gradcam'"
        )
    return Target(name=image.name or "", value=image, layout=layout)


def on_the_way(graph: ir.Graph, score: ir.Value, image: ir.Value) -> list[ir.Node]:
    """The nodes that carry floating-point values from ``image`` to ``score``, in the order of the graph."""
    needed: set[ir.Node] = set()
    stack = [score]
    while stack:
        node = stack.pop().producer()
        if node is not None and node not in needed:
            needed.add(node)
            stack += [x for x in node.inputs if x is not None]
            stack += _captured(node)
    carries = {image}
    path = []
    for node in graph:
        if node in needed and any(x in carries for x in (*node.inputs, *_captured(node))):
            path.append(node)
            carries.update(y for y in node.outputs if y.dtype is None or y.dtype in _FLOATING or _quantised(y))
    return path


def behind_identity(value: ir.Value) -> ir.Value:
    """The value that Identity and Dropout nodes repeat."""
    while (node := value.producer()) is not None and node.op_type in {"Identity", "Dropout"}:
        if node.inputs[0] is None:
            break
        value = node.inputs[0]
    return value


def is_weight(value: ir.Value) -> bool:
    """Whether ``value`` is a weight, or made of weights alone (one that is stored in half precision, say)."""
    node = value.producer()
    if node is None:
        return value.is_initializer() and not value.is_graph_input()
    return bool(node.inputs) and all(x is None or is_weight(x) for x in node.inputs)


def find_value(graph: ir.Graph, name: str) -> ir.Value:
    """The value that ``name`` means: a value's name, a node's, or the path of a PyTorch module.

    Raises `LayerError` with the nearest names.
    """
    values = {y.name: y for node in graph for y in node.outputs if y.name}
    values |= {x.name: x for x in graph.inputs if x.name}
    if name in values:
        return values[name]
    nodes = {node.name: node.outputs[0] for node in graph if node.name and node.outputs}
    if name in nodes:
        return nodes[name]
    modules = module_outputs(graph)
    for path in (name, f"model.{name}"):  # artifacts of PyTorch models were once made of a module around the model
        if path in modules:
            return modules[path]
    hint = nearest_names(name, [*modules, *values, *nodes]) or "'onnxcam layers' lists those there are"
    raise LayerError(f"the graph has no value, node or module '{name}'; {hint}")


def module_outputs(graph: ir.Graph) -> dict[str, ir.Value]:
    """The output of each PyTorch module that the file's metadata or node names tell of: that of its last node.

    Outer modules come first.
    """
    found: dict[str, ir.Value] = {}
    for node in graph:
        for path in _modules_of(node):
            if node.outputs and (node.outputs[0].dtype is None or node.outputs[0].dtype in _FLOATING):
                found[path] = node.outputs[0]
    return dict(sorted(found.items(), key=lambda entry: (entry[0].count("."), len(entry[0]))))


def _modules_of(node: ir.Node) -> list[str]:
    """The paths of the modules that ``node`` stands in, outer first."""
    scopes = node.metadata_props.get(_NAME_SCOPES)
    if scopes is not None:
        try:
            return [str(path) for path in ast.literal_eval(scopes)[:-1] if path]
        except (ValueError, SyntaxError):
            return []
    parts = (node.name or "").split("/")
    if parts[0] or len(parts) < 3:  # torch's TorchScript exporter writes /layer4/layer4.1/relu/Relu
        return []
    paths: list[str] = []
    for before, part in itertools.pairwise(parts[:-1]):  # an entry of a Sequential repeats the name of that
        name = part.removeprefix(f"{before}.") if before else part
        paths.append(f"{paths[-1]}.{name}" if paths else name)
    return paths


def _captured(node: ir.Node) -> list[ir.Value]:
    """The outer values that the subgraphs of ``node`` read."""
    return [
        x
        for attribute in node.attributes.values()
        if attribute.type == ir.AttributeType.GRAPH
        for inner in ir.traversal.RecursiveGraphIterator(attribute.as_graph())
        for x in inner.inputs
        if x is not None and x.graph is node.graph
    ]


def _quantised(value: ir.Value) -> bool:
    """Whether ``value`` holds the steps of a quantised one: integers that carry what floating ones would."""
    return value.dtype in (ir.DataType.INT8, ir.DataType.UINT8)


def _cuts(path: Sequence[ir.Node], readers: Mapping[ir.Value, Sequence[int]], image: ir.Value) -> set[ir.Value]:
    """The values of ``path`` that every way from the picture to the score leads through."""
    furthest = max(readers.get(image, ()), default=0)
    cuts = set()
    for i, node in enumerate(path):
        read = [y for y in node.outputs if y in readers or y.is_graph_output()]
        if furthest <= i and len(read) == 1:
            cuts.add(read[0])
        furthest = max([furthest, *(j for y in read for j in readers.get(y, ()))])
    return cuts


def _readers(path: Sequence[ir.Node]) -> dict[ir.Value, list[int]]:
    """For each value, the positions in ``path`` of the nodes that read it, themselves or within a subgraph."""
    found: dict[ir.Value, list[int]] = {}
    for i, node in enumerate(path):
        for x in (*node.inputs, *_captured(node)):
            if x is not None:
                found.setdefault(x, []).append(i)
    return found


def _work_behind(path: Sequence[ir.Node], readers: Mapping[ir.Value, Sequence[int]]) -> list[int]:
    """For each node, the multiplications in the nodes of ``path`` that depend on it."""
    work = [_work(node) for node in path]
    reached = [0] * len(path)  # as bits, one for each node of the path
    behind = [0] * len(path)
    for i in reversed(range(len(path))):
        for j in {j for y in path[i].outputs for j in readers.get(y, ())}:
            reached[i] |= reached[j] | 1 << j
        behind[i] = sum(w for j, w in enumerate(work[i + 1 :], i + 1) if reached[i] >> j & 1)
    return behind


def _work(node: ir.Node) -> int:
    """About how many multiplications ``node`` takes for one picture; unknown sizes count as one."""
    sizes = [d if isinstance(d, int) else 1 for y in node.outputs[:1] for d in (y.shape or ())]
    x, w = (list(v.shape) if v is not None and v.shape is not None else [] for v in (*node.inputs, None, None)[:2])
    each = 1
    if node.op_type in ("Conv", "FusedConv", "QLinearConv", "ConvInteger") and len(w) > 2:
        each = math.prod(d for d in w[1:] if isinstance(d, int))
    elif node.op_type in ("MatMul", "Gemm", "FusedMatMul", "FusedGemm") and x and isinstance(x[-1], int):
        each = x[-1]
    return math.prod(sizes) * each
