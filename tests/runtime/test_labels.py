"""What users call a class."""

from __future__ import annotations

import pytest

from onnxcam.errors import ClassError
from onnxcam.runtime.labels import class_named

LABELS = ("tabby, tabby cat", "crane", "tiger", "tiger, big cat", "crane")


@pytest.mark.parametrize(
    ("name", "index"),
    [("Tabby Cat", 0), ("tabby, tabby cat", 0), (" TABBY ", 0), ("tiger", 2), ("big  cat", 3)],
)
def test_a_label_or_a_synonym_whatever_the_case(name, index):
    assert class_named(name, LABELS) == index


@pytest.mark.parametrize(
    ("name", "labels", "message"),
    [
        ("crane", LABELS, "'crane' is the name of classes 1, 4: give the number"),
        ("taby", LABELS, "no class 'taby': did you mean 'tabby'"),
        ("zzz", LABELS, "no class 'zzz'$"),
        ("tabby", None, "no labels, so give the number"),
    ],
)
def test_a_name_of_none_or_several_is_refused(name, labels, message):
    with pytest.raises(ClassError, match=message):
        class_named(name, labels)
