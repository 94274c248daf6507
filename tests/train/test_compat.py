"""The switches for the release's quirks: word tables, weight decay, ties, and the preset. Others: test_pretrain.py."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from configs import common
from snp_jax.convert.snp import map_snp
from snp_jax.data.text import load_tokenizer
from snp_jax.models.bert import BertConfig
from snp_jax.models.snp import SNPConfig
from snp_jax.models.temporal import TemporalConfig
from snp_jax.objectives import matching
from snp_jax.train import build
from snp_jax.train.compat import Compat
from snp_jax.train.optim import DECAY_RULES, DECAY_RULES_BY_NAME, is_decayed

SHARED = Path(__file__).parents[3] / "shared/goldens"


def golden(name):
    if not (SHARED / name).exists():
        pytest.skip(f"no {name} in {SHARED}")
    return SHARED / name


def test_a_word_without_siblings_is_replaced_by_itself_or_in_the_release_by_its_first_letter(tiny_config):
    config = tiny_config("pretrain")
    tokenizer = load_tokenizer(config.text.tokenizer)
    word = tokenizer.word_id("caption")
    plain, letters = (build.build_words(config, tokenizer, Compat(first_letter=on)) for on in (False, True))
    assert plain.lemma_count[word] == letters.lemma_count[word] == 1
    assert plain.lemma_ids[word, 0] == word and letters.lemma_ids[word, 0] == tokenizer.token_ids("c")[0]


def test_words_without_a_count_are_never_significant_but_in_the_release(tiny_config):
    """Three words are counted: ranks 0, 1 and 2; everything else has rank 3."""
    config = tiny_config("pretrain")
    tokenizer = load_tokenizer(config.text.tokenizer)

    def significant(top_k, on):
        config.text.top_k = top_k
        return build.build_words(config, tokenizer, Compat(uncounted_words=on)).significant

    assert significant(3, False).sum() == significant(5, False).sum() == 3
    assert significant(1, False).sum() == 1 and significant(1, True).sum() == 2  # rank 1 is within 1 there
    assert significant(2, True).sum() == 3 and significant(3, True).all() and tokenizer.sep_id in tokenizer.special_ids


@pytest.mark.parametrize("name", ["r50", "pvt", "vst"])
def test_weight_decay_groups_are_the_release_s_by_name_and_spare_all_norms_by_default(name):
    groups = json.loads(golden("param_groups_full.json").read_text())["groups"][f"pretrain_{name}"]
    visual = {"r50": common.resnet(), "pvt": common.pvt("b2"), "vst": common.video_swin("small")}[name]
    config = common.base("pretrain")
    config.model.visual = visual
    temporal = TemporalConfig() if any("fom_output" in names for group in groups for names in group["names"]) else None
    rules = map_snp(SNPConfig(BertConfig(), build.build_visual(config), sep_id=102, itm=True, temporal=temporal))
    theirs = {name: group["weight_decay_on"] for group in groups for name in group["names"]}
    trained = [foreign for foreign in rules if foreign in theirs]
    assert len(trained) > 0.9 * len(theirs)
    for foreign in trained:
        assert is_decayed(rules[foreign].path, DECAY_RULES_BY_NAME) == theirs[foreign], foreign
    spared = {foreign for foreign in trained if theirs[foreign] and not is_decayed(rules[foreign].path, DECAY_RULES)}
    assert "model.module.text_encoder.embeddings.position_embeddings.weight" in spared
    assert all("norm" in x or "position" in x or "token_type" in x or "cls_token" in x for x in spared), spared


def test_in_batch_ties_count_by_average_position_or_in_the_release_as_queries_of_their_own():
    arrays = np.load(golden("metrics_ties.npz"))
    square, valid = jnp.asarray(arrays["in/square"]), jnp.ones((1, 9), bool)
    hits, count = matching.in_batch_recall_listed(square, jnp.arange(9), valid)
    np.testing.assert_allclose(hits / count, arrays["out/batch_l1_r_1"], rtol=1e-6)
    assert count > 9 and matching.in_batch_recall(square, jnp.arange(9), valid)[1] == 9


def test_the_preset_turns_everything_on_and_the_default_nothing(tiny_config):
    assert not any(common.base("pretrain").compat.to_dict().values())
    config = common.antmmf(tiny_config("pretrain"))
    task = build.build_task(config, load_tokenizer(config.text.tokenizer))
    assert all(dataclasses.asdict(task.compat).values())
    assert task.moco.clamped and task.on("itm") and task.matching.local_groups == 8
    assert build.build_optim(config).decay_rules == DECAY_RULES_BY_NAME
    plain = tiny_config("pretrain")
    assert build.build_task(plain, load_tokenizer(plain.text.tokenizer)).masker.func is not task.masker.func
