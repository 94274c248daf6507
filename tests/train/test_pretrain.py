"""What a pre-training step reads and counts, on a network that only records: terms, choices, and both sides of each switch."""

from __future__ import annotations

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from snp_jax.models.bert import BertConfig
from snp_jax.models.network import Network
from snp_jax.models.pvt import PVTConfig
from snp_jax.models.shard import Shard
from snp_jax.models.snp import SNP, Clips, Cross, CrossInputs, SNPConfig, Text
from snp_jax.objectives.masking import IGNORE, Masked
from snp_jax.objectives.order import ClipOrder
from snp_jax.objectives.total import mean
from snp_jax.train.choices import FalseCaptions, FixedChoices, MiningOptions, PretrainChoices
from snp_jax.train.compat import Compat
from snp_jax.train.gvtm import MatchingOptions
from snp_jax.train.pretrain import DRAWS, MORE_DRAWS, PretrainTask

PAIRS, CLIPS, LENGTH, WIDTH, VOCABULARY = 4, 2, 5, 3, 9
MASK, CLS, SEP = 8, 1, 2
IDS = np.array([[CLS, 3, 4, 5, SEP], [CLS, 4, 5, 6, SEP], [CLS, 5, 6, 7, SEP], [CLS, 6, 7, 3, SEP]], np.int32)
TO_MASK = np.roll(IDS, 1, axis=0)  # another window of each caption
MASKED = Masked(np.where(IDS == 5, MASK, IDS), np.where(IDS == 5, IDS, IGNORE).astype(np.int32))
ATTENDED = Masked(np.where(IDS == 6, MASK, IDS), np.where(IDS == 6, IDS, IGNORE).astype(np.int32))
KEYS = dict.fromkeys((*DRAWS, *MORE_DRAWS, "pair_dropout"))
MATCHING = MatchingOptions(
    anchor="middle",
    temperature=1.0,
    negatives=0,
    mining="sample",
    draw_temperature=1.0,
    reweight="none",
    local_groups=1,
    chunk=0,
    similarity_chunk=0,
)


NAMES = ("mlm_text", "mlm_cross", "gvtm_stage1", "gvtm_stage2", "lvwm", "itm", "fom", "tags")
TASK = PretrainTask(
    num_clips=CLIPS, weights=dict.fromkeys(NAMES, 0.0), matching=MATCHING, moco=None, compat=Compat(), masker=None,
    mask_ratio=0.15, attentive=0.0, significant=None, special_ids=(0, CLS, SEP), mask_id=MASK, lvwm="after",
    words_per_caption=2, matching_caption="masked", order_ratio=0.15,
)  # fmt: skip


class RecordingNet:
    """A stand-in for `Network`: hidden states are the ids, and every caption that is read is kept by who read it."""

    shard = Shard()
    model = types.SimpleNamespace(config=types.SimpleNamespace(sep_id=SEP))

    def __init__(self):
        self.read, self.pairs, self.logits = {"text": [], "cross": []}, [], []

    def hidden(self, ids):
        return jnp.repeat(jnp.asarray(ids, jnp.float32)[..., None], WIDTH, axis=-1)

    def clips(self, frames, mask, *, num_clips, pixel_mask=None, key=None, rows=None):
        features = jax.random.normal(jax.random.key(0), (PAIRS, num_clips, WIDTH))
        return Clips(features, features / 10, jnp.ones((PAIRS, num_clips), bool))

    def text(self, ids, mask, *, packing=None, importance=False, key=None, rows=None):
        self.read["text"].append(np.asarray(ids))
        hidden = self.hidden(ids) / 10
        return Text(-hidden, hidden, hidden[:, 1] / 10, jnp.ones(ids.shape))

    def caption_inputs(self, ids, mask, *, key=None, rows=None):
        return CrossInputs(self.hidden(ids), mask)

    def raw_caption(self, text, ids, mask, *, key=None, rows=None):
        return CrossInputs(self.hidden(ids), mask)

    def clip_inputs(self, tokens, mask, *, key=None, rows=None):
        return CrossInputs(tokens, mask)

    def spread(self, x):
        return x

    def cross(self, caption, clips, *, packing=None, key=None, rows=None):
        self.read["cross"].append(np.asarray(caption.embedded[..., 0], np.int32))
        pooled = jnp.arange(len(caption.mask), dtype=jnp.float32)[:, None] * jnp.ones(WIDTH)
        return Cross(caption.embedded, clips.embedded, pooled)

    def cross_pooled(self, caption, clips, *, packing=None, key=None, rows=None):
        return self.cross(caption, clips, key=key).pooled

    def order(self, clips, mask, *, key=None, rows=None):
        return jnp.pad(clips, ((0, 0), (1, 0), (0, 0)))

    def head(self, name, x):
        self.logits.append((name, x.shape))
        classes = {"itm_logits": 2, "order_logits": 4}.get(name, VOCABULARY)
        x = x[:, 1:] if name == "order_logits" else x
        return jnp.zeros((*x.shape[:-1], classes))

    def pair_scores(self, captions, videos, texts, columns, *, chunk, key=None, rows=None):
        self.pairs.append((np.asarray(texts), np.asarray(columns)))
        return jnp.zeros(len(texts))

    def all_scores(self, captions, videos, columns, *, chunk, rows, key=None, places=None):
        texts = jnp.repeat(jnp.arange(len(columns)), columns.shape[1])
        return self.pair_scores(captions, videos, texts, columns.reshape(-1), chunk=chunk).reshape(columns.shape)


