"""Files that are damaged are refused in one sentence that names all that is wrong; what is written is whole."""

from __future__ import annotations

import re

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import onnxcam
from onnxcam.errors import ModelSourceError, OutputError
from onnxcam.exporter import files
from onnxcam.exporter.files import read_model, write_model
from onnxcam.exporter.wire import read_without_weights, write_with_weights

from .graphs import cnn, random, run, save


def wide() -> onnx.ModelProto:
    """A graph with weights large enough to be left in the file."""
    return cnn(w1=(40, 3, 5, 5), b1=(40,), w2=(6, 40, 3, 3))


def refused(path) -> str:
    before = path.read_bytes()
    with pytest.raises(ModelSourceError) as error:
        read_model(path)
    with pytest.raises(ModelSourceError, match=re.escape(str(error.value))):
        onnxcam.attach(path)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir() if "cam" in p.name] == []
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello, this is text",
        b"<html>404</html>",
        b"\0" * 99,
        b"\x99 nonsense",
        b"\x08",
        b"version https://git-lfs",
    ],
)
def test_what_is_no_protobuf(tmp_path, content):
    (tmp_path / "m.onnx").write_bytes(content)
    assert "is not an ONNX file" in refused(tmp_path / "m.onnx")


def test_a_file_cut_short_anywhere_is_refused(tmp_path):
    whole = wide().SerializeToString()
    for at in [1, 2, 3, 10, 50, 100, *range(200, len(whole), 1777), len(whole) - 30, len(whole) - 3, len(whole) - 1]:
        (tmp_path / "m.onnx").write_bytes(whole[:at])
        with pytest.raises(ModelSourceError):
            read_model(tmp_path / "m.onnx")


def test_folders_and_missing_files(tmp_path):
    with pytest.raises(ModelSourceError, match="is not a file"):
        read_model(tmp_path)
    with pytest.raises(ModelSourceError, match="there is no file"):
        read_model(tmp_path / "m.onnx")


def test_every_value_that_nothing_gives_is_named(tmp_path, capfd):
    proto = cnn()
    proto.graph.node[1].input[0] = "nowhere"
    proto.graph.node[2].input[1] = "lost"
    message = refused(save(tmp_path / "m.onnx", proto))
    assert "Relu 'first' reads 'nowhere'" in message
    assert "Conv 'b' reads 'lost'" in message
    proto = cnn()
    proto.graph.output[0].name = "scores"
    assert "the output 'scores' is given by nothing" in refused(save(tmp_path / "m.onnx", proto))
    assert capfd.readouterr().err == ""


def test_values_that_nothing_gives_are_seen_in_branches_too(tmp_path):
    inner = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["lost"], ["t"])], "then", [], [vi("t")])
    other = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["first"], ["e"])], "else", [], [vi("e")])
    proto = cnn(yes=np.array(True))
    proto.graph.node.append(
        onnx.helper.make_node("If", ["yes"], ["chosen"], then_branch=inner, else_branch=other, name="choice")
    )
    assert "Relu 't' reads 'lost'" in refused(save(tmp_path / "m.onnx", proto))


def vi(name):
    return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)


def test_a_cycle(tmp_path):
    proto = cnn()
    proto.graph.node[1].input[0] = "last"
    assert "cycle" in refused(save(tmp_path / "m.onnx", proto))


def test_a_name_given_twice(tmp_path):
    proto = cnn()
    proto.graph.node[3].output[0] = "b"
    assert "'b' is redeclared" in refused(save(tmp_path / "m.onnx", proto))


@pytest.mark.parametrize("name", ["w1", "fc"])
def test_weights_that_do_not_fill_their_shape_are_named(tmp_path, name):
    proto = wide()
    (weight,) = [w for w in proto.graph.initializer if w.name == name]
    weight.raw_data = weight.raw_data[:-4]
    assert f"the weight '{name}'" in refused(save(tmp_path / "m.onnx", proto))


def external(proto, name: str, location: str) -> bytes:
    """Move the weight ``name`` to a file; gives what belongs there."""
    (weight,) = [w for w in proto.graph.initializer if w.name == name]
    content = weight.raw_data
    weight.ClearField("raw_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    for key, value in {"location": location, "offset": "0", "length": str(len(content))}.items():
        weight.external_data.add(key=key, value=value)
    return content


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("../w.data", "outside the model's folder"),
        ("/etc/passwd", "outside the model's folder"),
        ("gone.data", "is missing"),
        ("short.data", "5 of 864 bytes"),
    ],
)
def test_external_data_that_cannot_be_used(tmp_path, location, message):
    folder = tmp_path / "inner"
    folder.mkdir()
    proto = cnn()
    content = external(proto, "w2", location)
    (tmp_path / "w.data").write_bytes(content)
    (folder / "short.data").write_bytes(content[:5])
    assert message in refused(save(folder / "m.onnx", proto))


def test_all_problems_are_named_at_once(tmp_path):
    proto = cnn()
    external(proto, "w2", "gone.data")
    external(proto, "w1", "../w.data")
    proto.graph.node[1].input[0] = "nowhere"
    message = refused(save(tmp_path / "m.onnx", proto))
    for part in ("'gone.data', which is missing", "'../w.data', outside", "reads 'nowhere'"):
        assert part in message


