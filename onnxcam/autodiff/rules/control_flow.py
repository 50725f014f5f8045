"""Rules of operators that run subgraphs: If, Scan and Loop.

What a subgraph computes cannot be read outside it. So the adjoint has a subgraph of its own: a copy of the forward
one, with the way back through it appended. The forward node stays as it is.
"""

from __future__ import annotations

__all__: list[str] = []

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence

import onnx_ir as ir
from onnxscript import OpBuilder

from onnxcam.autodiff.backward import RefusedError, pull_back
from onnxcam.autodiff.registry import ALL, Adjoint, Site, describe, rule
from onnxcam.autodiff.rules.movement import zeros
from onnxcam.autodiff.subgraphs import close, copied, discard, several


@rule("If", versions=(13, 16, 19, 21, 23, 24, 25), inputs=ALL)
def if_(at: Site, *dys: ir.Value | None) -> Sequence[Adjoint | None]:
    """``If(condition, dx of then_branch, dx of else_branch)``; a branch that does not read x has zeros for it."""
    wanted = [x for x, active in zip(at.captured, at.active[1:], strict=True) if active]

    def way_back(branch: Site, graph: ir.Graph) -> list[ir.Value]:
        dxs = pull_back(branch.op, list(graph), _seeds(branch.op, graph.outputs, dys), wanted)
        return [dxs[x] if x in dxs else _zeros(branch, x) for x in wanted]

    @functools.cache
    def dxs() -> Mapping[ir.Value, ir.Value]:
        branches = _rebuilt(at, ("then_branch", "else_branch"), way_back)
        found = at.op.If(at.input(0), **branches, _outputs=len(wanted))
        return dict(zip(wanted, several(found), strict=True))

    return [None, *(functools.partial(lambda x: dxs()[x], x) for x in at.captured)]


@rule("Scan", versions=(11, 16, 19, 21, 23, 24, 25), inputs=ALL)
def scan(at: Site, *dys: ir.Value | None) -> Sequence[Adjoint]:
    """One Scan saves the states before each step, another goes back over them from the last step to the first."""
    op, count = at.op, len(at.x) - at.attribute("num_scan_inputs", 1)
    way = _WayBack(at, dys, 0, count)
    scanned = [at.input(i) for i in range(count, len(at.x))]
    x_sides = _sides(at, "input", scanned)
    y_sides = _sides(at, "output", at.y[count:])
    active = [i for i in range(len(scanned)) if at.active[count + i]]

    def saved() -> Sequence[ir.Value]:
        body = _rebuilt(at, ["body"], lambda _, graph: [*graph.outputs[:count], *graph.inputs[:count]])
        sides = {name: a for name, a in at.node.attributes.items() if name.startswith(("num_scan", "scan_input"))}
        return op.Scan(*at.x, **body, **sides, _outputs=2 * count)[count:]  # type: ignore[no-any-return]

    @functools.cache
    def dxs() -> Mapping[int, ir.Value]:
        given = {i: dy for i, dy in enumerate(dys[count:]) if dy is not None}

        def step(inner: Site, graph: ir.Graph) -> list[ir.Value]:
            xs, ys, variables = list(graph.inputs), list(graph.outputs), way.variables(graph.inputs)
            stacked = {count + i: _like(ys[count + i], f"d_element_{i}") for i in given}
            graph.inputs[:] = [*variables, *xs, *stacked.values()]
            return way.step(inner, graph, variables, xs[:count], ys, stacked, [xs[count + i] for i in active])

        body = _rebuilt(at, ["body"], step)
        before = [_flipped(op, x) for x in saved()] if count else []
        xs = [_along(op, x, axis, not back) for x, (axis, back) in zip(scanned, x_sides, strict=True)]
        stacked = [_along(op, dy, y_sides[i][0], not y_sides[i][1]) for i, dy in given.items()]
        elements = [*before, *xs, *stacked]
        outputs = len(way.carried) + len(way.wanted) + len(active)
        found = several(op.Scan(*way.starts(), *elements, **body, num_scan_inputs=len(elements), _outputs=outputs))
        last = found[outputs - len(active) :]
        sides = [x_sides[i] for i in active]
        moved = [_along(op, dx, axis, not back, out=True) for dx, (axis, back) in zip(last, sides, strict=True)]
        return way.results(found) | dict(zip((count + i for i in active), moved, strict=True))

    return [functools.partial(lambda i: dxs()[i], i) for i in range(len(at.active))]


