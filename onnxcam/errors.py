"""Every exception onnxcam raises on purpose.

::

    OnnxCamError                      one sentence: what, where, what to do next
    ├── MissingExtraError             an optional part of the installation is not there
    ├── AutodiffError                 a graph cannot be differentiated
    │   ├── IndependentError          nothing to differentiate: no change in one value changes the other
    │   └── UnsupportedOperatorError  names every node on the path that has no rule
    ├── ExportError                   no artifact could be made
    │   ├── ModelSourceError          the model to export cannot be found, built or loaded
    │   ├── LayerError                the target layer is unknown or cannot carry a map
    │   ├── MethodError               the method is unknown or does not fit this model
    │   └── VerificationError         the artifact disagrees with its reference
    ├── ArtifactError                 a file is no artifact this version can run
    ├── ProviderError                 an execution provider is not installed
    ├── ClassError                    the class asked for does not exist
    ├── InputError                    a picture or video cannot be read
    ├── OutputError                   a result cannot be written
    └── ServerError                   the page cannot be served where it was asked for
"""

from __future__ import annotations

__all__ = [
    "ArtifactError",
    "AutodiffError",
    "ClassError",
    "ExportError",
    "IndependentError",
    "InputError",
    "LayerError",
    "MethodError",
    "MissingExtraError",
    "ModelSourceError",
    "OnnxCamError",
    "OutputError",
    "ProviderError",
    "ServerError",
    "UnsupportedOperatorError",
    "VerificationError",
    "nearest_names",
    "unknown_name",
]

from collections.abc import Iterable, Sequence
from difflib import get_close_matches


class OnnxCamError(Exception):
    """Anything onnxcam refuses. The message is one sentence fit for a user."""


class MissingExtraError(OnnxCamError):
    """An optional dependency is missing; the message names the extra to install."""


class AutodiffError(OnnxCamError):
    """A graph cannot be differentiated as asked."""


class IndependentError(AutodiffError):
    """The value to differentiate does not depend on the other one, or by steps alone: its gradient is zero."""


class UnsupportedOperatorError(AutodiffError):
    """Nodes on the path from the score to the target have no derivative rule that covers them."""


class ExportError(OnnxCamError):
    """No artifact could be made from the model."""


class ModelSourceError(ExportError):
    """The model to export cannot be found, built or loaded."""


class LayerError(ExportError):
    """The target layer is unknown, not on the way to the score, or has no spatial extent."""


class MethodError(ExportError):
    """The method is unknown, or the model does not have what it needs."""


class VerificationError(ExportError):
    """The artifact's numbers disagree with the reference by more than the tolerance."""


class ArtifactError(OnnxCamError):
    """A file is not an artifact, is damaged, or was made for a newer contract."""


class ProviderError(OnnxCamError):
    """An execution provider was asked for that is not installed."""


class ClassError(OnnxCamError):
    """The class to explain does not exist in this model."""


class InputError(OnnxCamError):
    """A picture or video cannot be read."""


class OutputError(OnnxCamError):
    """A result cannot be written where it was asked for."""


class ServerError(OnnxCamError):
    """The page cannot be served at the address that was asked for."""


def nearest_names(name: str, known: Iterable[str], *, count: int = 3) -> str:
    """``"did you mean 'a', 'b'?"`` for a name that is not among ``known``; empty if nothing is near."""
    by_folded = {candidate.casefold(): candidate for candidate in known}
    folded = name.casefold()
    near = [c for c in by_folded if folded in c][:count] if len(folded) >= 3 else []
    near += [c for c in get_close_matches(folded, by_folded, n=count) if c not in near]
    if not near:
        return ""
    return "did you mean " + ", ".join(f"'{by_folded[c]}'" for c in near[:count]) + "?"


def unknown_name(what: str, name: str, known: Sequence[str]) -> str:
    """The sentence that refuses ``name``, with the nearest of those that are ``known``, or all of them."""
    return f"there is no {what} '{name}': {nearest_names(name, known) or 'take one of ' + ', '.join(known)}"
