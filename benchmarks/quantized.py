"""How far the map of a quantised EfficientNet-lite0 is from that of the float model, in both of ONNX Runtime's forms.

    python benchmarks/quantized.py [--json FILE]

The model that ships, without its explanation, is quantised by ONNX Runtime (int8 weights per channel, uint8
activations), calibrated on the sample pictures. Float and quantised files are attached alike, and the Grad-CAM maps of
each picture's top class are compared: Pearson's correlation over the 7×7 map.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as passes
import onnxruntime
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

import onnxcam
from onnxcam.exporter.artifact import remove_explanation
from onnxcam.exporter.files import read_model, write_model
from onnxcam.runtime.shipped import shipped_model
from onnxcam.runtime.sources import VideoSource

SAMPLES = Path(__file__).parents[1] / "models" / "samples"


def pictures() -> list[np.ndarray]:
    """The sample picture, its halves, and every twelfth frame of the clip."""
    whole = cv2.imread(str(SAMPLES / "cat_and_coffee.jpg"))
    middle = whole.shape[1] // 2
    with VideoSource(SAMPLES / "cat_to_coffee.mp4") as clip:
        frames = [frame.picture for frame in clip]
    return [whole, whole[:, :middle], whole[:, middle:], *frames[::12]]


def write_float(path: Path) -> str:
    """The shipped model without its explanation and with float32 weights; gives the name of its input."""
    model = read_model(shipped_model())
    image = remove_explanation(model).image_input
    for node in list(model.graph):
        stored = node.inputs[0]
        if node.op_type == "Cast" and stored is not None and stored.const_value is not None:
            tensor = ir.tensor(stored.const_value.numpy().astype(np.float32), name=f"{stored.name}.float32")
            wide = ir.Value(name=tensor.name, const_value=tensor, type=node.outputs[0].type, shape=tensor.shape)
            model.graph.register_initializer(wide)
            ir.convenience.replace_all_uses_with(node.outputs[0], wide)
            model.graph.remove(node, safe=True)
    passes.RemoveUnusedNodesPass()(model)
    write_model(model, path)
    return image


class Calibration(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, name: str, tensors: list[np.ndarray]) -> None:
        self._feeds: Iterator[dict[str, np.ndarray]] = iter([{name: tensor[None]} for tensor in tensors])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._feeds, None)


def maps(path: Path, name: str, tensors: list[np.ndarray]) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return [session.run(["cam"], {name: tensor[None]})[0].ravel() for tensor in tensors]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    rows = []
    with tempfile.TemporaryDirectory() as temp, onnxcam.load() as shipped:
        folder = Path(temp)
        name = write_float(folder / "float.onnx")
        tensors = [shipped.prepare(picture).tensor for picture in pictures()]
        expected = maps(onnxcam.attach(folder / "float.onnx").path, name, tensors)
        print(f"{'form':<12}{'attach':<9}{'verify':>10}{'lowest':>9}{'median':>9}   of {len(tensors)} pictures")
        for form in (QuantFormat.QDQ, QuantFormat.QOperator):
            path = folder / f"{form.name}.onnx"
            quantize_static(
                str(folder / "float.onnx"),
                str(path),
                Calibration(name, tensors),
                quant_format=form,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
            )
            report = onnxcam.attach(path)
            same = [
                float(np.corrcoef(a, b)[0, 1]) for a, b in zip(expected, maps(report.path, name, tensors), strict=True)
            ]
            error = onnxcam.verify(report.path).largest_error
            outputs = "same" if report.errors["outputs"] == 0 else f"{report.errors['outputs']:.0e}"
            print(f"{form.name:<12}{outputs:<9}{error:>10.1e}{min(same):>9.4f}{np.median(same):>9.4f}")
            rows.append({"form": form.name, "outputs": report.errors["outputs"], "correlation": same})
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
