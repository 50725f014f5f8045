"""What an import loads, seen from a fresh process; and that names and help are there."""

from __future__ import annotations

import importlib
import json
import pkgutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

import onnxcam
from onnxcam.cli import main

ROOT = Path(__file__).parents[1]
EXPORT = {"torch", "onnx", "onnx_ir", "onnxscript"}
RUNTIME = {"onnxruntime", "cv2", "av"}
MODULES = sorted(m.name for m in pkgutil.walk_packages(onnxcam.__path__, "onnxcam.") if not m.name.endswith("__main__"))
COMMANDS = main.list_commands(click.Context(main))


def loaded(statement: str) -> set[str]:
    """The top-level packages that a fresh Python has loaded after ``statement``."""
    code = f"import json, sys\n{statement}\nprint(json.dumps([*sys.modules]), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return {name.partition(".")[0] for name in json.loads(done.stderr.splitlines()[-1])}


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import onnxcam", EXPORT | RUNTIME),
        ("import onnxcam.contract", EXPORT | RUNTIME | {"numpy"}),
        ("import onnxcam.runtime", EXPORT),
        ("import onnxcam; onnxcam.load", EXPORT),
        ("from onnxcam.cli import main; main(['--help'], standalone_mode=False)", EXPORT | RUNTIME),
        ("from onnxcam.cli import main; main(['video', '--help'], standalone_mode=False)", EXPORT),
        ("import onnxcam.autodiff", {"torch"} | RUNTIME),
    ],
)
def test_an_import_loads_only_what_it_needs(statement: str, absent: set[str]) -> None:
    assert loaded(statement) & absent == set()


def test_what_is_loaded_is_seen() -> None:
    assert {"onnxcam", "onnx_ir"} <= loaded("import onnxcam.autodiff")


def test_a_lazy_name_means_the_same_after_its_module_was_imported() -> None:
    loaded(
        "import onnxcam\n"
        "first = [getattr(onnxcam, name) for name in onnxcam.__all__]\n"
        "changed = [n for n, x in zip(onnxcam.__all__, first) if getattr(onnxcam, n) is not x]\n"
        "assert not changed, changed"
    )


@pytest.mark.parametrize("name", ["onnxcam", *MODULES])
def test_every_exported_name_exists(name: str) -> None:
    module = importlib.import_module(name)
    exported = getattr(module, "__all__", [])
    assert len(exported) == len(set(exported))
    assert [x for x in exported if not hasattr(module, x)] == []


def test_the_commands_of_the_readme_are_there() -> None:
    assert {"export", "image", "inspect", "layers", "methods", "video"} <= set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example(name: str) -> None:
    command = main.get_command(click.Context(main), name)
    assert command is not None
    assert command.help
    assert f"onnxcam {name}" in command.help
    assert [p.name for p in command.params if isinstance(p, click.Option) and not p.help] == []
