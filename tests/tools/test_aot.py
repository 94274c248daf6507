"""tools/aot.py: refusals without a TPU compiler, lowering for CUDA; with libtpu, real compilations (slow)."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
SMALL = """
from configs.toy import common

def get_config(arg=None):
    config = common.tiny("{task}")
    config.batch_size = 8
    config.clip.num_clips = 2
    config.model.dtype = "bfloat16"
    config.model.bert.layers = 2
    config.model.bert.remat = "full"
    config.text.tokenizer = config.text.words = None
    config.optim.name = "adamw"
    return config
"""
with_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed: pip install 'snp-jax[tpu-aot]'"
)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Paths of small configs by task."""
    folder = tmp_path_factory.mktemp("aot")
    for task in ("pretrain", "qa"):
        (folder / f"{task}.py").write_text(SMALL.format(task=task))
    return folder


def aot(*arguments):
    environment = {
        key: value for key, value in os.environ.items() if key not in ("XLA_FLAGS", "JAX_DISABLE_MOST_OPTIMIZATIONS")
    }
    environment["PYTHONPATH"] = str(ROOT)
    command = [sys.executable, "tools/aot.py", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def test_a_topology_that_does_not_exist_is_refused():
    done = aot("--config", "configs/pretrain/pvt.py", "--topology", "v5e:3x5")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and "v5e is offered as 2x2" in done.stderr and "Traceback" not in done.stderr


def test_a_number_of_gpus_that_makes_no_sense_is_refused():
    from snp_jax.aot.export import export_for_gpu
    from snp_jax.errors import UserError

    with pytest.raises(UserError, match="gpu:<number of GPUs>"):
        export_for_gpu(None, "gpu:many", 8, "train", None)


def test_without_libtpu_it_says_how_to_get_it(monkeypatch):
    from snp_jax.aot import chips
    from snp_jax.errors import UserError

    def version(name):
        raise chips.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(chips.importlib.metadata, "version", version)
    with pytest.raises(UserError, match=r"needs libtpu==0\.0\.\d+.*tpu-aot"):
        chips.check_libtpu()
    monkeypatch.setattr(chips.importlib.metadata, "version", {"libtpu": "0.0.52", "jax": "0.10.2"}.get)
    with pytest.raises(UserError, match=r"libtpu 0\.0\.52 is installed"):
        chips.check_libtpu()


@pytest.mark.slow
def test_lowering_for_gpus(small, tmp_path):
    out = tmp_path / "report.json"
    done = aot("--config", small / "qa.py", "--topology", "gpu:4", "--batch", 8, "--json", out)
    assert done.returncode == 0, done.stderr
    report = json.loads(out.read_text())
    assert report["devices"] == 4 and report["platforms"] == ["cuda"] and report["mesh"]["data"] == 4
    assert report["stablehlo_bytes"] > 10_000 and report["flops_per_device"] > 0


@pytest.mark.slow
@with_libtpu
def test_a_training_step_for_tpus(small, tmp_path):
    out = tmp_path / "report.json"
    done = aot("--config", small / "pretrain.py", "--topology", "v5e:2x2", "--batch", 16, "--json", out)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(out.read_text())
    assert report["fits"] and report["loops_of_unknown_length"] == []
    assert set(report["hbm_gib"]) == {"arguments", "temp", "output", "total", "limit"}
    assert 0 < report["hbm_gib"]["total"] < report["hbm_gib"]["limit"] == 15.75
    assert report["flops_per_device"] == pytest.approx(report["estimate"]["hlo_flops"], rel=0.05)  # two ways to count
    assert 0 < report["mfu"] < 1 and report["examples_per_s"] == pytest.approx(16 / report["estimated_step_s"])
    reductions = [each for each in report["collectives"] if each["kind"] in ("all-reduce", "reduce-scatter")]
    assert reductions and all(each["count"] >= 1 for each in report["collectives"])
    assert [budget["ok"] for budget in report["budgets"]] == [True, True]


@pytest.mark.slow
@with_libtpu
def test_a_step_that_does_not_fit_ends_with_a_sentence(small):
    done = aot("--config", small / "qa.py", "--topology", "v5e:2x2", "--batch", 2**18)
    assert done.returncode == 1
    assert "does not fit v5e:2x2: 65536 a device need" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.slow
@with_libtpu
def test_every_slice_can_be_described():
    source = """
from snp_jax.aot import chips
chips.prepare_environment(quick=True)
for generation, shapes in chips.SLICES.items():
    for shape in shapes:
        topology = chips.find_topology(f"{generation}:{shape}")
        assert len(chips.topology_devices(topology)) == topology.size, topology
"""
    subprocess.run([sys.executable, "-c", source], cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True)
