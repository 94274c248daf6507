"""Foreign weights become checkpoints and come back bit for bit; a mistake leaves nothing behind."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from snp_jax.convert.bert import map_bert
from snp_jax.convert.files import read_state, write_state
from snp_jax.errors import UserError
from snp_jax.models.bert import BertConfig
from snp_jax.train import checkpoints
from snp_jax.train.checkpoints import find_checkpoint, load_arrays
from snp_jax.train.restore import open_run
from snp_jax.train.weights import ORIGIN, describe, export_weights, import_weights

TINY = BertConfig(vocab_size=120, width=16, layers=1, heads=2, mlp_width=32, max_positions=20)
"""The BERT of `tiny_config`, with more positions."""


def random_bert(path, config=TINY, **extra):
    rng = np.random.default_rng(0)
    state = {name: rng.standard_normal(rule.shape).astype(np.float32) for name, rule in map_bert(config, "bert.").items()}
    write_state(path, state | extra, {})
    return path


def convert(kind, source, destination, config=None, resize=False, partial=False):
    return import_weights(kind, source, destination, config=config, resize=resize, partial=partial)


def same_arrays(first, second):
    first, second = read_state(first), read_state(second)
    assert first.keys() == second.keys()
    for name, array in first.items():
        assert array.dtype == second[name].dtype
        np.testing.assert_array_equal(array, second[name])


def test_a_run_goes_to_the_release_and_back(pretrained, tiny_config, tmp_path):
    export_weights(pretrained, tmp_path / "snp.safetensors")
    names = read_state(tmp_path / "snp.safetensors").keys()
    assert "model.module.cross_encoder.layer.0.output.dense.bias" in names  # the release's second name of a shared array
    imported = convert("antmmf", tmp_path / "snp.safetensors", tmp_path / "snp", config=tiny_config("pretrain"))
    assert not imported.missing and all(".img_encoder.model.head." in name for name in imported.unused)
    wanted = open_run(pretrained).params
    jax.tree.map(np.testing.assert_array_equal, load_arrays(tmp_path / "snp"), dict(wanted))
    export_weights(tmp_path / "snp", tmp_path / "again.safetensors")
    same_arrays(tmp_path / "snp.safetensors", tmp_path / "again.safetensors")


def test_convert_and_export_give_the_file_back(tmp_path):
    """Arrays that no model of ours has come back too."""
    extra = {"cls.seq_relationship.weight": np.ones((2, 16), np.float32), "bert.embeddings.position_ids": np.arange(20)[None]}
    source = random_bert(tmp_path / "model.bin", **extra)
    imported = convert("hf-bert", source, tmp_path / "bert")
    report = describe(imported).splitlines()
    assert "embeddings: 2,304 parameters" in report
    assert "unused: cls.seq_relationship.weight (2, 16)" in report
    assert find_checkpoint(tmp_path / "bert") == tmp_path / "bert"
    export_weights(tmp_path / "bert", tmp_path / "back.safetensors")
    same_arrays(source, tmp_path / "back.safetensors")


def test_a_config_says_what_fits(tiny_config, tmp_path):
    source, config = random_bert(tmp_path / "model.bin"), tiny_config("pretrain")
    with pytest.raises(
        UserError, match=r"position/embedding is \(20, 16\) in the file and \(16, 16\) in the config; pass --res"
    ):
        convert("hf-bert", source, tmp_path / "bert", config=config)
    imported = convert("hf-bert", source, tmp_path / "bert", config=config, resize=True)
    assert "resized embeddings/position/embedding: (20, 16) -> (16, 16), its first 16 rows" in describe(imported)
    export_weights(tmp_path / "bert", tmp_path / "back.safetensors")
    back, before = read_state(tmp_path / "back.safetensors"), read_state(source)
    name = "bert.embeddings.position_embeddings.weight"
    np.testing.assert_array_equal(back[name], before[name][:16])


def test_what_is_missing_stays_missing(tmp_path):
    state = read_state(random_bert(tmp_path / "whole.bin"))
    write_state(tmp_path / "part.bin", {name: array for name, array in state.items() if "layer.0.output" not in name}, {})
    with pytest.raises(UserError, match="lacks 4 of 23 arrays"):
        convert("hf-bert", tmp_path / "part.bin", tmp_path / "bert")
    imported = convert("hf-bert", tmp_path / "part.bin", tmp_path / "bert", partial=True)
    assert "missing: bert.encoder.layer.0.output.dense.bias" in describe(imported)
    export_weights(tmp_path / "bert", tmp_path / "back.safetensors")
    same_arrays(tmp_path / "part.bin", tmp_path / "back.safetensors")


@pytest.mark.parametrize("mistake", ["cut short", "another kind", "does not fit", "no space"])
def test_a_mistake_leaves_nothing_behind(mistake, tiny_config, tmp_path, monkeypatch):
    source, destination, kind, config = random_bert(tmp_path / "model.bin"), tmp_path / "out" / "bert", "hf-bert", None
    if mistake == "cut short":
        source.write_bytes(source.read_bytes()[:-100])
    elif mistake == "another kind":
        kind = "pvt"
    elif mistake == "does not fit":
        config = tiny_config("pretrain")
        config.model.bert.width = 32
    else:
        original = checkpoints.ocp.save_checkpointables

        def fail(path, content):
            original(path, content)
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(checkpoints.ocp, "save_checkpointables", fail)
    with pytest.raises(OSError if mistake == "no space" else UserError):
        convert(kind, source, destination, config=config)
    assert not destination.parent.exists() or not list(destination.parent.iterdir())


def test_nothing_is_overwritten(tmp_path):
    source = random_bert(tmp_path / "model.bin")
    convert("hf-bert", source, tmp_path / "bert")
    with pytest.raises(UserError, match="bert exists: name a new folder"):
        convert("hf-bert", source, tmp_path / "bert")
    with pytest.raises(UserError, match="model.bin exists: name a new file"):
        export_weights(tmp_path / "bert", source)
    assert (tmp_path / "bert" / ORIGIN).is_file()
