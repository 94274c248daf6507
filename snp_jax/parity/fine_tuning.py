"""Cases of whole fine-tuning steps: retrieval, question answering, multiple choice."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from snp_jax.models.network import Network
from snp_jax.objectives.total import mean, total_loss
from snp_jax.parity.compare import Account
from snp_jax.parity.golden import Golden
from snp_jax.parity.networks import channels_first, differentiate, foreign_gradients, intermediates, load_snp
from snp_jax.parity.steps import LOSSES, NO_DROPOUT, RELEASE, matching_options, step_inputs
from snp_jax.train import tasks
from snp_jax.train.choices import FixedChoices


def retrieval_case(golden: Golden, account: Account) -> None:
    """Both stages of GVTM on un-masked captions."""
    loaded = load_snp(golden)
    weights = {"gvtm_stage1": 1.0, "gvtm_stage2": 1.0}
    task = tasks.RetrievalTask(int(golden["in/n_clips"]), weights, matching_options(golden.config), None, RELEASE)
    mined = golden.arrays.get("choice/hard_negative_index")
    choices = FixedChoices(mined=None if mined is None else jnp.asarray(mined))
    frames, batch = step_inputs(golden, "caption_raw_input_ids")

    def objective(params):
        net = Network(loaded.model, params)
        computed, _ = task.forward(net, frames, batch, choices, NO_DROPOUT, None)
        clips, text = (
            tasks.encode_frames(net, frames, batch, task.num_clips, None),
            net.text(batch["text_ids"], batch["text_mask"]),
        )
        videos = net.clip_inputs(clips.tokens, clips.mask)
        _, inner = net.model.apply(
            {"params": params}, frames, batch["video_mask"], num_clips=task.num_clips, pixel_mask=batch["pixel_mask"],
            deterministic=True, method="encode_video", capture_intermediates=True, mutable=["intermediates"],
        )  # fmt: skip
        inner = intermediates(inner)
        grid = inner["visual_projection"] if "visual_projection" in inner else inner["visual"].grid
        named = {
            "grid_feature": grid, "clip_tokens": clips.tokens, "text_sequence_output": text.sequence,
            "text_feature": text.feature, "clip_feature": clips.features.reshape(-1, clips.features.shape[-1]),
            "cap_embed": text.embedded, "visual_cross_embed": videos.embedded, "visual_cross_mask": videos.mask,
            "l1_simi": computed.shown["similarity"], "l2_simi": computed.shown["scores"][0],
        }  # fmt: skip
        return total_loss(computed.terms, weights), (computed, named)

    total, (computed, named), gradients = differentiate(objective, loaded.params)
    account.exact("out/visual_cross_mask", np.asarray(named.pop("visual_cross_mask")).astype(np.int32))
    account.outputs("out/", named | {"grid_feature": channels_first(named["grid_feature"])})
    for ours in weights:
        account.loss(f"out/losses/{LOSSES[ours]}", mean(computed.terms[ours]))
    account.loss("out/total_loss", total)
    account.gradients(foreign_gradients(loaded.rules, gradients))


def answering_case(golden: Golden, account: Account) -> None:
    """Question answering as classification, or multiple choice."""
    loaded = load_snp(golden)
    make = tasks.AnswerTask if loaded.model.config.num_answers else tasks.ChoiceTask
    task = make(int(golden["in/n_clips"]))
    frames, batch = step_inputs(golden, "caption_input_ids")
    batch["label"] = jnp.asarray(golden["in/targets"])

    def objective(params):
        computed = task.forward(Network(loaded.model, params), frames, batch, NO_DROPOUT)
        ((total, count),) = computed.terms.values()
        return total / count, computed.shown

    loss, shown, gradients = differentiate(objective, loaded.params)
    account.output("out/logits", shown["logits"])
    if "out/out_feat" in golden:
        account.output("out/out_feat", shown["pooled"])
    account.loss("out/loss", loss)
    account.gradients(foreign_gradients(loaded.rules, gradients))
