"""Damaged files give what can be read of them, or one sentence: no traceback, no hang, no crash."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import cv2
import pytest

from .damage import MUTATIONS, PICTURES, VIDEOS, complaint, damaged, originals

ROOT = Path(__file__).parents[2]
SEED, COUNT = 1, 200


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("damaged")
    picture = cv2.imread(str(ROOT / "models" / "samples" / "cat_and_coffee.jpg"))
    assert picture is not None
    originals(path, cv2.resize(picture, (164, 96), interpolation=cv2.INTER_AREA))
    return path


def test_undamaged_they_can_be_read(folder: Path) -> None:
    for suffix in (*PICTURES, *VIDEOS):
        assert complaint(folder / f"whole{suffix}") is None


def test_the_mutations_are_seeded_and_change_every_kind_of_file(folder: Path) -> None:
    first = [damaged(folder, SEED, number).read_bytes() for number in range(20)]
    assert first == [damaged(folder, SEED, number).read_bytes() for number in range(20)]
    assert len(set(first)) == 20
    assert len(MUTATIONS) == 6


def test_two_hundred_damaged_files(folder: Path) -> None:
    """In a process of its own, so that a crash of a decoder is seen."""
    result = subprocess.run(
        [sys.executable, str(Path(__file__).parent / "damage.py"), str(folder), str(SEED), "0", str(COUNT)],
        capture_output=True,
        text=True,
        timeout=100,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    numbers = result.stdout.split()
    assert result.returncode == 0, f"at file {numbers[-1:]}: {result.stderr[-3000:]}"
    assert numbers == [str(number) for number in range(COUNT)]
