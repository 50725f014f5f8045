"""Operators without a rule, each with the reason: no derivative by nature, or refused.

Together with the rules, and the functions that onnx states for operators, this sorts every operator of the standard.
"""

from __future__ import annotations

__all__: list[str] = []

from onnxcam.autodiff.registry import refuse, without_adjoint

# No derivative by nature

without_adjoint("And", "Not", "Or", "Xor", why="of booleans")
without_adjoint("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "IsInf", "IsNaN", why="gives booleans")
without_adjoint("BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor", why="of integers")
without_adjoint("BitCast", why="reads the bits as those of another type")
without_adjoint("ArgMax", "ArgMin", "NonMaxSuppression", "NonZero", why="gives indices")
without_adjoint(
    "Shape", "Size", "SequenceLength", "OptionalHasElement", why="reads the shape or presence, not the values"
)
without_adjoint("EyeLike", "RandomNormalLike", "RandomUniformLike", why="reads the shape, not the values")
without_adjoint("Sign", "Ceil", "Floor", "Round", "Hardmax", why="is constant between its steps")
without_adjoint("Bernoulli", "Multinomial", why="draws at random: the input is the chance, and samples jump")
without_adjoint("MelWeightMatrix", why="rounds its frequencies to bins")
without_adjoint("Constant", "RandomNormal", "RandomUniform", "SequenceEmpty", why="has no input")
without_adjoint("ConstantOfShape", "BlackmanWindow", "HammingWindow", "HannWindow", why="reads a size")
without_adjoint("ImageDecoder", why="reads bytes")
without_adjoint("RegexFullMatch", "StringConcat", "StringNormalizer", "StringSplit", why="reads strings")
without_adjoint("TfIdfVectorizer", why="counts words")

without_adjoint("CastLike", inputs=(1,), why="reads the type, not the values")
without_adjoint("Range", inputs=(1,), why="decides on the number of values alone")

# Refused: there is a derivative

_SEQUENCES = "sequences carry no adjoints: use Concat, Split and Gather on tensors"
refuse("SequenceAt", "SequenceConstruct", "SequenceErase", "SequenceInsert", "SequenceMap", why=_SEQUENCES)
refuse("ConcatFromSequence", "SplitToSequence", why=_SEQUENCES)
refuse("Optional", "OptionalGetElement", why="optional values carry no adjoints: use the tensor itself")
refuse("Unique", why="the number of values depends on the values")
refuse("Det", why="its derivative needs an inverse, which is no ONNX operator")
refuse("MaxRoiPool", why="no rule is written for it: use RoiAlign")
refuse("STFT", why="no rule is written for it: take the frames with Gather and transform them with DFT")
refuse("DeformConv", why="no rule is written for it")
refuse("LinearAttention", why="onnx does not infer the ranks within its Scan: write the recurrence as a Scan itself")
