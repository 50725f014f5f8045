"""Small videos and a small artifact whose answers one can tell by looking."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import onnx
from numpy.typing import NDArray

from onnxcam.contract import METADATA_KEY, ArtifactInfo, LayerInfo, Preprocess, ScoreInfo

RED, GREEN, BLUE, GRAY = (0, 0, 255), (0, 255, 0), (255, 0, 0), (128, 128, 128)
RATE = 25
SOUND_RATE = 44100


def plain(color: tuple[int, int, int], height: int = 24, width: int = 34) -> NDArray[np.uint8]:
    """A picture of one BGR colour."""
    return np.full((height, width, 3), color, np.uint8)


def write_clip(
    path: Path,
    pictures: Sequence[NDArray[np.uint8]],
    *,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    pts: Sequence[int] | None = None,
    time_base: Fraction = Fraction(1, RATE),
    sound: str | None = None,
    seconds: float | None = None,
    rotation: tuple[float, bool] | None = None,
    faststart: bool = False,
    **options: str,
) -> Path:
    """``pictures`` as a video at 25 per second or at ``pts``, with a tone in codec ``sound``, of the same length
    or of so many ``seconds``."""
    height, width = pictures[0].shape[:2]
    with av.open(str(path), "w", options={"movflags": "+faststart"} if faststart else {}) as output:
        stream: Any = output.add_stream(codec, rate=RATE, options=options)  # type: ignore[call-overload]
        stream.width, stream.height, stream.pix_fmt = width, height, pixels
        stream.codec_context.time_base = stream.time_base = time_base
        if rotation is not None:
            stream.set_display_rotation(rotation[0], hflip=rotation[1])
        tone: Any = output.add_stream(sound, rate=SOUND_RATE, layout="mono") if sound else None
        for index, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="bgr24").reformat(format=pixels, interpolation=0x40002)
            frame.pts, frame.time_base = pts[index] if pts else index, time_base
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
        if tone:
            length = round((seconds or len(pictures) / RATE) * SOUND_RATE)
            wave = 0.3 * np.sin(np.arange(length) * 2 * np.pi * 440 / SOUND_RATE)
            samples = av.AudioFrame.from_ndarray((wave * 32767).astype(np.int16)[None], format="s16", layout="mono")
            samples.sample_rate, samples.pts, samples.time_base = SOUND_RATE, 0, Fraction(1, SOUND_RATE)
            output.mux(tone.encode(samples))
            output.mux(tone.encode(None))
    return path


def times(path: Path) -> list[Fraction]:
    """The time stamps of the frames, in seconds, as FFmpeg decodes them."""
    with av.open(str(path)) as clip:
        return [frame.pts * frame.time_base for frame in clip.decode(video=0)]


def packets(path: Path) -> list[tuple[int, bytes]]:
    """Time stamp and content of the packets of sound."""
    with av.open(str(path)) as clip:
        return [(packet.pts, bytes(packet)) for packet in clip.demux(audio=0) if packet.size]


def pictures(path: Path) -> list[NDArray[np.uint8]]:
    """The frames as FFmpeg decodes them, uint8 BGR."""
    with av.open(str(path)) as clip:
        return [frame.to_ndarray(format="bgr24") for frame in clip.decode(video=0)]


def color_artifact(path: Path) -> Path:
    """An artifact whose classes are red, green and blue: the score is the colour's mean, the map its 6×8 plane."""
    model = onnx.parser.parse_model(
        """
        <ir_version: 9, opset_import: ["" : 18]>
        colors (float[N, 3, 6, 8] image, int64[M] class_index) => (float[N, 3] scores, float[N, 6, 8] cam,
                                                                   int64[N] explained_class)
        <int64[1] class_index = {-1}, int64[2] sides = {2, 3}, int64[1] colors = {1}, int64 zero = {0},
         int64 three = {3}, float[2] values = {0, 1}>
        {
            scores = ReduceMean<keepdims=0>(image, sides)
            top = ArgMax<axis=1, keepdims=0>(scores)
            ranked = Less(class_index, zero)
            explained_class = Where(ranked, top, class_index)
            one = OneHot(explained_class, three, values)
            mask = Unsqueeze(one, sides)
            masked = Mul(image, mask)
            cam = ReduceSum<keepdims=0>(masked, colors)
        }
        """
    )
    info = ArtifactInfo(
        onnxcam="0",
        image_input="image",
        layers=(LayerInfo(name="image", layout="NCHW", shape=(None, 3, 6, 8)),),
        methods=("gradcam",),
        score=ScoreInfo(output="scores", activation="identity", classes=3),
        preprocess=Preprocess(height=6, width=8, resize="stretch", mean=(0, 0, 0), std=(1, 1, 1)),
        labels=("red", "green", "blue"),
    )
    onnx.helper.set_model_props(model, {METADATA_KEY: info.to_json()})
    onnx.save(model, path)
    return path
