"""The benchmark of the training step: its book-keeping, and (slow) a run of all of it with a tiny network."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def timing(load_benchmark):
    return load_benchmark("timing")


def test_rounds_are_interleaved_and_a_stopped_run_goes_on(timing, tmp_path):
    file, order = tmp_path / "deep" / "results.json", []
    competitors = {name: (lambda name=name: order.append(name)) for name in ("a", "b")}
    timing.interleave(timing.Results(file, {"size": 1}, resume=True), "part", competitors, 2)
    assert order == ["a", "b", "b", "a"]
    content = json.loads(file.read_text())
    content["samples"]["part"] = {"a": [1.0, 3.0, 2.0], "b": [5.0]}
    file.write_text(json.dumps(content))

    order.clear()
    results = timing.Results(file, {"size": 1}, resume=True)
    timing.interleave(results, "part", competitors, 3)
    assert order == ["b", "b"]
    assert results.medians("part")["a"] == 2.0 and len(results.samples("part", "b")) == 3
    assert timing.Results(file, {"size": 1}, resume=False).medians("part") == {}
    with pytest.raises(SystemExit, match="other settings"):
        timing.Results(file, {"size": 2}, resume=True)


@pytest.mark.slow
def test_everything_runs_with_a_tiny_network(tmp_path):
    """Both sides' losses are equal, or the script says so and fails; every ratio and curve is in the file."""
    pytest.importorskip("transformers", reason="the peer needs PyTorch and transformers (pip install '.[parity]')")
    file, image = tmp_path / "step.json", tmp_path / "step.png"
    command = [sys.executable, BENCHMARKS / "step.py", "--quick", "--json", file, "--picture", image]
    subprocess.run(command, check=True, cwd=BENCHMARKS.parent)
    content = json.loads(file.read_text())
    names = {"train_vs_torch_eager", "train_equal_work_vs_torch_eager", "train_vs_torch_compile", "infer_vs_torch_eager"}
    assert names <= content["ratio"].keys() and all(value > 0 for value in content["ratio"].values())
    assert all(value <= 1e-4 for terms in content["loss_difference"].values() for value in terms.values())
    memory = [point["temp_mib"] for point in content["scaling"]["pairs, chunk 32"]]
    assert memory[-1] < 1.2 * memory[0]
    assert image.stat().st_size > 10_000


@pytest.mark.slow
def test_the_gpu_benchmark_runs_without_one(tmp_path):
    pytest.importorskip("transformers", reason="the peer needs PyTorch and transformers (pip install '.[parity]')")
    file, ours = tmp_path / "gpu.json", "ours, real captions, float32"
    command = [sys.executable, BENCHMARKS / "gpu.py", "--quick", "--pairs", "8", "--json", file]
    subprocess.run([*command, "--only", "torch eager, float32", ours], check=True, cwd=BENCHMARKS.parent)
    content = json.loads(file.read_text())
    assert max(content["difference"][ours].values()) < 1e-4 and content["ratio"]["train_f32_vs_torch_eager"] > 0
