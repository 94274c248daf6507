"""Cases of whole pre-training steps, with every variant; `fine_tuning` has those of the other tasks.

The step is the one that trains (`task.forward`), with the recorded choices, without dropout, and with every switch of
`train.compat` on.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from snp_jax.models.network import Network
from snp_jax.objectives import masking
from snp_jax.objectives.masking import Masked
from snp_jax.objectives.order import ClipOrder
from snp_jax.objectives.total import mean, total_loss
from snp_jax.parity.compare import Account
from snp_jax.parity.golden import Golden
from snp_jax.parity.metrics import in_batch
from snp_jax.parity.networks import (
    Loaded,
    channels_last,
    differentiate,
    foreign_gradients,
    load_snp,
)
from snp_jax.train.choices import FalseCaptions, FixedChoices
from snp_jax.train.compat import Compat
from snp_jax.train.gvtm import Computed, MatchingOptions
from snp_jax.train.momentum import Memory, MocoOptions
from snp_jax.train.pretrain import DRAWS, MORE_DRAWS, PretrainTask

NO_DROPOUT = dict.fromkeys((*DRAWS, *MORE_DRAWS, "pair_dropout", "match"))
RELEASE = Compat(**{field.name: True for field in dataclasses.fields(Compat)})
SPECIAL, MASK = (0, 101, 102, 103), 103
"""Ids of BERT's uncased vocabulary, which the release has in its code."""
CHUNK = 5
"""Pairs a cross-branch pass, as in the release."""
LOSSES = {
    "gvtm_stage1": "level1_similarity_loss", "gvtm_stage2": "level2_similarity_loss", "mlm_cross": "masked_lm_loss",
    "mlm_text": "masked_lm_text_encoder_loss", "itm": "itm_loss", "fom": "fom_loss", "lvwm_after": "VWM_after_similarity_loss",
    "lvwm_before": "VWM_before_similarity_loss",
}  # fmt: skip
ACCURACIES = {
    "accuracy_text": "masked_lm_text_encoder_acc", "accuracy_cross": "masked_lm_acc", "accuracy_itm": "itm_acc",
    "accuracy_fom": "fom_acc",
}  # fmt: skip
"""Our names of losses and metrics -> the release's."""
MINING = {"nearliest": "nearest", "top_k": "top_k"}
"""The release's names of rules for hard negatives -> ours."""


# ---------------------------------------------------------------------- what a step is given
def step_inputs(golden: Golden, ids: str, given: str = "in/") -> tuple[jax.Array, dict[str, jax.Array]]:
    """(frames `[B, T, H, W, 3]`, the rest of the batch) of a case; `given` is what its inputs' names start with."""
    frames = channels_last(golden[f"{given}image_data"])
    batch = {
        "video_mask": np.ones(frames.shape[:2], bool),
        "pixel_mask": ~golden[f"{given}image_pad_mask"],
        "text_ids": golden[given + ids],
        "text_ids_to_mask": golden[given + ids],  # the recorded captions are short: one window
        "text_mask": golden[f"{given}caption_input_mask"].astype(bool),
        "valid": np.ones(len(frames), bool),
    }
    return jnp.asarray(frames), jax.tree.map(jnp.asarray, batch)


def recorded_choices(golden: Golden, given: str = "in/", choice: str = "choice/") -> FixedChoices:
    """The random decisions of a pre-training step."""
    masked = Masked(golden[f"{given}caption_input_ids"], golden[f"{given}caption_lm_label_ids"])
    attended = shuffle = mined = None
    if f"{choice}attentive_cross_ids" in golden:
        raw, positions = golden[f"{given}caption_raw_input_ids"], golden[f"{choice}attentive_positions"]
        labels = np.full_like(raw, masking.IGNORE)
        rows, slots = np.nonzero(positions >= 0)
        labels[rows, positions[rows, slots]] = raw[rows, positions[rows, slots]]
        attended = Masked(golden[f"{choice}attentive_cross_ids"], labels)
    if f"{choice}fom_order" in golden:
        shuffle = ClipOrder(golden[f"{choice}fom_order"], golden[f"{choice}fom_target"])
    if f"{choice}hard_negative_index" in golden:
        mined = golden[f"{choice}hard_negative_index"]
    false = FalseCaptions(
        golden[f"{given}caption_false_input_ids"], golden[f"{given}caption_false_input_mask"].astype(bool),
        np.ones(len(masked.ids), bool),
    )  # fmt: skip
    parts = (masked, attended, golden[f"{choice}vwm_index"], false, shuffle, mined)
    return FixedChoices(*jax.tree.map(jnp.asarray, parts))


def matching_options(config: dict[str, Any]) -> MatchingOptions:
    """GVTM as the case's config asks for it."""
    hard = config.get("hard_example_mining", False)
    return MatchingOptions(
        anchor="middle", temperature=1.0, negatives=0, draw_temperature=1.0, local_groups=1, chunk=CHUNK, similarity_chunk=0,
        mining=MINING[config["re_sample_method"]] if hard else "sample",
        reweight="median" if hard and config.get("re_weight_method") == "median" else "none",
    )  # fmt: skip


