"""The shared network: parity with the authors' PyTorch code down to losses and gradients, and its size."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import common
from snp_jax.convert.bert import map_bert, map_pooler
from snp_jax.convert.rules import apply, invert
from snp_jax.convert.snp import map_snp
from snp_jax.models.bert import BertConfig
from snp_jax.models.network import Network, all_pairs
from snp_jax.models.pvt import PVTConfig
from snp_jax.models.snp import SNP, CrossInputs, SNPConfig
from snp_jax.objectives import masking, matching
from snp_jax.objectives.total import mean
from snp_jax.train import tasks
from snp_jax.train.build import build_visual

GOLDENS = Path(__file__).parents[1] / "goldens"
CONFIG = SNPConfig(
    bert=BertConfig(vocab_size=200, width=32, layers=2, heads=2, mlp_width=64, max_positions=40),
    visual=PVTConfig((8, 16, 20, 32), (1, 1, 1, 1), (1, 2, 5, 8), (2, 2, 2, 2)),
    sep_id=102,
)
MODEL = SNP(CONFIG)
PUBLISHED = tasks.MatchingOptions("middle", temperature=1.0, negatives=0, draw_temperature=0.1, chunk=5)


def load(name, rules):
    """(arrays, parameters, names of the state that no rule wants) of a golden."""
    golden = dict(np.load(GOLDENS / f"{name}.npz"))
    state = {key[6:]: golden[key] for key in golden if key.startswith("param/")}
    applied = apply(rules, state)
    assert not applied.missing
    return golden, applied.params, applied.unused


def close(got, wanted, tolerance=1e-4):
    assert got.shape == wanted.shape
    np.testing.assert_allclose(got, wanted, rtol=0, atol=tolerance * np.abs(wanted).max())


def check_gradients(rules, gradients, golden, without=()):
    ours = invert(rules, gradients)
    recorded = [key[5:] for key in golden if key.startswith("grad/") and key[5:] not in without]
    assert len(recorded) >= 9
    for name in recorded:
        # PyTorch stops the gradient of the padding word (id 0); ours has one where a padded output is used.
        skip = int(name.endswith("word_embeddings.weight"))
        close(ours[name][skip:], golden[f"grad/{name}"][skip:], 1e-3)


def encode_video(params, golden):
    frames = golden["in/image_data"].transpose(0, 1, 3, 4, 2)
    return MODEL.apply(
        {"params": params}, frames, np.ones(frames.shape[:2], bool), num_clips=int(golden["in/n_clips"]),
        pixel_mask=~golden["in/image_pad_mask"], deterministic=True, method="encode_video",
    )  # fmt: skip


def test_cross_branch():
    bert = map_bert(CONFIG.bert, "text_encoder.") | map_pooler(CONFIG.bert, "cross_pooler", "cross_pooler")
    golden, params, unused = load("cross_encoder", bert)
    assert not unused
    mask, clip_mask = golden["in/attention_mask"].astype(bool), ~golden["in/visual_mask"]

    def run(params, ids, mask, tokens, clip_mask):
        net = Network(MODEL, params)
        captions, clips = net.caption_inputs(ids, mask), net.clip_inputs(tokens, clip_mask)
        return captions, clips, net.cross(captions, clips)

    def objective(params):
        outputs = run(params, golden["in/input_ids"], mask, golden["in/visual_embed"], clip_mask)
        parts = zip(outputs[2], ("text", "visual", "pooled"), strict=True)
        return sum(jnp.sum(part * golden[f"in/cot_{name}"]) for part, name in parts), outputs

    (value, (captions, clips, cross)), gradients = jax.jit(jax.value_and_grad(objective, has_aux=True))(params)
    close(captions.embedded, golden["out/text_embed"])
    close(clips.embedded, golden["out/visual_embed"])
    np.testing.assert_array_equal(clips.mask, golden["out/visual_attention_mask"])
    names = ("cap_seq_output", "visual_seq_output", "pooled_output")
    for part, name in zip(cross, names, strict=True):
        close(part, golden[f"out/{name}"])
    np.testing.assert_allclose(value, golden["out/objective"], rtol=1e-4)
    check_gradients(bert, gradients, golden)

    # A caption with each of its clips alone: the release repeats the caption.
    twice = np.repeat(golden["in/input_ids"], 2, axis=0), np.repeat(mask, 2, axis=0)
    tokens = golden["in/visual_embed_rep"]
    repeated = run(params, *twice, tokens, np.ones(tokens.shape[:2], bool))[2]
    for part, name in zip(repeated, names, strict=True):
        close(part, golden[f"out/rep_{name}"])


def test_retrieval_losses_and_gradients():
    rules = map_snp(CONFIG, prefix="", word_heads=None)
    golden, params, unused = load("retrieval_train", rules)
    assert all(".head." in name for name in unused)
    ids, mask = golden["in/caption_raw_input_ids"], jnp.asarray(golden["in/caption_input_mask"], bool)
    valid = jnp.ones(len(ids), bool)

    def objective(params):
        net = Network(MODEL, params)
        clips, text = encode_video(params, golden), net.text(ids, mask)
        captions, videos = CrossInputs(text.embedded, mask), net.clip_inputs(clips.tokens, clips.mask)
        terms, _ = tasks.matching_terms(
            net, text, clips, captions, videos, valid, PUBLISHED,
            stage1=True, stage2=True, key=jax.random.key(0), train=False,
        )  # fmt: skip
        scores = net.pair_scores(captions, videos, *all_pairs(len(ids), len(ids)), chunk=9)
        pooled = matching.pool_clips(tasks.stage1_scores(text, clips, 1.0), clips.mask)
        shown = (clips, text, scores.reshape(pooled.shape), pooled, terms)
        return sum(mean(term) for term in terms.values()), shown

    (total, (clips, text, scores, pooled, terms)), gradients = jax.jit(jax.value_and_grad(objective, has_aux=True))(params)
    close(clips.tokens, golden["out/clip_tokens"])
    close(clips.features.reshape(-1, 32), golden["out/clip_feature"])
    close(text.sequence, golden["out/text_sequence_output"])
    close(text.feature, golden["out/text_feature"])
    close(pooled, golden["out/l1_simi"])
    close(scores, golden["out/l2_simi"])
    for term, name in (("gvtm_stage1", "level1"), ("gvtm_stage2", "level2")):
        np.testing.assert_allclose(mean(terms[term]), golden[f"out/losses/{name}_similarity_loss"], rtol=1e-4)
    np.testing.assert_allclose(total, golden["out/total_loss"], rtol=1e-4)
    check_gradients(rules, gradients, golden)


def test_pretraining_losses_and_gradients():
    """The golden's image-text-matching loss, which we do not train with, is added by hand for the gradients."""
    rules = map_snp(CONFIG)
    golden, params, unused = load("pretrain_plain", rules)
    assert {name.rpartition(".")[0] for name in unused} == {
        "model.module.img_encoder.model.head", "itm_head.cls.seq_relationship",
    }  # fmt: skip
    raw, masked_ids = golden["in/caption_raw_input_ids"], golden["in/caption_input_ids"]
    mask = jnp.asarray(golden["in/caption_input_mask"], bool)
    labels, valid = golden["in/caption_lm_label_ids"], jnp.ones(len(raw), bool)
    itm = golden["param/itm_head.cls.seq_relationship.weight"]
    itm_bias = golden["param/itm_head.cls.seq_relationship.bias"]

    def objective(params):
        net = Network(MODEL, params)
        clips, text = encode_video(params, golden), net.text(raw, mask)
        captions, videos = net.caption_inputs(masked_ids, mask), net.clip_inputs(clips.tokens, clips.mask)
        cross = net.cross(captions, videos)
        words = jnp.take_along_axis(text.sequence, golden["choice/vwm_index"][..., None], axis=1)
        text_logits = net.head("text_word_logits", text.sequence)  # the release's L1 reads the raw caption
        cross_logits = net.head("cross_word_logits", cross.sequence)
        terms, _ = tasks.matching_terms(
            net, text, clips, captions, videos, valid, PUBLISHED,
            stage1=True, stage2=True, key=jax.random.key(0), train=False,
        )  # fmt: skip
        terms["lvwm"] = matching.mil_nce(matching.word_clip_similarity(words, clips.features), valid)
        terms["mlm_text"] = masking.masked_word_loss(text_logits, labels, valid)["loss"]
        terms["mlm_cross"] = masking.masked_word_loss(cross_logits, labels, valid)["loss"]
        false_mask = golden["in/caption_false_input_mask"].astype(bool)
        false = net.cross(net.caption_inputs(golden["in/caption_false_input_ids"], false_mask), videos)
        logits = jnp.concatenate([cross.pooled, false.pooled]) @ itm.T + itm_bias
        target = np.repeat([1, 0], len(raw))
        terms["itm"] = matching.choice_loss(logits, target, jnp.ones(2 * len(raw), bool))["loss"]
        means = {name: mean(term) for name, term in terms.items()}
        return sum(means.values()), (means, text, cross, text_logits, cross_logits)

    (total, (losses, text, cross, text_logits, cross_logits)), gradients = jax.jit(jax.value_and_grad(objective, has_aux=True))(
        params
    )
    close(text.importance, golden["out/words_importance"])
    close(cross.sequence, golden["out/cross_text_output"])
    close(cross.clips, golden["out/cross_visual_output"])
    close(cross.pooled, golden["out/cross_pooled"])
    close(text_logits, golden["out/mlm_text_encoder_logits"])
    close(cross_logits, golden["out/mlm_cross_logits"])
    names = {
        "gvtm_stage1": "level1_similarity_loss", "gvtm_stage2": "level2_similarity_loss",
        "lvwm": "VWM_after_similarity_loss", "mlm_text": "masked_lm_text_encoder_loss",
        "mlm_cross": "masked_lm_loss", "itm": "itm_loss",
    }  # fmt: skip
    for ours, theirs in names.items():
        np.testing.assert_allclose(losses[ours], golden[f"out/losses/{theirs}"], rtol=1e-4, err_msg=ours)
    np.testing.assert_allclose(total, golden["out/total_loss"], rtol=1e-4)
    check_gradients(rules, gradients, golden, without=("itm_head.cls.seq_relationship.weight",))


