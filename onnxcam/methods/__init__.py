"""The CAM methods: pieces of ONNX graph on the feature map A and the gradients g = dy^c/dA, and those of the runtime.

A method of one's own is one decorated function, registered where it is defined and then called by its name::

    from onnxcam.methods import Site, method


    @method("absolute", equation="Σ_c |g · A|", paper="mine", needs="gradients")
    def absolute(at: Site):
        \"\"\"Where the score hangs on the feature map, for or against.\"\"\"
        return at.combine(at.op.Abs(at.op.Mul(at.gradients, at.activations)))


    onnxcam.attach("plain.onnx", method="absolute")
"""

# isort: off
# registers the methods, in this order
from onnxcam.methods import gradcam, shapley, elementwise, cam, finer, refine, eigen, fem, noise, ablation, recipro
from onnxcam.methods import picture, fullgrad, rollout, legrad, perturbation

# isort: on
from onnxcam.methods.fusion import fused
from onnxcam.methods.registry import (
    Attention,
    Backward,
    Head,
    Masks,
    Method,
    Rerun,
    Site,
    find_method,
    find_methods,
    graph_methods,
    method,
    methods,
)

__all__ = [
    "Attention",
    "Backward",
    "Head",
    "Masks",
    "Method",
    "Rerun",
    "Site",
    "ablation",
    "cam",
    "eigen",
    "elementwise",
    "fem",
    "find_method",
    "find_methods",
    "finer",
    "fullgrad",
    "fused",
    "gradcam",
    "graph_methods",
    "legrad",
    "method",
    "methods",
    "noise",
    "perturbation",
    "picture",
    "recipro",
    "refine",
    "rollout",
    "shapley",
]
