"""Whole steps of the authors' code, repeated: every intermediate, loss and gradient of each task, with the recorded choices.

The goldens come from `tests/goldens`, or from `../shared/goldens` where that is present.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from snp_jax.convert.rules import apply, invert
from snp_jax.convert.snp import map_snp
from snp_jax.models.bert import BertConfig
from snp_jax.models.network import Network
from snp_jax.models.pvt import PVTConfig
from snp_jax.models.resnet import ResNetConfig
from snp_jax.models.snp import SNP, SNPConfig
from snp_jax.models.temporal import TemporalConfig
from snp_jax.models.video_swin import VideoSwinConfig
from snp_jax.objectives.masking import Masked
from snp_jax.objectives.order import ClipOrder
from snp_jax.objectives.total import mean, total_loss
from snp_jax.train import tasks
from snp_jax.train.choices import FalseCaptions, FixedChoices
from snp_jax.train.compat import Compat
from snp_jax.train.gvtm import MatchingOptions
from snp_jax.train.momentum import Memory, MocoOptions
from snp_jax.train.pretrain import DRAWS, MORE_DRAWS, PretrainTask

ROOT = Path(__file__).parents[2]
FOLDERS = (ROOT / "tests/goldens", ROOT.parent / "shared/goldens")
NO_DROPOUT = dict.fromkeys((*DRAWS, *MORE_DRAWS, "pair_dropout", "match"))
MATCHING = MatchingOptions(
    anchor="middle",
    temperature=1.0,
    negatives=0,
    mining="sample",
    draw_temperature=1.0,
    reweight="none",
    local_groups=1,
    chunk=5,
    similarity_chunk=0,
)
WEIGHTS = dict.fromkeys(("mlm_text", "mlm_cross", "gvtm_stage1", "gvtm_stage2", "lvwm", "itm"), 1.0) | {"fom": 0.0, "tags": 0.0}
RELEASE = Compat(**{field.name: True for field in dataclasses.fields(Compat)})
LOSSES = {
    "gvtm_stage1": "level1_similarity_loss", "gvtm_stage2": "level2_similarity_loss", "mlm_cross": "masked_lm_loss",
    "mlm_text": "masked_lm_text_encoder_loss", "itm": "itm_loss", "fom": "fom_loss", "lvwm": "VWM_after_similarity_loss",
    "lvwm_after": "VWM_after_similarity_loss", "lvwm_before": "VWM_before_similarity_loss",
}  # fmt: skip
"""Our name of a loss -> the release's."""


def read(name):
    """(config, arrays) of a golden; the test is skipped where there is none."""
    for folder in FOLDERS:
        if (folder / f"{name}.npz").exists():
            arrays = np.load(folder / f"{name}.npz")
            return json.loads((folder / f"{name}.json").read_text())["config"], {key: arrays[key] for key in arrays.files}
    pytest.skip(f"no golden {name!r} in {' or '.join(map(str, FOLDERS))}")


def visual_config(sizes, arrays):
    """The tiny encoder of a golden; what its config leaves to the class's defaults is read off the parameters."""
    shapes = {
        key.split("img_encoder.")[1]: x.shape for key, x in arrays.items() if key.startswith("param/") and "img_encoder." in key
    }

    def depths(pattern):
        return tuple(len({key.split(".")[at] for key in shapes if key.startswith(p)}) for p, at in pattern)

    if sizes["type"] == "TinyPVT":
        return PVTConfig(
            tuple(sizes["params"]["pvt"]["embed_dims"]), depths([(f"model.block{i}.", 2) for i in range(1, 5)]),
            tuple(sizes["params"]["pvt"]["num_heads"]), tuple(sizes["params"]["pvt"]["mlp_ratios"]),
        )  # fmt: skip
    if sizes["type"] == "TinySwin":
        swin = sizes["params"]["swin"]
        blocks = depths([(f"swin.layers.{i}.blocks.", 4) for i in range(4)])
        return VideoSwinConfig(swin["embed_dim"], blocks, tuple(swin["num_heads"]))
    planes = tuple(shapes[f"model.layer{i}.0.conv1.weight"][0] for i in range(1, 5))
    return ResNetConfig(depths([(f"model.layer{i}.", 2) for i in range(1, 5)]), planes, shapes["model.conv1.weight"][0])