@pytest.fixture(scope="module")
def paper_shapes():
    """Parameter shapes of the config's model with BERT's vocabulary; no memory is taken."""
    config = common.base("pretrain")
    bert = BertConfig(vocab_size=30522, **config.model.bert.to_dict())
    snp = SNP(SNPConfig(bert, build_visual(config), sep_id=102))
    frames = jax.ShapeDtypeStruct((1, 1, 224, 224, 3), jnp.float32)
    ids = jax.ShapeDtypeStruct((1, 30), jnp.int32)
    masks = jax.ShapeDtypeStruct((1, 1), bool), jax.ShapeDtypeStruct((1, 30), bool)
    init = lambda *inputs: snp.init(jax.random.key(0), *inputs, num_clips=1)["params"]  # noqa: E731
    return snp.config, jax.eval_shape(init, frames, masks[0], ids, masks[1])


def test_size_of_the_published_model(paper_shapes):
    _, shapes = paper_shapes
    size = {name: sum(leaf.size for leaf in jax.tree.leaves(part)) for name, part in shapes.items()}
    assert size["embeddings"] + size["encoder"] + size["pooler"] == 109_482_240  # BERT-base
    # PVTv2-B2 is 25,362,856 with its 1000-way head, which we do not have.
    assert size["visual"] == 25_362_856 - (512 * 1000 + 1000)
    assert size["visual_projection"] == 512 * 768 + 768
    assert size["clip_fc1"] == size["clip_fc2"] == size["cross_pooler"] == 768 * 768 + 768
    assert size["text_words"] == size["cross_words"] == 768 * 768 + 768 + 2 * 768 + 30522
    assert size["match_fc1"] + size["match_fc2"] == 768 * 1536 + 1536 + 1536 + 1
    # What the paper's 161,101,087 count besides: the 1000-way head, the ITM head and the temporal encoder.
    itm = 768 * 2 + 2
    head = 512 * 1000 + 1000
    layer = 4 * (768 * 768 + 768) + 2 * (2 * 768) + 2 * 768 * 3072 + 3072 + 768
    rest = 161_101_087 - sum(size.values()) - itm - head
    assert 0 < rest - 3 * layer < 1_000_000  # three layers, and the temporal encoder's own embeddings


def test_release_names_cover_every_parameter_once(paper_shapes):
    config, shapes = paper_shapes
    leaves = jax.tree_util.tree_leaves_with_path(shapes)
    ours = sorted(jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves)
    assert sorted(rule.path for rule in map_snp(config).values()) == ours