class ScoringNet(RecordingNet):
    """Scores text t with video v as 10 t + v, wherever it is asked."""

    def pair_scores(self, captions, videos, texts, columns, **options):
        super().pair_scores(captions, videos, texts, columns, **options)
        return (10 * texts + columns).astype(jnp.float32)

    def match(self, pooled, *, key=None, rows=None):
        return 11 * pooled[:, 0]


def run(on, choices=None, compat=None, net=None, **changes):
    """(computed, what the network recorded) of a step with the terms `on`."""
    weights = {name: float(name in on) for name in TASK.weights}
    task = dataclasses.replace(TASK, weights=weights, compat=compat or Compat())
    net, valid = net or RecordingNet(), jnp.ones(PAIRS, bool)
    batch = {"text_ids": IDS, "text_ids_to_mask": TO_MASK, "text_mask": IDS > 0, "video_mask": None, "valid": valid}
    if choices is None:
        choices = FixedChoices(masked=MASKED, attended=ATTENDED, word_positions=np.array([[1, 2]] * PAIRS))
    task = dataclasses.replace(task, **changes)
    computed, memory = task.forward(net, jnp.zeros(1), batch, choices, KEYS, None)
    assert memory is None and set(computed.terms) == set(on)
    return computed, net


def test_text_words_see_the_masked_caption_or_the_release_the_raw_one():
    computed, net = run(["mlm_text"])
    np.testing.assert_array_equal(net.read["text"], [np.concatenate([IDS, MASKED.ids])])
    assert computed.terms["mlm_text"][1] == (MASKED.labels != IGNORE).sum() == 3
    computed, net = run(["mlm_text"], compat=Compat(raw_text_words=True))
    np.testing.assert_array_equal(net.read["text"], [IDS])
    assert computed.terms["mlm_text"][1] == (ATTENDED.labels != IGNORE).sum() == 3


class MaskedFrom(FixedChoices):
    """Records which captions were to be masked, and for which LVWM's words were to be chosen."""

    def mask(self, ids, maskable):
        self.asked["mask"] = np.asarray(ids)
        np.testing.assert_array_equal(maskable, ~np.isin(ids, (0, CLS, SEP)))
        return self.masked

    def words(self, ids, maskable):
        self.asked["words"] = np.asarray(ids)
        return self.word_positions


@pytest.mark.parametrize("two", [False, True])
@pytest.mark.parametrize("own_pass", [False, True])
def test_the_masked_copy_is_of_the_same_window_or_in_the_release_of_another(two, own_pass):
    choices = MaskedFrom(masked=MASKED, word_positions=np.array([[1, 2]] * PAIRS))
    choices.asked = {}
    compat = Compat(separate_windows=two, raw_text_words=True, separate_lvwm_pass=own_pass)
    _, net = run(["mlm_text", "mlm_cross", "lvwm"], choices, compat)
    np.testing.assert_array_equal(choices.asked["mask"], TO_MASK if two else IDS)
    np.testing.assert_array_equal(choices.asked["words"], TO_MASK if two and own_pass else IDS)
    np.testing.assert_array_equal(net.read["text"][0], IDS)  # what is read raw


def test_cross_words_see_the_attended_caption():
    computed, net = run(["mlm_cross"])
    np.testing.assert_array_equal(net.read["cross"], [ATTENDED.ids])
    np.testing.assert_allclose(mean(computed.terms["mlm_cross"]), np.log(VOCABULARY), rtol=1e-6)