def network(config, arrays, *, prefix, word_heads="mlm_head.", **heads):
    """(model, name map, parameters) of a golden. Only heads that the golden's task lacks may be missing."""

    def bert(section):
        sizes = config[section]["params"]
        return BertConfig(
            vocab_size=sizes["vocab_size"], width=sizes["hidden_size"], layers=sizes["num_hidden_layers"],
            heads=sizes["num_attention_heads"], mlp_width=sizes["intermediate_size"],
            max_positions=sizes["max_position_embeddings"],
        )  # fmt: skip

    temporal = None
    if config["with_temporal_encoder"]:
        own = bert("temporal_encoder")
        temporal = TemporalConfig(own.layers, own.max_positions, config["max_clip_len"])
    settings = SNPConfig(
        bert=bert("text_encoder"), visual=visual_config(config["image_encoder"], arrays), sep_id=102, temporal=temporal, **heads
    )
    rules = map_snp(settings, prefix, word_heads)
    applied = apply(rules, {key[6:]: x for key, x in arrays.items() if key.startswith("param/")})
    assert all(".head." in name or "temporal_encoder.module.pooler" in name for name in applied.unused)
    assert all("similarity_dense" in name for name in applied.missing)
    return SNP(settings), rules, applied.params


def close(got, wanted, name, tolerance=1e-4):
    assert got.shape == wanted.shape, name
    np.testing.assert_allclose(got, wanted, rtol=0, atol=tolerance * max(np.abs(wanted).max(), 1e-4), err_msg=name)


def check_gradients(rules, gradients, arrays, prefix="grad/"):
    ours = invert({name: rule for name, rule in rules.items() if f"{prefix}{name}" in arrays}, gradients)
    recorded = [key[len(prefix) :] for key in arrays if key.startswith(prefix)]
    assert len(recorded) >= 6 and set(ours) == set(recorded)
    for name in recorded:
        # PyTorch stops the gradient of the padding word (id 0); ours has one where a padded output is used.
        skip = int(name.endswith("text_encoder.embeddings.word_embeddings.weight"))
        close(ours[name][skip:], arrays[f"{prefix}{name}"][skip:], name, 1e-3)


def step_inputs(arrays, ids, prefix="in/"):
    """(frames, batch without its video) of a golden."""
    frames = arrays[f"{prefix}image_data"].transpose(0, 1, 3, 4, 2)
    batch = {
        "video_mask": np.ones(frames.shape[:2], bool),
        "pixel_mask": ~arrays[f"{prefix}image_pad_mask"],
        "text_ids": arrays[f"{prefix}{ids}"],
        "text_ids_to_mask": arrays[f"{prefix}{ids}"],
        "text_mask": arrays[f"{prefix}caption_input_mask"].astype(bool),
        "valid": np.ones(len(frames), bool),
    }
    return frames, jax.tree.map(jnp.asarray, batch)


def recorded_choices(arrays, given="in/", choice="choice/"):
    masked = Masked(arrays[f"{given}caption_input_ids"], arrays[f"{given}caption_lm_label_ids"])
    attended = shuffle = None
    if f"{choice}attentive_cross_ids" in arrays:
        attended = Masked(arrays[f"{choice}attentive_cross_ids"], arrays["out/mlm_labels_used"])
    if f"{choice}fom_order" in arrays:
        shuffle = ClipOrder(arrays[f"{choice}fom_order"], arrays[f"{choice}fom_target"])
    false = FalseCaptions(
        arrays[f"{given}caption_false_input_ids"],
        arrays[f"{given}caption_false_input_mask"].astype(bool),
        np.ones(len(masked.ids), bool),
    )
    parts = (masked, attended, arrays[f"{choice}vwm_index"], false, shuffle, arrays.get(f"{choice}hard_negative_index"))
    return FixedChoices(*jax.tree.map(jnp.asarray, parts))


def pretrain_task(config, num_clips, **changes):
    stage = config["pretraining_heads"]["MASK_All_IWords_info"]["VWM_count_stage"]
    fom = float(config["with_temporal_encoder"])
    hard = config["hard_example_mining"]
    matching = dataclasses.replace(MATCHING, mining="nearest", reweight="median") if hard else MATCHING
    settings = {
        "num_clips": num_clips, "weights": WEIGHTS | {"fom": fom}, "matching": matching, "moco": None, "compat": RELEASE,
        "masker": None, "mask_ratio": 0.15, "attentive": 0.0, "significant": None, "special_ids": (0, 101, 102, 103),
        "mask_id": 103, "lvwm": stage, "words_per_caption": 3, "matching_caption": "masked", "order_ratio": 0.6,
    }  # fmt: skip
    return PretrainTask(**(settings | changes))


