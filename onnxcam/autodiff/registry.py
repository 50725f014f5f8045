"""Derivative rules: one function an operator, registered with what it was checked against.

A rule takes the `Site` of a node and the adjoints of the node's outputs, and gives one callable per covered
input that emits the adjoint of that input. Only the callables of active inputs are called::

    @rule("Mul", versions=(13, 14), inputs=(0, 1), broadcasts=True)
    def mul(at, dy):
        a, b = at.x
        return lambda: at.op.Mul(dy, b), lambda: at.op.Mul(dy, a)

The driver sums over broadcast axes, adds adjoints up, and gives each the type and shape of its primal.
"""

from __future__ import annotations

__all__ = [
    "ALL",
    "Adjoint",
    "Build",
    "Exchange",
    "Rule",
    "Site",
    "Vjp",
    "behind_rounding",
    "describe",
    "expansion",
    "find_rule",
    "has_adjoint",
    "is_refused",
    "quantizes",
    "refuse",
    "rule",
    "rules",
    "sorted_without_rule",
    "static_shape",
    "sum_to",
    "within_integer_kernel",
    "without_adjoint",
]

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import onnx
import onnx_ir as ir
from onnxscript import OpBuilder

from onnxcam.autodiff.subgraphs import captures
from onnxcam.errors import AutodiffError

ALL: Final = "all"
"""Covers every input of a variadic operator, and then every outer value that its subgraphs capture."""


@dataclass(frozen=True, slots=True)
class Site:
    """One node being differentiated.

    op: emits nodes (``at.op.Mul(dy, 2.0)``); Python numbers and lists become constants of the fitting type.
    node: the forward node. ``x`` are its inputs (None where left out), ``y`` its outputs (see `behind_rounding`).
    version: the schema version of the node's operator.
    active: for each input, and then for each captured value, whether the adjoint is wanted.
    """

    op: OpBuilder
    node: ir.Node
    version: int
    active: tuple[bool, ...]

    @property
    def x(self) -> Sequence[ir.Value | None]:
        return self.node.inputs

    @property
    def y(self) -> Sequence[ir.Value]:
        return [behind_rounding(y) for y in self.node.outputs]

    @property
    def captured(self) -> Sequence[ir.Value]:
        """The outer values that the node's subgraphs read. A rule with ``inputs=ALL`` has adjoints for them too."""
        return captures(self.node)

    def input(self, index: int) -> ir.Value:
        """Input ``index``, which the operator's schema requires."""
        value = self.node.inputs[index]
        if value is None:
            raise self.unsupported(f"input {index} is left out")
        return value

    def optional(self, index: int) -> ir.Value | None:
        """Input ``index``, or None where the node leaves it out."""
        return self.node.inputs[index] if index < len(self.node.inputs) else None

    def attribute(self, name: str, default: Any) -> Any:
        """The value of attribute ``name``, or ``default`` where the node leaves it out."""
        attribute = self.node.attributes.get(name)
        return default if attribute is None else attribute.value

    def rank(self, value: ir.Value) -> int:
        """The number of axes of ``value``; a value of unknown rank cannot be differentiated here."""
        if value.shape is None:
            raise self.unsupported(f"the rank of '{value.name}' is unknown: run shape inference first")
        return len(value.shape)

    def axes(self, axes: Sequence[int], rank: int) -> tuple[int, ...]:
        """``axes`` with negative ones counted from the end."""
        return tuple(axis % rank for axis in axes)

    def constant(self, value: ir.Value | None) -> list[Any] | Any | None:
        """The Python value (number or nested list) of an input known when the graph is built, else None."""
        tensor = ir.convenience.get_const_tensor(value) if value is not None else None
        return None if tensor is None else tensor.numpy().tolist()

    def shape(self, value: ir.Value) -> ir.Value | list[int]:
        """The shape of ``value`` as an operand: a list where it is static and not empty, else a ``Shape`` node."""
        return static_shape(value) or self.op.Shape(value)

    def unsupported(self, why: str) -> AutodiffError:
        """The error to raise when the rule does not apply to this node."""
        return AutodiffError(f"{describe(self.node, self.version)}: {why}")


Adjoint = Callable[[], ir.Value]
Vjp = Callable[..., Sequence[Adjoint | None]]
Build = Callable[[Site], Sequence[ir.Value | None]]