@pytest.mark.parametrize("own_pass", [False, True])
def test_word_clip_matching_shares_the_text_pass_or_has_its_own_on_the_restored_caption(own_pass):
    wrong = Masked(MASKED.ids, np.where(MASKED.labels == IGNORE, IGNORE, MASK))  # labels of the release's fallback
    choices = FixedChoices(masked=wrong, word_positions=np.array([[1, 2]] * PAIRS))
    shared, net = run(["lvwm"], choices, Compat(separate_lvwm_pass=own_pass))
    np.testing.assert_array_equal(net.read["text"], [IDS, MASKED.ids] if own_pass else [IDS])
    assert jnp.isfinite(mean(shared.terms["lvwm"]))


def test_word_clip_matching_on_both_features_adds_two_losses():
    both, _ = run(["lvwm"], lvwm="both")
    parts = [both.metrics[f"lvwm_{name}"] for name in ("after", "before")]
    assert both.terms["lvwm"][0] == parts[0][0] + parts[1][0] and both.terms["lvwm"][1] == PAIRS
    for name, part in zip(("after", "before"), parts, strict=True):
        np.testing.assert_allclose(run(["lvwm"], lvwm=name)[0].terms["lvwm"], part, rtol=1e-6)


class DrawnCaptions(FixedChoices):
    """Records what ITM may choose from, and takes the next video's."""

    def false_captions(self, ids, mask, valid):
        self.offered.append(np.asarray(ids))
        return FalseCaptions(jnp.roll(jnp.asarray(ids), 1, axis=0), mask, valid.at[0].set(False))


@pytest.mark.parametrize("raw", [False, True])
def test_wrong_captions_are_masked_like_the_right_ones_or_in_the_release_not_at_all(raw):
    choices = DrawnCaptions(masked=MASKED, attended=ATTENDED)
    choices.offered = []
    computed, net = run(["itm"], choices, Compat(raw_itm_negatives=raw))
    np.testing.assert_array_equal(choices.offered, [IDS if raw else ATTENDED.ids])
    np.testing.assert_array_equal(net.read["cross"][0], ATTENDED.ids)
    np.testing.assert_array_equal(net.read["cross"][1], np.roll(choices.offered[0], 1, axis=0))
    assert computed.terms["itm"][1] == 2 * PAIRS - 1  # the one without another caption is left out
    np.testing.assert_allclose(mean(computed.terms["itm"]), np.log(2), rtol=1e-6)


def test_frame_order_reads_single_clips_or_in_the_release_whole_pairs_as_clips():
    shuffle = ClipOrder(jnp.asarray([[1, 0]] * PAIRS), jnp.asarray([[1, 0]] * PAIRS))
    computed, net = run(["fom"], FixedChoices(masked=MASKED, shuffle=shuffle))
    np.testing.assert_array_equal(net.read["cross"], [np.repeat(MASKED.ids, CLIPS, axis=0)])
    np.testing.assert_array_equal(computed.shown["order_input"][:, :, 0], [[1, 0], [3, 2], [5, 4], [7, 6]])
    assert computed.terms["fom"][1] == PAIRS * CLIPS
    shuffle = ClipOrder(jnp.asarray([[1, 0]] * 2), jnp.asarray([[1, 0]] * 2))
    computed, net = run(["fom"], FixedChoices(masked=MASKED, shuffle=shuffle), Compat(order_over_batch=True))
    np.testing.assert_array_equal(net.read["cross"], [MASKED.ids])
    np.testing.assert_array_equal(computed.shown["order_input"][:, :, 0], [[1, 0], [3, 2]])


@pytest.mark.parametrize("nan", [False, True])
def test_a_batch_without_targets_counts_nothing_or_in_the_release_is_nan(nan):
    nothing = Masked(IDS, np.full_like(IDS, IGNORE))
    computed, _ = run(["mlm_text", "mlm_cross"], FixedChoices(masked=nothing), Compat(nan_when_empty=nan))
    for term in computed.terms.values():
        assert np.isnan(mean(term)) if nan else mean(term) == 0


def test_stage_2_on_all_pairs_stays_inside_its_groups():
    computed, net = run(["gvtm_stage2"], matching=dataclasses.replace(MATCHING, local_groups=2))
    ((texts, videos),) = net.pairs
    assert list(zip(texts, videos, strict=True)) == [(t, v) for g in (0, 2) for t in (g, g + 1) for v in (g, g + 1)]
    np.testing.assert_allclose(mean(computed.terms["gvtm_stage2"]), np.log(3), rtol=1e-6)  # log(2 * 2 - 1)
    assert len(run(["gvtm_stage2"])[1].pairs[0][0]) == PAIRS**2