def check_shown(shown, arrays, out="out/"):
    """Every intermediate that both sides have."""
    clips, text, cross = shown["clips"], shown["text"], shown["cross"]
    pairs = {
        "clip_tokens": clips.tokens, "clip_feature": clips.features.reshape(-1, clips.features.shape[-1]),
        "text_feature": text.feature, "text_sequence_output": text.sequence, "words_importance": text.importance,
        "cross_text_output": cross.sequence, "cross_visual_output": cross.clips, "cross_pooled": cross.pooled,
        "l1_simi": shown["similarity"], "l2_simi": shown["scores"][0], "cross_pooled_false": shown["false_pooled"],
        "mlm_text_encoder_logits": shown["text_logits"], "mlm_cross_logits": shown["cross_logits"],
        "VWM_after_simi": shown["lvwm_after"],
    }  # fmt: skip
    if "lvwm_before" in shown:
        pairs["VWM_before_simi"] = shown["lvwm_before"]
    if "order_logits" in shown:
        pairs["fom_shuffled_input"], pairs["fom_temporal_output"] = shown["order_input"], shown["order_output"]
        pairs["fom_logits"] = shown["order_logits"].reshape(-1, shown["order_logits"].shape[-1])
    checked = [name for name in pairs if f"{out}{name}" in arrays]
    assert len(checked) >= 10
    for name in checked:
        close(pairs[name], arrays[f"{out}{name}"], name)


def check_losses(terms, total, arrays, out="out/"):
    """Each loss, their sum, and that no loss of the release is left out."""
    names = {name: LOSSES[name] for name in terms if name in LOSSES and not (name == "lvwm" and "lvwm_before" in terms)}
    assert {f"{out}losses/{theirs}" for theirs in names.values()} == {key for key in arrays if key.startswith(f"{out}losses/")}
    for ours, theirs in names.items():
        np.testing.assert_allclose(mean(terms[ours]), arrays[f"{out}losses/{theirs}"], rtol=1e-4, err_msg=ours)
    np.testing.assert_allclose(total, arrays[f"{out}total_loss"], rtol=1e-4)


def cases(*names, slow):
    """Test parameters; those in `slow` compile for long and are run by hand (pytest -m slow)."""
    return [*names, *(pytest.param(name, marks=pytest.mark.slow) for name in slow)]


@pytest.mark.parametrize("case", cases("plain", slow=("attentive", "fom", "hard_nearliest", "resnet", "swin")))
def test_pretraining_step(case):
    config, arrays = read(f"pretrain_{case}")
    model, rules, params = network(config, arrays, prefix="model.", itm=True)
    task = pretrain_task(config, int(arrays["in/n_clips"]))
    frames, batch = step_inputs(arrays, "caption_raw_input_ids")
    choices = recorded_choices(arrays)

    def objective(params):
        computed, _ = task.forward(Network(model, params), frames, batch, choices, NO_DROPOUT, None)
        return total_loss(computed.terms, task.weights), computed

    (total, computed), gradients = jax.jit(jax.value_and_grad(objective, has_aux=True))(params)
    check_shown(computed.shown, arrays)
    check_losses(computed.terms | computed.metrics, total, arrays)
    check_gradients(rules, gradients, arrays)
    squares = sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(gradients))
    np.testing.assert_allclose(jnp.sqrt(squares), arrays["out/grad_global_norm"], rtol=2e-3)


@pytest.mark.parametrize("case", cases("train", slow=("eval_1clip",)))
def test_retrieval_step(case):
    config, arrays = read(f"retrieval_{case}")
    model, rules, params = network(config, arrays, prefix="", word_heads=None)
    weights = {"gvtm_stage1": 1.0, "gvtm_stage2": 1.0}
    task = tasks.RetrievalTask(int(arrays["in/n_clips"]), weights, MATCHING, None, Compat())
    frames, batch = step_inputs(arrays, "caption_raw_input_ids")

    def objective(params):
        computed, _ = task.forward(Network(model, params), frames, batch, None, NO_DROPOUT, None)
        return total_loss(computed.terms, weights), computed

    (total, computed), gradients = jax.jit(jax.value_and_grad(objective, has_aux=True))(params)
    close(computed.shown["similarity"], arrays["out/l1_simi"], "l1_simi")
    close(computed.shown["scores"][0], arrays["out/l2_simi"], "l2_simi")
    check_losses(computed.terms, total, arrays)
    check_gradients(rules, gradients, arrays)


