"""Training runs as commands of their own, for tests that kill them or run several processes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
_CONFIG = """import json
from ml_collections import ConfigDict


def get_config(arg=None):
    return ConfigDict(json.loads({!r}))
"""


@pytest.fixture
def start_training(tmp_path: Path) -> Callable[..., subprocess.Popen]:
    """`start_training(config, workdir, *arguments, launcher=())`: the command, started. Its standard error is a pipe."""
    started = []

    def start(config, workdir, *arguments, launcher=()):
        file = tmp_path / f"config_{len(started)}.py"
        file.write_text(_CONFIG.format(json.dumps(config.to_dict())))
        command = ["python", "-m", "snp_jax.train", "--config", str(file), "--workdir", str(workdir), *arguments]
        command = [sys.executable, *(launcher or command[1:]), *(("--", *command) if launcher else ())]
        process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stderr.close()


@pytest.fixture
def quick_config(tiny_config):
    """`quick_config(**train)`: retrieval by stage 1 alone, which compiles in little time."""

    def make(**train):
        config = tiny_config("retrieval", **train)
        config.objective.weights.gvtm_stage2 = 0.0
        return config

    return make
