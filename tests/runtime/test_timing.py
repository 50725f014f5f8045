"""Files timed in turns, and where their time goes."""

from __future__ import annotations

import pytest

from onnxcam.errors import ArtifactError
from onnxcam.runtime.bench import measure
from onnxcam.runtime.profiling import NodeTime, profile, shares
from onnxcam.runtime.shipped import shipped_model
from onnxcam.runtime.timing import Runner, Spread, alternated, ratios

IMAGE = {"image": ([1, 3, 224, 224], "float32")}


class Recorded:
    """A runner that takes as long as its list says, and notes when it was asked."""

    def __init__(self, name, asked, times):
        self.name, self.asked, self.times = name, asked, iter(times)

    def time(self, seconds):
        self.asked.append(self.name)
        return next(self.times)


def test_files_take_turns_from_either_end_and_neighbouring_turns_are_compared():
    asked = []
    runners = [Recorded("a", asked, [1, 2, 4]), Recorded("b", asked, [1.5, 2, 8])]
    times = list(alternated(runners, rounds=3, seconds=0.1))
    assert asked == ["a", "b", "b", "a", "a", "b"]
    assert times == [(1, 1.5), (2, 2), (4, 8)]
    assert ratios(times) == Spread(1.25, 1.5, 1.75)  # of 1.5, 1 and 2


def test_a_spread_reads_as_median_and_quartiles():
    assert f"{Spread(0.98, 1.0, 1.06).times(10):.1f}" == "10.0 (9.8-10.6)"


def test_a_runner_tells_time_start_and_memory():
    with Runner(shipped_model(), IMAGE, threads=1, providers="cpu") as runner:
        assert 0 < runner.time(0.05) < 60
        assert 0 < runner.start < 60
        held = runner.memory()
        assert held is None or held > shipped_model().stat().st_size


def test_a_file_that_cannot_be_run_is_a_sentence(tmp_path):
    (tmp_path / "cut.onnx").write_bytes(shipped_model().read_bytes()[:5000])
    with pytest.raises(ArtifactError, match=r"cut\.onnx' cannot be run: "):
        Runner(tmp_path / "cut.onnx", IMAGE, threads=1)


def test_every_node_has_a_part_and_a_provider():
    nodes = profile(shipped_model(), IMAGE, threads=1, providers="cpu", runs=2)
    assert {node.provider for node in nodes} == {"CPUExecutionProvider"}
    assert {node.part for node in nodes} == {"model", "gradient", "explanation"}
    assert any(node.operator == "Conv" and node.part == "model" for node in nodes)
    assert not any(node.operator == "Conv" and node.part != "model" for node in nodes)


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("node_Conv_877_nchwc", "model"),
        ("ReorderOutput_token_140", "model"),
        ("my_gradient/Mul", "model"),
        ("gradient_reversal/Neg", "model"),
        ("explanation_head.0/Conv", "model"),
        ("gradient/Mul_node_123", "gradient"),
        ("gradient_12/Mul_node_123", "gradient"),
        ("v_gradient.Conv_113_nchwc", "gradient"),
        ("v_gradient_2.Cast_110_HardSigmoid_0", "gradient"),
        ("gradients_once_Mul", "gradient"),
        ("explanation/Relu_node_115", "explanation"),
        ("v_explanation.Add_124_once_Add", "explanation"),
    ],
)
def test_a_node_belongs_to_the_part_that_named_it(name, part):
    assert NodeTime(name, "Mul", "CPU", 1e-3).part == part


def test_shares_are_of_the_whole():
    nodes = [
        NodeTime("node_Conv", "Conv", "CPU", 3e-3),
        NodeTime("gradient/Mul_1", "Mul", "CPU", 0.5e-3),
        NodeTime("explanation/Relu_2", "Relu", "CPU", 0.5e-3),
    ]
    assert shares(nodes) == {"model": 0.75, "gradient": 0.125, "explanation": 0.125}


def test_the_explaining_side_is_measured_alone_where_there_is_no_other():
    told = []
    result = measure(shipped_model(), plain=None, threads=1, rounds=2, seconds=0.01, progress=told.append)
    assert list(result.sides) == ["explained"]
    assert result.ratio is None
    assert result.frame is not None
    assert told == [0.5, 1.0]