@dataclass(frozen=True, slots=True)
class Rule:
    """What is known of one operator: ``vjp`` covers ``inputs`` of the schema ``versions`` it was checked against.

    build: in place of ``vjp``, emits standard operators that compute the same, and gives a value for each output (None
        for one that is not differentiable): the operator is differentiated through them.
    quantizes: the first output is of integers that stand for real numbers: it carries an adjoint though it is not
        floating, and so does what is picked or moved from it.
    """

    op_type: str
    domain: str
    versions: tuple[int, ...]
    inputs: tuple[int, ...] | str
    broadcasts: bool
    vjp: Vjp | None = None
    build: Build | None = None
    quantizes: bool = False

    def covers(self, index: int) -> bool:
        return self.inputs == ALL or index in self.inputs


Exchange = Callable[[Site, Rule], Rule | None]
"""For one differentiation: what takes the place of a node's rule; None leaves the rule."""


_rules: dict[tuple[str, str], Rule] = {}
_names: dict[tuple[str, str], str] = {}
_without: dict[tuple[str, str], str] = {}
_without_inputs: dict[tuple[str, str, int], str] = {}
_refused: dict[tuple[str, str], str] = {}


def rules() -> Mapping[tuple[str, str], Rule]:
    """All registered rules by (domain, operator)."""
    return MappingProxyType(_rules)


def rule(
    op_type: str,
    *,
    versions: tuple[int, ...],
    inputs: tuple[int, ...] | str = (0,),
    broadcasts: bool = False,
    domain: str = "",
    quantizes: bool = False,
) -> Callable[[Vjp], Vjp]:
    """Register the decorated function as the derivative of ``op_type``. A second rule for it is refused.

    versions: the schema versions (``since_version``) the rule was checked against.
    inputs: the inputs it differentiates; the others are not differentiable or refused when active.
    broadcasts: inputs may be smaller than the output, so the driver sums their adjoints.
    quantizes: see `Rule`.
    """

    def register(vjp: Vjp) -> Vjp:
        _register(Rule(op_type, domain, versions, inputs, broadcasts, vjp, None, quantizes), vjp.__qualname__)
        return vjp

    return register


def expansion(
    op_type: str, *, domain: str = "", versions: tuple[int, ...] = (1,), quantizes: bool = False
) -> Callable[[Build], Build]:
    """Register the decorated function, which emits standard operators for ``op_type``: see `Rule`."""

    def register(build: Build) -> Build:
        _register(Rule(op_type, domain, versions, ALL, False, None, build, quantizes), build.__qualname__)
        return build

    return register


def _register(made: Rule, name: str) -> None:
    key = (made.domain, made.op_type)
    if key in _rules:
        raise ValueError(f"operator {made.op_type} has a rule already: {_names[key]}")
    _rules[key], _names[key] = made, name


def without_adjoint(*op_types: str, why: str, domain: str = "", inputs: tuple[int, ...] = ()) -> None:
    """State that operators have no derivative by nature: nothing flows back through them, and that is right.

    inputs: those of which this is so, where not all of them. For the whole of an operator, a rule has precedence.
    """
    for op_type in op_types:
        _without_inputs.update({(domain, op_type, index): why for index in inputs})
        if not inputs:
            _without[domain, op_type] = why


def refuse(*op_types: str, why: str, domain: str = "") -> None:
    """State why operators that could be differentiated are not: the reason is part of the error."""
    for op_type in op_types:
        _refused[domain, op_type] = why


def sorted_without_rule() -> tuple[Mapping[tuple[str, str], str], Mapping[tuple[str, str], str]]:
    """The operators without a derivative by nature, and the refused ones, by (domain, operator) with the reason."""
    return MappingProxyType(_without), MappingProxyType(_refused)


def has_adjoint(node: ir.Node, input: int | None = None) -> bool:
    """Whether anything can flow back through ``node``, to that input: False where there is no derivative by nature."""
    key = (node.domain, node.op_type)
    return (key in _rules or key not in _without) and (*key, input) not in _without_inputs


def is_refused(node: ir.Node) -> bool:
    """Whether ``node`` is not to be differentiated, through its function body neither."""
    key = (node.domain, node.op_type)
    return key in _refused and key not in _rules


def quantizes(node: ir.Node) -> bool:
    """Whether the first output of ``node`` is of integers that stand for real numbers: see `Rule`."""
    found = _rules.get((node.domain, node.op_type))
    return found is not None and found.quantizes