@rule("Loop", versions=(13, 16, 19, 21, 23, 24, 25), inputs=ALL)
def loop(at: Site, *dys: ir.Value | None) -> Sequence[Adjoint]:
    """One Loop saves what its body reads in each iteration, another goes back over that as often as the first ran.

    To be saved, a state must have the same shape in all iterations.
    """
    op, count = at.op, len(at.x) - 2
    way = _WayBack(at, dys, 2, count)

    def saved() -> Sequence[ir.Value]:
        body = _rebuilt(at, ["body"], lambda _, graph: [*graph.outputs[: 1 + count], *graph.inputs])
        return op.Loop(*at.x, **body, _outputs=count + 2 + count)[count:]  # type: ignore[no-any-return]

    @functools.cache
    def dxs() -> Mapping[int, ir.Value]:
        reads = saved()
        trips = op.Size(reads[0])
        last = op.Sub(trips, 1)

        def step(inner: Site, graph: ir.Graph) -> list[ir.Value]:
            xs, ys, variables = list(graph.inputs), list(graph.outputs), way.variables(graph.inputs[2:])
            lead = [ir.val(name, dtype, []) for name, dtype in (("k", ir.DataType.INT64), ("go", ir.DataType.BOOL))]
            graph.inputs[:] = [*lead, *variables]
            index = inner.op.Sub(last, lead[0])
            again = {x: inner.op.Gather(read, index, axis=0) for x, read in zip(xs, reads, strict=True)}
            for x, value in again.items():
                value.type, value.shape = x.type, x.shape
                ir.convenience.replace_all_uses_with(x, value)
            ys = [again.get(y, y) for y in ys[1:]]
            stacked = {i: inner.op.Gather(dys[i], index, axis=0) for i in range(count, len(ys)) if dys[i] is not None}
            made = way.step(inner, graph, variables, [again[x] for x in xs[2:]], ys, stacked, [])
            graph.sort()  # what is read again stands behind the copied nodes
            return [lead[1], *made]

        body = _rebuilt(at, ["body"], step)
        outputs = len(way.carried) + len(way.wanted)
        return way.results(several(op.Loop(trips, None, *way.starts(), **body, _outputs=outputs)))

    return [functools.partial(lambda i: dxs()[i], i) for i in range(len(at.active))]


class _WayBack:
    """What carries over from one step of a way back to the next: the adjoints of states, and of captured values."""

    def __init__(self, at: Site, dys: Sequence[ir.Value | None], first: int, count: int) -> None:
        """``first`` is the first of the node's inputs that is a state, ``count`` how many there are."""
        self.at, self.dys, self.first, self.count = at, dys, first, count
        states = [at.input(first + i) for i in range(count)]
        if any(x.type is not None and not isinstance(x.type, ir.TensorType) for x in states):
            raise at.unsupported("a state that is no tensor is not differentiated")
        self.carried = [i for i, x in enumerate(states) if x.dtype is not None and x.dtype.is_floating_point()]
        self.wanted = [x for x, active in zip(at.captured, at.active[len(at.x) :], strict=True) if active]

    def starts(self) -> list[ir.Value]:
        """The adjoints of the last states, and zeros to add those of captured values to, float32 for half precision."""
        found = []
        for i in self.carried:
            dy = self.dys[i]
            found.append(_zeros(self.at, self.at.input(self.first + i)) if dy is None else dy)
        return found + [_cast(self.at.op, _zeros(self.at, x), _wide(x)) for x in self.wanted]

    def variables(self, states: Sequence[ir.Value]) -> list[ir.Value]:
        """Inputs for them of the body, whose inputs ``states`` are the states."""
        sums = [_like(x, f"d_captured_{i}", _wide(x)) for i, x in enumerate(self.wanted)]
        return [*(_like(states[i], f"d_state_{i}") for i in self.carried), *sums]

    def step(
        self,
        inner: Site,
        graph: ir.Graph,
        variables: Sequence[ir.Value],
        states: Sequence[ir.Value],
        outputs: Sequence[ir.Value],
        stacked: Mapping[int, ir.Value],
        elements: Sequence[ir.Value],
    ) -> list[ir.Value]:
        """The next of ``variables``, and the adjoints of ``elements``.

        states, outputs: what the copied body reads as its states, and makes: the next states, and what is stacked.
        stacked: the adjoints of what is stacked, by its index among the outputs.
        """
        dys = dict(zip(self.carried, variables, strict=False)) | dict(stacked)
        wrt = [*(states[i] for i in self.carried), *self.wanted, *elements]
        seeds = _seeds(inner.op, outputs, [dys.get(i) for i in range(len(outputs))])
        found = pull_back(inner.op, list(graph), seeds, wrt)
        following = [found[x] if x in found else _zeros(inner, x) for x in wrt]
        for i in range(len(self.carried), len(variables)):
            following[i] = inner.op.Add(variables[i], _cast(inner.op, following[i], variables[i].dtype))
        return following

    def results(self, found: Sequence[ir.Value]) -> dict[int, ir.Value]:
        """The adjoints of the node's operands by index, from the last of the variables."""
        at = self.at
        indices = [self.first + i for i in self.carried]
        indices += [len(at.x) + i for i, x in enumerate(at.captured) if x in self.wanted]
        like = [at.input(i) if i < len(at.x) else at.captured[i - len(at.x)] for i in indices]
        return {i: _cast(at.op, dx, x.dtype) for i, dx, x in zip(indices, found, like, strict=False)}


