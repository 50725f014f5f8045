"""Methods that run the model on changed pictures: they are chosen when a file runs, and no part of its graph.

What carries them out is `onnxcam.runtime.perturbation`, which a file can do with no package of the export's. x is the
model's input behind preprocessing, M ∘ x an input under a mask M of 0-1, U enlarges bilinearly to the model's input,
and s scales to 0-1 by minimum and maximum. y is the class score before softmax, p the class's probability.
"""

from __future__ import annotations

__all__: list[str] = []

from onnxcam.methods.registry import describe

describe(
    "scorecam",
    "Channels weighted by the score that is left where only they show the picture.",
    equation="ReLU(Σ_k w_k · A_k), w = softmax_k(y(x ∘ s(U(A_k))))",
    paper="Wang et al., Score-CAM: Score-Weighted Visual Explanations for Convolutional Neural Networks, "
    "CVPR Workshops 2020, algorithm 1",
    reads="activations",
    cost="a run for each channel that is not flat",
)
describe(
    "sscam",
    "Score-CAM with each mask's score averaged over noisy copies of the mask.",
    equation="ReLU(Σ_k w_k · A_k), w = softmax_k(mean_i y(x ∘ (s(U(A_k)) + n_i))), n_i ~ N(0, σ²)",
    paper="Wang et al., SS-CAM: Smoothed Score-CAM for Sharper Visual Feature Localization, arXiv 2006.14255, 2020",
    reads="activations",
    cost="10 runs for each channel that is not flat",
)
describe(
    "iscam",
    "Score-CAM with each mask's score averaged while the mask builds up.",
    equation="ReLU(Σ_k w_k · A_k), w = softmax_k(mean_i y(c_i · x ∘ s(U(A_k)))), c_i = Σ_{j<i} j/N, i = 1…N",
    paper="Naidu et al., IS-CAM: Integrated Score-CAM for axiomatic-based explanations, arXiv 2010.03023, 2020",
    reads="activations",
    cost="10 runs for each channel that is not flat",
)
describe(
    "smoothgradcam++",
    "Grad-CAM++ of derivatives averaged over noisy copies of the picture.",
    equation="ReLU(Σ_c w_c · A_c), w_c = Σ_s α · ReLU(D_1), α = D_2 / (2D_2 + D_3 · Σ_s A_c), D_p = mean_i gᵖ(x + n_i)",
    paper="Omeiza et al., Smooth Grad-CAM++: An Enhanced Inference Level Visualization Technique for Deep "
    "Convolutional Neural Network Models, arXiv 1908.01224, 2019",
    reads="gradients",
    cost="5 runs",
)
describe(
    "smoothgrad",
    "The pixels that the score hangs on, averaged over noisy copies of the picture.",
    equation="max_c |mean_i ∂y/∂x(x + n_i)|, c a colour, n_i ~ N(0, (σ · range of x)²)",
    paper="Smilkov et al., SmoothGrad: removing noise by adding noise, arXiv 1706.03825, 2017",
    reads="input gradients",
    cost="50 runs",
)
describe(
    "integrated-gradients",
    "What each pixel adds to the score on the way from an empty picture; the map adds up to y(x) - y(0).",
    equation="Σ_c x · ∫₀¹ ∂y/∂x(t · x) dt, c a colour",
    paper="Sundararajan et al., Axiomatic Attribution for Deep Networks, ICML 2017, eq. 1",
    reads="input gradients",
    cost="50 runs",
)
describe(
    "rise",
    "How likely the class is where a pixel shows, over random masks, above its mean; the model is a black box.",
    equation="Σ_i p(x ∘ M_i) · M_i / (N · E[M]) - mean_i p(x ∘ M_i), M_i 7 × 7 random cells, enlarged and shifted",
    paper="Petsiuk et al., RISE: Randomized Input Sampling for Explanation of Black-box Models, BMVC 2018, eq. 6",
    reads="scores",
    cost="4000 runs",
)
describe(
    "occlusion",
    "What the class's probability loses where a square is hidden; the model is a black box.",
    equation="mean over the squares on a pixel of p(x) - p(x without the square)",
    paper="Zeiler and Fergus, Visualizing and Understanding Convolutional Networks, ECCV 2014, section 4.2",
    reads="scores",
    cost="a run for each place of the square, 169 at 224 × 224",
)
