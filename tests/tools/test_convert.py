"""tools/convert.py: a converted BERT starts a run, a hostile file is one line."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np

from snp_jax.convert.bert import map_bert
from snp_jax.convert.files import write_state
from snp_jax.models.bert import BertConfig
from snp_jax.train import loop
from snp_jax.train.checkpoints import load_arrays
from snp_jax.train.restore import open_run

ROOT = Path(__file__).resolve().parents[2]


def convert(*arguments):
    command = [sys.executable, str(ROOT / "tools" / "convert.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300)


def test_a_run_starts_from_two_files(pretrained, tiny_config, tmp_path):
    """BERT from one file, everything else from another run."""
    vocab = open_run(pretrained).tokenizer.vocab_size
    bert = BertConfig(vocab_size=vocab, width=16, layers=1, heads=2, mlp_width=32, max_positions=16)
    rng = np.random.default_rng(0)
    state = {name: rng.standard_normal(rule.shape).astype(np.float32) for name, rule in map_bert(bert).items()}
    write_state(tmp_path / "bert.bin", state, {})
    done = convert("hf-bert", tmp_path / "bert.bin", tmp_path / "bert")
    assert done.returncode == 0, done.stderr
    assert "encoder: " in done.stdout and done.stdout.splitlines()[-1].startswith(f"{tmp_path / 'bert'}: written")

    config = tiny_config("retrieval", steps=0, init_from=(str(tmp_path / "bert"), str(pretrained)))
    assert loop.run(config, tmp_path / "run")
    started, converted, before = (
        load_arrays(find(tmp_path / "run")),
        load_arrays(tmp_path / "bert"),
        open_run(pretrained).params,
    )
    kernel = converted["pooler"]["dense"]["kernel"]
    np.testing.assert_array_equal(started["pooler"]["dense"]["kernel"], kernel)
    np.testing.assert_array_equal(started["visual_projection"]["kernel"], before["visual_projection"]["kernel"])
    np.testing.assert_array_equal(started["cross_pooler"]["dense"]["kernel"], before["cross_pooler"]["dense"]["kernel"])


def find(workdir):
    return workdir / "checkpoints" / "0"


class Call:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_hostile_file(tmp_path):
    path = tmp_path / "model.pth"
    path.write_bytes(pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(Call(tmp_path / "made"), 2))
    done = convert("torchvision-resnet50", path, tmp_path / "out")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and len(done.stderr.splitlines()) == 1
    assert "nothing in it was run" in done.stderr
    assert not (tmp_path / "made").exists() and not (tmp_path / "out").exists()