@pytest.mark.parametrize("groups", [1, 2, PAIRS])
def test_stage_2_takes_its_positives_from_the_pass_of_the_masked_words_where_both_read_the_same(groups):
    size, matching = PAIRS // groups, dataclasses.replace(MATCHING, local_groups=groups)
    place = np.arange(PAIRS).reshape(groups, size)
    wanted = 10 * place[:, :, None] + place[:, None, :]
    for attended in (None, ATTENDED):
        choices, net = FixedChoices(masked=MASKED, attended=attended), ScoringNet()
        computed, _ = run(["mlm_cross", "gvtm_stage2"], choices, net=net, matching=matching)
        np.testing.assert_array_equal(net.read["cross"], [(attended or MASKED).ids])
        np.testing.assert_array_equal(computed.shown["scores"], wanted)
        compared = [pair for texts, videos in net.pairs for pair in zip(texts, videos, strict=True)]
        assert len(set(compared)) == len(compared) == PAIRS * (size if attended else size - 1)


def tiny_step():
    """(network, frames, batch) of four pairs, with random weights."""
    visual = PVTConfig((8, 8, 8, 8), (1, 1, 1, 1), (1, 1, 1, 1), (1, 1, 1, 1))
    bert = BertConfig(vocab_size=VOCABULARY, width=8, layers=2, heads=2, mlp_width=16, max_positions=8)
    model, rng = SNP(SNPConfig(bert, visual, sep_id=SEP)), np.random.default_rng(0)
    frames = rng.standard_normal((PAIRS, CLIPS, 32, 32, 3)).astype(np.float32)
    masks = np.ones((PAIRS, CLIPS), bool), np.ones(IDS.shape, bool)
    init = lambda: model.init(jax.random.key(0), frames, masks[0], IDS, masks[1], num_clips=CLIPS)  # noqa: E731
    params = jax.tree.map(lambda x: rng.normal(0, 0.4, x.shape).astype(np.float32), jax.eval_shape(init))["params"]
    batch = {"text_ids": IDS, "text_mask": masks[1], "video_mask": masks[0], "valid": np.ones(PAIRS, bool)}
    return Network(model, params), frames, batch


class DecidedOnTheDevice(FixedChoices):
    """Attentive masking of which it is not known beforehand whether it takes place; here it does not."""

    def attends(self):
        return jnp.asarray(False)

    def attend(self, masked, ids, maskable, importance):
        return masked


def test_losses_are_the_same_whether_the_two_share_a_pass_or_not():
    """`attended` equal to the masked captions makes two passes of the same; the device's decision, one or two."""
    net, frames, batch = tiny_step()
    on = ("mlm_cross", "gvtm_stage1", "gvtm_stage2")
    task = dataclasses.replace(TASK, weights={name: float(name in on) for name in TASK.weights})
    words = np.array([[1, 2]] * PAIRS)

    @jax.jit
    def losses(frames, batch):
        ways = [
            FixedChoices(MASKED, MASKED, words),
            FixedChoices(MASKED, None, words),
            DecidedOnTheDevice(MASKED, None, words),
        ]
        steps = [task.forward(net, frames, batch, choices, KEYS, None).computed for choices in ways]
        return [({name: mean(term) for name, term in step.terms.items()}, step.shown["scores"]) for step in steps]

    apart, shared, decided = losses(frames, batch)
    spread = np.ptp(apart[1])
    assert set(apart[0]) == set(on) and spread > 1e-4
    for terms, scores in (shared, decided):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5), terms, apart[0])
        np.testing.assert_allclose(scores, apart[1], rtol=0, atol=0.01 * spread)


@pytest.mark.parametrize("chunk", [0, 8, 3])
def test_losses_are_the_same_without_padding(chunk):
    """Captions of 5, 3, 5 and 4 tokens, room for more; in chunks of all, of two videos a caption, and too small for packing."""
    net, frames, batch = tiny_step()
    batch = batch | {"text_mask": np.arange(LENGTH) < np.array([5, 3, 5, 4])[:, None]}
    places = np.append(np.flatnonzero(batch["text_mask"]), [PAIRS * LENGTH] * 2).astype(np.int32)
    on = ("mlm_text", "mlm_cross", "gvtm_stage1", "gvtm_stage2", "lvwm")
    matching = dataclasses.replace(MATCHING, chunk=chunk)
    task = dataclasses.replace(TASK, weights={name: float(name in on) for name in TASK.weights}, matching=matching)
    choices = FixedChoices(MASKED, None, np.array([[1, 1]] * PAIRS))

    @jax.jit
    def losses(frames, batch):
        computed, _ = task.forward(net, frames, batch, choices, KEYS, None)
        return {name: mean(term) for name, term in computed.terms.items()}, computed.shown["scores"]

    padded, packed = losses(frames, batch), losses(frames, batch | {"text_places": places})
    spread = np.ptp(padded[1])
    assert set(padded[0]) == set(on) and spread > 1e-4
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5), padded[0], packed[0])
    np.testing.assert_allclose(packed[1], padded[1], rtol=0, atol=0.01 * spread)