def moco_options(golden: Golden) -> MocoOptions | None:
    """MoCo as the case's config asks for it. (The release has a fixed length of the clip queue; the case records its own.)"""
    config = golden.config
    if not config.get("with_moco", False):
        return None
    return MocoOptions(config["M"], config["T"], golden["in/img_queue"].shape[1], golden["in/txt_queue"].shape[1], clamped=True)


def pretrain_task(golden: Golden, loaded: Loaded) -> PretrainTask:
    """The task of the case's config. What only draws is left out: every choice is recorded."""
    heads, sizes = golden.config["pretraining_heads"], loaded.model.config
    words = heads.get("MASK_All_IWords_info", {})
    weights = {
        "mlm_text": "text_encoder_mlm" in heads, "mlm_cross": "transformer_mlm" in heads, "gvtm_stage1": True,
        "gvtm_stage2": True, "lvwm": bool(heads.get("Vision_Word_Matching", False)), "itm": sizes.itm,
        "fom": sizes.temporal is not None,
    }  # fmt: skip
    return PretrainTask(
        num_clips=int(golden["in/n_clips"]), weights={name: float(on) for name, on in weights.items()},
        matching=matching_options(golden.config), moco=moco_options(golden), compat=RELEASE, masker=None, mask_ratio=0.15,
        attentive=0.0, significant=None, special_ids=SPECIAL, mask_id=MASK, lvwm=words.get("VWM_count_stage", "after"),
        words_per_caption=words.get("Word_Chosen_Num", 3), matching_caption="masked", order_ratio=0.15,
    )  # fmt: skip


# ---------------------------------------------------------------------- pre-training
def pretrain_case(golden: Golden, account: Account) -> None:
    """One step, or two consecutive ones with MoCo."""
    if "in/img_queue" in golden:
        return _two_steps(golden, account)
    loaded = load_snp(golden)
    task = pretrain_task(golden, loaded)
    frames, batch = step_inputs(golden, "caption_raw_input_ids")
    choices = recorded_choices(golden)

    def objective(params):
        net = Network(loaded.model, params)
        computed, _ = task.forward(net, frames, batch, choices, NO_DROPOUT, None)
        return total_loss(computed.terms, task.weights), (computed, _more(net, computed, batch, choices))

    total, (computed, more), gradients = differentiate(objective, loaded.params)
    _compare_step(golden, account, task, computed, more, choices, total)
    account.gradients(foreign_gradients(loaded.rules, gradients))
    squares = sum(float(jnp.sum(jnp.square(leaf))) for leaf in jax.tree.leaves(gradients))
    if "out/grad_global_norm" in golden:
        account.gradient("out/grad_global_norm", np.sqrt(squares))


def _more(net: Network, computed: Computed, batch: dict[str, jax.Array], choices: FixedChoices) -> dict[str, jax.Array]:
    """Recorded intermediates that the step has no use for."""
    masked, mask = choices.masked, batch["text_mask"]
    clips = computed.shown["clips"]
    videos = net.clip_inputs(clips.tokens, clips.mask)
    restored = net.text(jnp.where(masked.labels == masking.IGNORE, masked.ids, masked.labels), mask)
    position = choices.word_positions[..., None]
    return {
        "cap_embed": net.caption_inputs(masked.ids, mask).embedded, "visual_cross_embed": videos.embedded,
        "visual_cross_mask": videos.mask, "vwm_words": jnp.take_along_axis(restored.sequence, position, axis=1),
        "vwm_words_before": jnp.take_along_axis(restored.embedded, position, axis=1),
    }  # fmt: skip


def _compare_step(
    golden: Golden, account: Account, task: PretrainTask, computed: Computed, more: dict[str, jax.Array], choices: FixedChoices,
    total: jax.Array, out: str = "out/", choice: str = "choice/",
) -> None:  # fmt: skip
    """Intermediates, losses and metrics of one step; `out` and `choice` are what their names start with."""
    shown = computed.shown
    clips, text, cross = shown["clips"], shown["text"], shown["cross"]
    account.exact(f"{out}visual_cross_mask", np.asarray(more.pop("visual_cross_mask")).astype(np.int32))
    account.outputs(out, more)
    named = {
        "clip_tokens": clips.tokens, "clip_feature": clips.features.reshape(-1, clips.features.shape[-1]),
        "text_feature": text.feature, "text_sequence_output": text.sequence, "words_importance": text.importance,
        "cross_text_output": cross.sequence, "cross_visual_output": cross.clips, "cross_pooled": cross.pooled,
        "l1_simi": shown["similarity"], "l2_simi": shown["scores"][0],
    }  # fmt: skip
    optional = {
        "cross_pooled_false": "false_pooled", "mlm_text_encoder_logits": "text_logits", "mlm_cross_logits": "cross_logits",
        "VWM_after_simi": "lvwm_after", "VWM_before_simi": "lvwm_before", "fom_shuffled_input": "order_input",
        "fom_temporal_output": "order_output",
    }  # fmt: skip
    named |= {theirs: shown[ours] for theirs, ours in optional.items() if ours in shown}
    if "order_logits" in shown:
        named["fom_logits"] = shown["order_logits"].reshape(-1, shown["order_logits"].shape[-1])
    account.outputs(out, named)
    _compare_losses(golden, account, task, computed, total, out)
    _compare_metrics(golden, account, computed, out)
    labels = (choices.attended or choices.masked).labels
    if f"{out}mlm_labels_used" in golden:
        account.exact(f"{out}mlm_labels_used", labels)
    if f"{out}itm_targets" in golden:
        account.exact(f"{out}itm_targets", np.repeat([1, 0], len(labels))[golden[f"{choice}itm_perm"]])