def _sides(at: Site, kind: str, values: Sequence[ir.Value]) -> list[tuple[int, bool]]:
    """The axis along which a Scan runs over, or stacks, each of ``values``, and whether it does so backwards."""
    axes = at.attribute(f"scan_{kind}_axes", None) or [0] * len(values)
    directions = at.attribute(f"scan_{kind}_directions", None) or [0] * len(values)
    pairs = zip(values, axes, directions, strict=True)
    return [(axis % at.rank(value) if axis else 0, bool(direction)) for value, axis, direction in pairs]


def _along(op: OpBuilder, value: ir.Value, axis: int, flip: bool, *, out: bool = False) -> ir.Value:
    """``value`` with ``axis`` as its first (``out``: the other way round), flipped along it."""
    if out and flip:
        value = _flipped(op, value)
    if axis:
        assert value.shape is not None
        others = [i for i in range(len(value.shape)) if i != axis]
        forth = [axis, *others]
        value = op.Transpose(value, perm=[forth.index(i) for i in range(len(forth))] if out else forth)
    return value if out or not flip else _flipped(op, value)


def _flipped(op: OpBuilder, value: ir.Value) -> ir.Value:
    """``value`` with its first axis reversed."""
    return op.Slice(value, [-1], [-(2**31) + 1], [0], [-1])  # type: ignore[no-any-return]


def _like(value: ir.Value, name: str, dtype: ir.DataType | None = None) -> ir.Value:
    """A value to come of the type (or of ``dtype``) and shape of ``value``."""
    return ir.Value(name=name, type=value.type if dtype is None else ir.TensorType(dtype), shape=value.shape)


def _wide(x: ir.Value) -> ir.DataType | None:
    """The type in which adjoints of ``x`` are added up."""
    return ir.DataType.FLOAT if x.dtype in (ir.DataType.FLOAT16, ir.DataType.BFLOAT16) else x.dtype


def _cast(op: OpBuilder, value: ir.Value, dtype: ir.DataType | None) -> ir.Value:
    return value if value.dtype == dtype else op.Cast(value, to=dtype)


def _rebuilt(
    at: Site, names: Sequence[str], outputs: Callable[[Site, ir.Graph], Sequence[ir.Value]]
) -> dict[str, ir.Graph]:
    """Copies of the node's subgraphs ``names``, each with what ``outputs`` emits into it as its outputs."""
    graphs: dict[str, ir.Graph] = {}
    reasons: list[str] = []
    for name in names:
        inner = copied(at.op, at.node.attributes[name].as_graph(), name)
        graph = inner.builder.graph
        forward = list(graph)
        try:
            made = outputs(dataclasses.replace(at, op=inner), graph)
        except RefusedError as refused:
            discard(graph)
            reasons += [f"{reason} (in {name} of {describe(at.node)})" for reason in refused.reasons]
        else:
            graphs[name] = close(inner, forward, made)
    if reasons:
        for graph in graphs.values():
            discard(graph)
        raise RefusedError(reasons)
    return graphs


def _seeds(op: OpBuilder, outputs: Sequence[ir.Value], dys: Sequence[ir.Value | None]) -> dict[ir.Value, ir.Value]:
    """The adjoints of a subgraph's outputs, added up where one value is several of them."""
    seeds: dict[ir.Value, ir.Value] = {}
    for y, dy in zip(outputs, dys, strict=True):
        if dy is not None:
            seeds[y] = op.Add(seeds[y], dy) if y in seeds else dy
    return seeds


def _zeros(at: Site, like: ir.Value) -> ir.Value:
    """Zeros of the type and shape of ``like``, also as far as known when the graph is built."""
    made = zeros(at, like)
    made.type, made.shape = like.type, like.shape
    return made
