"""Writes docs/operators.md: how each operator is differentiated, as the registry states it.

python docs/operators.py
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import onnx
from onnx.defs import OpSchema
from onnxruntime.capi.onnxruntime_pybind11_state import get_all_operator_schema

from onnxcam.autodiff import backward as _backward  # noqa: F401  registers every rule
from onnxcam.autodiff.registry import ALL, Rule, rules, sorted_without_rule

PAGE = Path(__file__).with_suffix(".md")
OLDEST = 18
"""Older models are brought to this opset before they are differentiated."""

RULE, BODY, NONE, REFUSED, UNSORTED = "rule", "function body", "no derivative", "refused", "unsorted"

INTRODUCTION = f"""\
# How each operator is differentiated

Written by `python docs/operators.py` from the registry of rules; a test fails where it is not what the registry says.

- **{RULE}**: a derivative rule, checked for the versions that stand beside it.
- **{BODY}**: the operator is differentiated through the standard operators of the function that ONNX states for it.
- **{NONE}**: nothing flows back by nature (indices, comparisons, shapes), which is no error.
- **{REFUSED}**: there is a derivative, but it is not taken; `gradients` names the node and the reason.

Models below opset {OLDEST} are brought to it first. Versions are those in effect from opset {OLDEST} to
{onnx.defs.onnx_opset_version()}, as `since_version` counts them.
"""


class Row(NamedTuple):
    """One operator, or those versions of one that are differentiated in one way."""

    operator: str
    versions: tuple[int, ...]
    how: str
    inputs: str = ""
    remark: str = ""

    def __str__(self) -> str:
        versions = ", ".join(map(str, self.versions))
        return (
            f"| {self.operator} | {versions} | {self.how} | {self.inputs} | {self.remark.replace('|', chr(92) + '|')} |"
        )


def standard_rows() -> Iterator[Row]:
    """The operators of ai.onnx in effect at opset 18 or later, deprecated ones left out."""
    for name, schemas in groupby(_in_effect(), lambda schema: schema.name):
        for how, alike in groupby(schemas, how_differentiated):
            group = list(alike)
            versions = tuple(schema.since_version for schema in group)
            yield Row(name, versions, how, _inputs(group[-1], how), _remark("", name, how))


def runtime_rows() -> Iterator[Row]:
    """The operators of ONNX Runtime with a rule, and then the others that are sorted, those of one reason together."""
    schemas = {(schema.domain, schema.name): schema for schema in get_all_operator_schema()}
    for (domain, name), found in sorted(rules().items()):
        if not onnx.defs.has(name, domain):
            schema = schemas.get((domain, name))
            inputs = _named(found, [] if schema is None else [formal.name for formal in schema.inputs])
            yield Row(_full_name(domain, name), found.versions, RULE, inputs, _remark(domain, name, RULE))
    for how, reasons in zip((NONE, REFUSED), sorted_without_rule(), strict=True):
        foreign = sorted(
            (why, *key) for key, why in reasons.items() if not onnx.defs.has(*key[::-1]) and key not in rules()
        )
        for why, group in groupby(foreign, lambda entry: entry[0]):
            yield Row(", ".join(_full_name(domain, name) for _, domain, name in group), (), how, "", why)


def how_differentiated(schema: OpSchema) -> str:
    """The one class that a version of an operator falls into."""
    key = (schema.domain, schema.name)
    without, refused = sorted_without_rule()
    found = rules().get(key)
    if found is not None and schema.since_version in found.versions:
        return RULE
    if found is None and key in without:
        return NONE
    if found is None and key in refused:
        return REFUSED
    return BODY if has_body(schema) else UNSORTED


def has_body(schema: OpSchema) -> bool:
    """Whether onnx states a function for the operator."""
    return bool(schema.has_function or schema.has_context_dependent_function)


def page() -> str:
    """The whole of docs/operators.md."""
    standard, runtime = list(standard_rows()), list(runtime_rows())
    count = {how: sum(row.how == how for row in standard) for how in (RULE, BODY, NONE, REFUSED)}
    sections = [INTRODUCTION, "## The standard, ai.onnx\n", ", ".join(f"{n} {how}" for how, n in count.items()) + ".\n"]
    sections.append(_table(standard))
    if runtime:
        sections += ["## ONNX Runtime, com.microsoft where no other domain stands\n", _table(runtime)]
    return "\n".join(sections)


def _in_effect() -> Iterator[OpSchema]:
    """The schemas of ai.onnx in effect at opset 18 or later, by name and version."""
    opsets = range(OLDEST, onnx.defs.onnx_opset_version() + 1)
    for name in sorted({schema.name for schema in onnx.defs.get_all_schemas() if schema.domain == ""}):
        schemas = [onnx.defs.get_schema(name, opset) for opset in opsets if onnx.defs.has(name, opset)]
        by_version = {schema.since_version: schema for schema in schemas}
        if not schemas[-1].deprecated:
            yield from by_version.values()


def _full_name(domain: str, name: str) -> str:
    return name if domain == "com.microsoft" else f"{domain or 'ai.onnx'}.{name}"


def _inputs(schema: OpSchema, how: str) -> str:
    """The inputs that are differentiated, by name."""
    if how == BODY:
        return ", ".join(formal.name for formal in schema.inputs if _floating(formal))
    if how != RULE:
        return ""
    found = rules()[schema.domain, schema.name]
    named = _named(found, [formal.name for formal in schema.inputs])
    others = [x.name for i, x in enumerate(schema.inputs) if _floating(x) and not found.covers(i)]
    return f"{named}; {', '.join(others)} through the {BODY}" if others and has_body(schema) else named


def _floating(formal: OpSchema.FormalParameter) -> bool:
    return "tensor(float)" in formal.types


def _named(found: Rule, names: list[str]) -> str:
    """The inputs that ``found`` covers, of those called ``names``."""
    if found.inputs == ALL:
        return "all"
    return ", ".join(names[i] if i < len(names) else str(i) for i in found.inputs)


def _remark(domain: str, name: str, how: str) -> str:
    """Why the operator has no rule, or the first line that its rule says of itself."""
    without, refused = sorted_without_rule()
    said: Mapping[str, Mapping[tuple[str, str], str]] = {NONE: without, REFUSED: refused}
    if how != RULE:
        return said.get(how, {}).get((domain, name), "")
    found = rules()[domain, name]
    return ((found.build or found.vjp).__doc__ or "").strip().partition("\n")[0].replace("``", "`")


def _table(rows: Iterable[Row]) -> str:
    head = ["| operator | versions | how | inputs | remark |", "|---|---|---|---|---|"]
    return "\n".join([*head, *map(str, rows)]) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