def find_rule(node: ir.Node, *, opset: int, active: Sequence[bool]) -> tuple[Rule, int] | str:
    """The rule for ``node`` and its schema version, or why there is none."""
    found = _rules.get((node.domain, node.op_type))
    if found is None and (why := _refused.get((node.domain, node.op_type))):
        return f"is not differentiated: {why}"
    if onnx.defs.has(node.op_type, node.domain):
        version = onnx.defs.get_schema(node.op_type, opset, node.domain).since_version
    elif found is not None:  # of ONNX Runtime, which has operators in the standard domain too
        version = found.versions[-1]
    else:
        return "is not a standard operator" if node.domain else "is not known to the installed onnx"
    if found is None:
        return "has no derivative rule"
    if version not in found.versions:
        return f"has a rule for versions {', '.join(map(str, found.versions))} only"
    uncovered = [i for i, wanted in enumerate(active) if wanted and not found.covers(i)]
    if uncovered:
        return f"is not differentiated with respect to input {', '.join(map(str, uncovered))}"
    return found, version


def sum_to(at: Site, dx: ir.Value, x: ir.Value, y: ir.Value, *, matrix: bool = False) -> ir.Value:
    """``dx`` summed over the axes along which ``x`` was broadcast to the shape of ``y``.

    matrix: the last two axes of ``x`` and ``y`` are a matrix, which is not broadcast.
    """
    lead = at.rank(y) - at.rank(x)
    pairs = list(zip(x.shape or (), (y.shape or ())[lead:], strict=True))[: -2 if matrix else None]
    if lead:
        dx = at.op.ReduceSum(dx, list(range(lead)), keepdims=0)
    if any(_may_broadcast(a, b) for a, b in pairs if not isinstance(a, int)):
        shape = at.op.Shape(x, end=-2) if matrix else at.op.Shape(x)
        axes = at.op.Squeeze(at.op.NonZero(at.op.Equal(shape, [1])), [0])
        return at.op.ReduceSum(dx, axes, keepdims=1, noop_with_empty_axes=1)  # type: ignore[no-any-return]
    axes = [i for i, (a, b) in enumerate(pairs) if _may_broadcast(a, b)]
    return at.op.ReduceSum(dx, axes, keepdims=1) if axes else dx


def _may_broadcast(x: int | ir.SymbolicDim, y: int | ir.SymbolicDim) -> bool:
    """Whether an axis of size ``x`` may have been stretched to size ``y``."""
    if isinstance(x, int):
        return x == 1 and y != 1
    return x.value is None or x != y  # two unknown sizes compare equal


def behind_rounding(y: ir.Value) -> ir.Value:
    """What the graph reads of ``y``: where ONNX Runtime would run the node that gives ``y`` on integers, ``y`` rounded.

    It makes one kernel of DequantizeLinear, an operator and QuantizeLinear, unless something else reads the values
    between, so that an adjoint which reads them would slow the forward pass and move its results.
    """
    if not within_integer_kernel(y):
        return y
    ((quantize, _),) = y.uses()
    readers = [reader for reader, _ in quantize.outputs[0].uses() if reader.op_type == "DequantizeLinear"]
    return next((reader.outputs[0] for reader in readers if reader.outputs[0].dtype == y.dtype), y)


def within_integer_kernel(y: ir.Value) -> bool:
    """Whether ``y`` lies between DequantizeLinear, an operator and perhaps its activation, and QuantizeLinear alone."""
    node = y.producer()
    if node is None or not _read_only_by(y, "QuantizeLinear"):
        return False
    inputs = list(node.inputs)
    if node.op_type in ("Relu", "Clip") and inputs[0] is not None and _read_only_by(inputs[0], node.op_type):
        before = inputs[0].producer()
        inputs += before.inputs if before is not None else ()
    producers = [x.producer() for x in inputs if x is not None]
    fused = node.op_type != "ReduceMean"  # which has no integer kernel on the CPU
    return fused and any(made is not None and made.op_type == "DequantizeLinear" for made in producers)


def _read_only_by(y: ir.Value, op_type: str) -> bool:
    """Whether ``y`` has one reader, of that type."""
    return not y.is_graph_output() and [reader.op_type for reader, _ in y.uses()] == [op_type]


def describe(node: ir.Node, version: int | None = None) -> str:
    """A node as errors name it: operator, version, name and output shape."""
    domain = f"{node.domain}." if node.domain else ""
    return f"{domain}{node.op_type}{f'-{version}' if version else ''} '{node.name or node.outputs[0].name}'"


def static_shape(value: ir.Value) -> list[int] | None:
    """The shape of ``value`` if every axis is known when the graph is built, else None."""
    if value.shape is None:
        return None
    shape = [dim for dim in value.shape if isinstance(dim, int)]
    return shape if len(shape) == len(value.shape) else None
