"""Random weights: what a map looks like that knows nothing of the class."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from onnxcam.errors import MethodError
from onnxcam.methods.registry import Site, method

if TYPE_CHECKING:
    import onnx_ir as ir

_SEED: Final = 0


@method(
    "random",
    equation="ReLU(Σ_c w_c · A_c), w_c drawn once from -1 to 1",
    paper="pytorch-grad-cam, RandomCAM; see Adebayo et al., Sanity Checks for Saliency Maps, NeurIPS 2018",
    needs="activations",
    cost="a few nodes, and a weight for each channel in the file",
    smooths=True,
)
def random(at: Site) -> ir.Value:
    """The baseline that a method has to beat: channels weighted at random.

    The weights are drawn when the file is made, from a fixed seed: the same for every picture and every file.
    """
    import numpy as np
    import onnx_ir as ir

    op = at.op
    channels, _, _ = at.sizes
    if channels is None:
        raise MethodError("'random' needs to know how many channels the layer has, and this one leaves it open")
    weights = np.random.default_rng(_SEED).uniform(-1, 1, (1, channels, 1, 1)).astype(np.float32)
    name = f"random_{op.builder.graph.num_nodes()}"  # there may be several layers
    return op.Relu(at.weigh(op.initializer(ir.tensor(weights), name=name)))  # type: ignore[no-any-return]
