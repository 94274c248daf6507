"""The tagging task: what is a tag, and that a pre-training run can start from what it trains."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from snp_jax.data.text import load_tokenizer
from snp_jax.errors import UserError
from snp_jax.models.network import Network
from snp_jax.train import build, inputs
from snp_jax.train.loop import TASK_PARAMETERS
from snp_jax.train.state import init_params
from snp_jax.train.warm_start import choose_origins


def shapes(config):
    """Shape by path of a config's parameters."""
    model = build.build_model(config, load_tokenizer(config.text.tokenizer))
    params = jax.eval_shape(lambda: init_params(model, jax.random.key(0), spec=inputs.clip_spec(config)))
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape for path, leaf in leaves}


def test_pretraining_starts_from_what_tagging_trains(tiny_config):
    tagged, wanted = shapes(tiny_config("tagging")), shapes(tiny_config("pretrain"))
    origins = choose_origins({"tagging": tagged}, wanted, fresh=TASK_PARAMETERS)
    assert sorted(origins.source) == ["visual", "visual_projection"]
    assert origins.unused == [["cell_tags", "clip_tags"]]


def test_tagging_of_clips_starts_from_tagging_of_frames(tiny_config):
    frames = tiny_config("tagging")
    frames.clip.num_clips = 1
    origins = choose_origins({"frames": shapes(frames)}, shapes(tiny_config("tagging")), fresh=TASK_PARAMETERS)
    assert sorted(origins.source) == ["cell_tags", "visual", "visual_projection"] and origins.fresh == ["clip_tags"]


@pytest.mark.parametrize(("kind", "named"), [("significant", {"caption"}), ("any", {"caption", "4"})])
def test_what_a_tag_is(kind, named, tiny_config):
    config = tiny_config("tagging")
    config.objective.tags = kind
    tokenizer = load_tokenizer(config.text.tokenizer)
    task = build.build_task(config, tokenizer)
    assert task.by_rarity == (kind == "any")
    ids, _ = tokenizer.encode("caption 4", 12)
    assert {tokenizer.whole_word(int(i)) for i in ids if task.tags[i] and i not in task.special_ids} == named


def test_padding_does_not_change_the_scores(tiny_config):
    """A frame that is masked adds nothing, whatever it shows."""
    config = tiny_config("tagging")
    model = build.build_model(config, load_tokenizer(config.text.tokenizer))

    @jax.jit
    def scores(frames, mask):
        params = init_params(model, jax.random.key(0), spec=inputs.clip_spec(config))
        return Network(model, params).tags(frames, mask, num_clips=2)

    frames = np.random.default_rng(0).normal(size=(1, 2, 32, 32, 3)).astype(np.float32)
    mask = np.asarray([[True, False]])
    one = scores(frames, mask)
    frames[:, 1] = 3.0
    np.testing.assert_allclose(one, scores(frames, mask), rtol=1e-5)
    assert not np.allclose(one, scores(frames, mask | True))


def test_a_tagging_run_is_not_evaluated(tiny_config, tmp_path):
    from snp_jax.eval.evaluate import evaluate
    from snp_jax.train.restore import TrainedRun

    config = tiny_config("tagging")
    run = TrainedRun(tmp_path, 1, config, load_tokenizer(config.text.tokenizer), None, None, {})
    with pytest.raises(UserError, match="tagging trains a visual encoder"):
        evaluate(run, config)