@pytest.mark.parametrize("case", cases(slow=("classification", "multichoice")))
def test_answering_step(case):
    config, arrays = read(case)
    answers = {"num_answers": config["num_labels"]} if case == "classification" else {}
    model, rules, params = network(config, arrays, prefix="", word_heads=None, **answers)
    task = (tasks.AnswerTask if answers else tasks.ChoiceTask)(int(arrays["in/n_clips"]))
    frames, batch = step_inputs(arrays, "caption_input_ids")
    batch["label"] = jnp.asarray(arrays["in/targets"])

    def objective(params):
        computed = task.forward(Network(model, params), frames, batch, NO_DROPOUT)
        ((total, count),) = computed.terms.values()
        return total / count, computed

    (loss, computed), gradients = jax.jit(jax.value_and_grad(objective, has_aux=True))(params)
    close(computed.shown["logits"], arrays["out/logits"], "logits")
    if answers:
        close(computed.shown["pooled"], arrays["out/out_feat"], "out_feat")
    np.testing.assert_allclose(loss, arrays["out/loss"], rtol=1e-4)
    check_gradients(rules, gradients, arrays)


@pytest.mark.slow
def test_two_steps_with_momentum_contrast():
    """Losses, gradients, queues, pointers and key encoders of two steps, with the release's clamped queues."""
    config, arrays = read("pretrain_moco_2steps")
    model, rules, params = network(config, arrays, prefix="model.", itm=True)
    second = apply(rules, {key[7:]: x for key, x in arrays.items() if key.startswith("param2/")}).params
    queues = MocoOptions(config["M"], config["T"], config["img_K"], config["K"], clamped=True)
    task = pretrain_task(config, int(arrays["in/n_clips"]), moco=queues)
    memory = task.init_memory(params, jax.random.key(0)).replace(
        clip_queue=jnp.asarray(arrays["in/img_queue"].T), text_queue=jnp.asarray(arrays["in/txt_queue"].T),
        clip_pointer=jnp.asarray(arrays["in/img_queue_ptr"][0]), text_pointer=jnp.asarray(arrays["in/txt_queue_ptr"][0]),
    )  # fmt: skip

    @jax.jit
    def step(params, memory, frames, batch, choices):
        def objective(params):
            computed, after = task.forward(Network(model, params), frames, batch, choices, NO_DROPOUT, memory)
            return total_loss(computed.terms, task.weights), (computed, after)

        return jax.value_and_grad(objective, has_aux=True)(params)

    for number, given, weights in ((1, "in/", params), (2, "in2/", second)):
        frames, batch = step_inputs(arrays, "caption_raw_input_ids", given)
        choices = recorded_choices(arrays, given, f"choice/step{number}/")
        (total, (computed, memory)), gradients = step(weights, memory, frames, batch, choices)
        out = f"out/step{number}/"
        check_shown(computed.shown, arrays, out)
        check_losses(computed.terms | computed.metrics, total, arrays, out)
        check_gradients(rules, gradients, arrays, f"grad/step{number}/")
        check_memory(memory, rules, arrays, f"{out}after/")


def check_memory(memory: Memory, rules, arrays, after):
    close(memory.clip_queue.T, arrays[f"{after}img_queue"], "img_queue")
    close(memory.text_queue.T, arrays[f"{after}txt_queue"], "txt_queue")
    assert (memory.clip_pointer, memory.text_pointer) == (arrays[f"{after}img_queue_ptr"], arrays[f"{after}txt_queue_ptr"])
    keys = {"img_encoder_k.": "model.module.img_encoder.", "txt_encoder_k.": "model.module.text_encoder."}
    checked = 0
    for copy, original in keys.items():
        for key in (key for key in arrays if key.startswith(f"{after}{copy}")):
            name = key.replace(f"{after}{copy}", original)
            close(invert({name: rules[name]}, memory.encoders)[name], arrays[key], key)
            checked += 1
    assert checked == 4
