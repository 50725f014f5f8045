"""What the wheel and the source archive carry, and that the pins agree with what the package asks for."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
import tarfile
from email.message import Message
from email.parser import Parser
from pathlib import Path
from zipfile import ZipFile

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import onnxcam

ROOT = Path(__file__).parents[1]
MODEL = "efficientnet_lite0.cam.onnx"
MIB = 2**20


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the source archive."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    return next(built.glob("*.whl"))


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    with ZipFile(wheel) as archive:
        return Parser().parsestr(archive.read(f"onnxcam-{onnxcam.__version__}.dist-info/METADATA").decode())


def test_the_wheel_carries_the_package_and_the_model_and_nothing_else(wheel: Path) -> None:
    names = ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {"onnxcam", f"onnxcam-{onnxcam.__version__}.dist-info"}
    shipped = {name.removeprefix("onnxcam/_models/") for name in names if name.startswith("onnxcam/_models/")}
    assert shipped == {MODEL, "manifest.json", "README.md"}
    assert {"onnxcam/py.typed", f"onnxcam-{onnxcam.__version__}.dist-info/licenses/LICENSE"} <= set(names)
    assert wheel.stat().st_size < 25 * MIB


def test_every_module_and_every_file_of_the_page_is_in_the_wheel(wheel: Path) -> None:
    files = [path for path in (ROOT / "onnxcam").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    sources = {path.relative_to(ROOT).as_posix() for path in files}
    assert "onnxcam/runtime/server/page/index.html" in sources
    assert sources - set(ZipFile(wheel).namelist()) == set()


def test_the_wheel_can_be_built_from_the_source_archive(built: Path, wheel: Path, tmp_path: Path) -> None:
    archive = next(built.glob("*.tar.gz"))
    with tarfile.open(archive) as files:
        if hasattr(tarfile, "data_filter"):
            files.extraction_filter = tarfile.data_filter
        files.extractall(tmp_path)
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=tmp_path / archive.name.removesuffix(".tar.gz"), check=True, timeout=60)
    assert ZipFile(next(tmp_path.glob("*.whl"))).namelist() == ZipFile(wheel).namelist()


def test_an_editable_install_leaves_no_copy_behind(tmp_path: Path) -> None:
    from hatchling.builders.wheel import WheelBuilder

    checkout = tmp_path / "checkout"
    shutil.copytree(ROOT / "onnxcam", checkout / "onnxcam")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, checkout)
    (editable,) = WheelBuilder(str(checkout)).build(directory=str(tmp_path), versions=["editable"])
    with ZipFile(editable) as archive:
        assert [n for n in archive.namelist() if not n.startswith("onnxcam-")] == ["_onnxcam.pth"]
        assert archive.read("_onnxcam.pth").decode() == str(checkout)


def test_the_runtime_needs_no_export_package(metadata: Message) -> None:
    runtime = {r.name for r in requirements(metadata) if r.marker is None or r.marker.evaluate({"extra": "cpu"})}
    assert runtime == {"numpy", "opencv-python", "av", "click", "rich", "onnxruntime"}


@pytest.mark.parametrize("python", ["3.10", "3.11", "3.13"])
def test_the_pins_are_allowed_by_the_package(metadata: Message, python: str) -> None:
    pins = pinned("constraints.txt", python)
    wanted = {
        r.name: r.specifier
        for r in requirements(metadata)
        if r.name not in ("onnxcam", "onnxruntime-gpu", "pre-commit")
    }
    assert wanted.keys() == pins.keys()
    assert [f"{name} {pins[name]}" for name in wanted if pins[name] not in wanted[name]] == []


def test_the_oldest_versions_that_are_promised_are_tested(metadata: Message) -> None:
    tested = pinned("constraints-oldest.txt", "3.11")
    promised = {r.name: str(r.specifier).removeprefix(">=") for r in requirements(metadata) if r.name in tested}
    assert promised.keys() == tested.keys()
    assert [name for name in tested if not f"{tested[name]}.".startswith(f"{promised[name]}.")] == []
    product = ('extra == "cpu"', 'extra == "export"', 'extra == "serve"')
    others = {r.name for r in requirements(metadata) if r.marker is None or str(r.marker) in product}
    assert others - tested.keys() == set()


def test_the_manifest_describes_the_model() -> None:
    manifest = json.loads((ROOT / "models" / "manifest.json").read_text(encoding="utf-8"))
    content = (ROOT / "models" / MODEL).read_bytes()
    assert (manifest["file"], manifest["bytes"]) == (MODEL, len(content))
    assert manifest["sha256"] == hashlib.sha256(content).hexdigest()
    assert manifest["license"] == "Apache-2.0"


def test_the_changelog_has_this_version() -> None:
    newest = re.search(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)
    assert newest is not None
    assert newest[1] == onnxcam.__version__


def pinned(file: str, python: str) -> dict[str, str]:
    """The versions that ``file`` pins for that version of Python, by name."""
    pins: dict[str, str] = {}
    for line in (ROOT / file).read_text().splitlines():
        if line and not line.startswith("#"):
            pin = Requirement(line)
            if pin.marker is None or pin.marker.evaluate({"python_version": python}):
                assert canonicalize_name(pin.name) not in pins, f"{pin.name} is pinned twice"
                pins[canonicalize_name(pin.name)] = str(pin.specifier).removeprefix("==")
    return pins


def requirements(metadata: Message) -> list[Requirement]:
    return [Requirement(line) for line in metadata.get_all("Requires-Dist", [])]