def _compare_losses(
    golden: Golden, account: Account, task: PretrainTask, computed: Computed, total: jax.Array, out: str
) -> None:
    terms = computed.terms | {name: term for name, term in computed.metrics.items() if name.startswith("lvwm_")}
    if "lvwm" in terms and task.lvwm != "both":
        terms[f"lvwm_{task.lvwm}"] = terms["lvwm"]
    for ours, theirs in LOSSES.items():
        if f"{out}losses/{theirs}" in golden:
            account.loss(f"{out}losses/{theirs}", mean(terms[ours]))
    account.loss(f"{out}total_loss", total)


def _compare_metrics(golden: Golden, account: Account, computed: Computed, out: str) -> None:
    """Accuracies, and the ranks of recorded matrices (which are compared by themselves: noise may swap two ranks)."""
    for ours, theirs in ACCURACIES.items():
        if f"{out}metrics/{theirs}" in golden:
            account.output(f"{out}metrics/{theirs}", mean(computed.metrics[ours]))
    for matrix, start, mark in (("l1_simi", "l1", "r_"), ("l2_simi", "l2", "r_"), ("VWM_after_simi", "VWM_after", "r@"),
                                ("VWM_before_simi", "VWM_before", "r@")):  # fmt: skip
        if f"{out}metrics/{start}_mr" not in golden:
            continue
        if start == "l2" and golden.config.get("hard_example_mining", False):
            for name in golden.group(f"{out}metrics/l2_"):
                account.waive(
                    f"{out}metrics/l2_{name}", "a mined matrix lists videos twice: ranks of equal scores are float noise"
                )
            continue
        in_batch(golden[out + matrix], f"{out}metrics/{start}_", account, mark)


def _two_steps(golden: Golden, account: Account) -> None:
    """Two steps with MoCo: weights of the second are recorded, queues and key encoders are carried over."""
    first, second = load_snp(golden), load_snp(golden, "param2/")
    task = pretrain_task(golden, first)
    memory = task.init_memory(first.params, jax.random.key(0)).replace(
        clip_queue=jnp.asarray(golden["in/img_queue"].T), text_queue=jnp.asarray(golden["in/txt_queue"].T),
        clip_pointer=jnp.asarray(golden["in/img_queue_ptr"][0]), text_pointer=jnp.asarray(golden["in/txt_queue_ptr"][0]),
    )  # fmt: skip

    def objective(params, memory, frames, batch, choices):
        net = Network(first.model, params)
        computed, after = task.forward(net, frames, batch, choices, NO_DROPOUT, memory)
        return total_loss(computed.terms, task.weights), (computed, _more(net, computed, batch, choices), after)

    for number, given, loaded in ((1, "in/", first), (2, "in2/", second)):
        frames, batch = step_inputs(golden, "caption_raw_input_ids", given)
        step, choice = f"step{number}/", f"choice/step{number}/"
        choices = recorded_choices(golden, given, choice)
        total, (computed, more, memory), gradients = differentiate(objective, loaded.params, memory, frames, batch, choices)
        _compare_step(golden, account, task, computed, more, choices, total, f"out/{step}", choice)
        account.gradients(foreign_gradients(loaded.rules, gradients), f"grad/{step}")
        _compare_memory(golden, account, loaded, memory, f"out/{step}after/")


def _compare_memory(golden: Golden, account: Account, loaded: Loaded, memory: Memory, after: str) -> None:
    account.output(f"{after}img_queue", memory.clip_queue.T)
    account.output(f"{after}txt_queue", memory.text_queue.T)
    account.exact(f"{after}img_queue_ptr", np.asarray(memory.clip_pointer)[None])
    account.exact(f"{after}txt_queue_ptr", np.asarray(memory.text_pointer)[None])
    originals = {"img_encoder_k.": "model.module.img_encoder.", "txt_encoder_k.": "model.module.text_encoder."}
    for copy, original in originals.items():
        for name in golden.group(after + copy):
            rule = {name: loaded.rules[original + name]}
            account.output(after + copy + name, foreign_gradients(rule, memory.encoders)[name])