class MinedChoices(PretrainChoices):
    """Drawn by the rule, but for the masks."""

    def mask(self, ids, maskable):
        return MASKED


@pytest.mark.parametrize("rule", ["nearest", "top_k"])
def test_mined_negatives_list_the_positive_once_or_in_the_release_twice(rule):
    matching = dataclasses.replace(MATCHING, mining=rule, negatives=2)
    choices = MinedChoices(
        keys={}, shard=Shard(), mining=MiningOptions(rule, 2, 1.0), masker=None, ratio=0.15, attentive=0.0, mask_id=MASK,
        significant=None, words_per_caption=2, order_ratio=0.15,
    )  # fmt: skip
    _, net = run(["gvtm_stage2"], choices, matching=matching)
    ((texts, videos),) = net.pairs
    own = texts == videos
    assert own[:PAIRS].all() and not own[PAIRS:].any() and len(texts) == PAIRS * (1 + 2 + 2)
    _, net = run(["mlm_cross", "gvtm_stage2"], choices, net=ScoringNet(), matching=matching)  # positives are known
    np.testing.assert_array_equal(net.pairs[0], (texts[PAIRS:], videos[PAIRS:]))
    _, net = run(["gvtm_stage2"], choices, Compat(mined_matrix=True), matching=dataclasses.replace(matching, negatives=0))
    ((texts, videos),) = net.pairs
    columns = videos.reshape(PAIRS, PAIRS)
    np.testing.assert_array_equal(np.diagonal(columns), np.arange(PAIRS))
    assert (columns == np.arange(PAIRS)[:, None]).sum() > PAIRS


def test_easy_pairs_count_less_where_they_are_reweighted():
    plain, _ = run(["gvtm_stage2"])
    weighted, _ = run(["gvtm_stage2"], matching=dataclasses.replace(MATCHING, reweight="median"))
    assert weighted.terms["gvtm_stage2"][0] < plain.terms["gvtm_stage2"][0]
    assert weighted.terms["gvtm_stage2"][1] == plain.terms["gvtm_stage2"][1] == PAIRS


def test_drawn_false_captions_belong_to_other_valid_pairs():
    valid, seen = jnp.asarray([True, False, True, True]), set()
    for seed in range(20):
        choices = PretrainChoices(
            keys={"false": jax.random.key(seed)}, shard=Shard(), mining=None, masker=None, ratio=0.15, attentive=0.0,
            mask_id=MASK, significant=None, words_per_caption=2, order_ratio=0.15,
        )  # fmt: skip
        false = choices.false_captions(jnp.asarray(IDS), jnp.asarray(IDS > 0), valid)
        rows = [int(np.flatnonzero((row == IDS).all(axis=1))[0]) for row in np.asarray(false.ids)]
        seen |= {(b, rows[b]) for b in (0, 2, 3)}
        np.testing.assert_array_equal(false.valid, valid)
    assert seen == {(b, o) for b in (0, 2, 3) for o in (0, 2, 3) if b != o}
    alone = choices.false_captions(jnp.asarray(IDS), jnp.asarray(IDS > 0), jnp.asarray([True, False, False, False]))
    assert not alone.valid.any()


def test_tags_are_named_from_an_empty_caption():
    """CLS of [CLS] [SEP] beside the video scores the words of the raw caption; equal scores cost log V - their entropy."""
    computed, net = run(["tags"])
    assert [CLS, SEP] in net.read["cross"][-1].tolist() and net.read["cross"][-1].shape == (PAIRS, 2)
    assert net.logits[-1] == ("cross_word_logits", (PAIRS, WIDTH))
    words = [set(row[(row > 0) & (row != CLS) & (row != SEP)].tolist()) for row in np.asarray(IDS)]
    expected = 0.0
    for named in words:
        weight = np.array([np.log((PAIRS + 1) / sum(word in other for other in words)) for word in named])
        share = weight / weight.sum()
        expected += np.log(VOCABULARY) + (share * np.log(share)).sum()
    np.testing.assert_allclose(computed.terms["tags"], (expected, PAIRS), rtol=1e-5)