def test_external_data_become_part_of_the_artifact(tmp_path):
    plain = run(save(tmp_path / "m.onnx", wide()), image=random(2, 3, 13, 10))
    proto = wide()
    (tmp_path / "w.data").write_bytes(external(proto, "w2", "w.data"))
    source = save(tmp_path / "m.onnx", proto)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    path = onnxcam.attach(source, elsewhere / "m.cam.onnx").path
    (tmp_path / "w.data").unlink()
    np.testing.assert_allclose(run(path, image=random(2, 3, 13, 10))["logits"], plain["logits"], rtol=1e-6)
    assert [p.name for p in elsewhere.iterdir()] == ["m.cam.onnx"]
    assert onnxcam.verify(path).passed


def test_weights_beyond_one_file_go_beside_it_and_move_with_it(tmp_path, monkeypatch):
    plain = run(save(tmp_path / "m.onnx", wide()), image=random(2, 3, 13, 10))
    monkeypatch.setattr(files, "_LARGEST_FILE", 1000)
    path = onnxcam.attach(tmp_path / "m.onnx").path
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.cam.onnx", "m.cam.onnx.data", "m.onnx"]
    assert path.stat().st_size < 12_000
    np.testing.assert_allclose(run(path, image=random(2, 3, 13, 10))["logits"], plain["logits"], rtol=1e-6)
    moved = tmp_path / "moved"
    moved.mkdir()
    for name in ("m.cam.onnx", "m.cam.onnx.data"):
        (tmp_path / name).rename(moved / name)
    assert onnxcam.verify(moved / "m.cam.onnx").passed
    renewed = onnxcam.attach(moved / "m.cam.onnx", replace=True, layer="first").path
    assert onnxcam.verify(renewed).passed
    assert sorted(p.name for p in moved.iterdir()) == ["m.cam.onnx", "m.cam.onnx.data"]


def test_reading_leaves_large_weights_in_the_file(tmp_path):
    path = save(tmp_path / "m.onnx", wide())
    slim = read_without_weights(path)
    assert slim.ByteSize() < 3000
    read = read_model(path)
    for proto in wide().graph.initializer:
        weight = read.graph.initializers[proto.name].const_value
        np.testing.assert_array_equal(weight.numpy(), onnx.numpy_helper.to_array(proto))
        assert isinstance(weight, ir.ExternalTensor) == (len(proto.raw_data) >= 4096)


def test_what_is_written_is_what_onnx_itself_would_write(tmp_path):
    proto = wide()
    proto.metadata_props.add(key="who", value="ü")
    proto.graph.initializer[0].doc_string = "kernel"
    for array, name in [
        (np.arange(6000, dtype=np.float16), "half"),
        (np.arange(6000, dtype=np.int64), "whole"),
        (np.array([b"a" * 5000, b"b"], dtype=object), "text"),
        (np.zeros((0, 3), np.float32), "none"),
    ]:
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    proto.graph.initializer.append(onnx.helper.make_tensor("tiny", onnx.TensorProto.INT4, [9001], [3] * 9001))
    proto.graph.initializer.append(onnx.helper.make_tensor("listed", onnx.TensorProto.FLOAT, [2000], [0.5] * 2000))
    proto.graph.initializer.append(onnx.helper.make_tensor("brain", onnx.TensorProto.BFLOAT16, [3000], [1.5] * 3000))
    read = read_model(save(tmp_path / "m.onnx", proto))
    order = list(read.graph.initializers)
    with (tmp_path / "n.onnx").open("wb") as file:
        write_with_weights(read, file)
    assert list(read.graph.initializers) == order
    written = onnx.load(tmp_path / "n.onnx")
    assert written.metadata_props[0].value == "ü"
    assert [n.op_type for n in written.graph.node] == [n.op_type for n in proto.graph.node]
    was = {w.name: w for w in proto.graph.initializer}
    assert sorted(was) == sorted(w.name for w in written.graph.initializer)
    for weight in written.graph.initializer:
        assert weight.data_location == onnx.TensorProto.DEFAULT
        assert weight.doc_string == was[weight.name].doc_string
        a, b = (onnx.numpy_helper.to_array(w) for w in (weight, was[weight.name]))
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def test_a_failure_leaves_an_older_artifact_as_it_was(tmp_path, monkeypatch):
    source, path = save(tmp_path / "m.onnx", cnn()), tmp_path / "m.cam.onnx"
    path.write_bytes(b"older")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("onnxcam.exporter.files.write_with_weights", fail)
    with pytest.raises(OutputError, match="No space left"):
        onnxcam.attach(source)
    assert sorted((p.name, p.stat().st_size) for p in tmp_path.iterdir()) == [
        ("m.cam.onnx", 5),
        ("m.onnx", source.stat().st_size),
    ]


def test_a_source_behind_a_link(tmp_path):
    (tmp_path / "store").mkdir()
    save(tmp_path / "store" / "8f3a", wide())
    (tmp_path / "m.onnx").symlink_to(tmp_path / "store" / "8f3a")
    path = onnxcam.attach(tmp_path / "m.onnx").path
    assert path == tmp_path / "m.cam.onnx"
    assert onnxcam.verify(path).passed


def test_a_model_can_be_written_over_the_file_its_weights_are_in(tmp_path):
    path = save(tmp_path / "m.onnx", wide())
    read = read_model(path)
    write_model(read, path)
    again = read_model(path)
    for name, value in again.graph.initializers.items():
        np.testing.assert_array_equal(value.const_value.numpy(), read.graph.initializers[name].const_value.numpy())
