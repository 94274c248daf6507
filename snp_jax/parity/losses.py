"""Cases of losses on raw arrays: MIL-NCE on similarity matrices, LVWM on word and clip features."""

from __future__ import annotations

import jax.numpy as jnp

from snp_jax.objectives import matching
from snp_jax.objectives.total import mean
from snp_jax.parity.compare import Account
from snp_jax.parity.golden import Golden
from snp_jax.parity.networks import differentiate


def mil_nce_case(golden: Golden, account: Account) -> None:
    """Square similarity matrices with one or several clips a pair, with and without weights a pair."""
    for number, case in enumerate(golden.config["cases"]):
        clips = case["n_pair"]
        valid = jnp.ones(case["batch"], bool)
        for suffix, weights in (("", None), ("_weighted", golden[f"in/weight_{number}"])):

            def objective(scores, clips=clips, valid=valid, weights=weights):
                return mean(matching.mil_nce_square(scores, clips, valid, weights=weights)), None

            value, _, gradient = differentiate(objective, golden[f"in/sim_{number}"])
            account.loss(f"out/loss{suffix}_{number}", value)
            account.gradient(f"out/grad_sim{suffix}_{number}", gradient)


def word_matching_case(golden: Golden, account: Account) -> None:
    """LVWM: words are not normalised, clip features are."""
    for number, case in enumerate(golden.config["cases"]):
        words, clips = golden[f"in/words_{number}"], golden[f"in/clip_feature_{number}"]
        features = clips.reshape(case["batch"], case["n_clips"], -1)
        valid = jnp.ones(case["batch"], bool)

        def objective(inputs, valid=valid):
            scores = matching.word_clip_similarity(*inputs)
            pooled = matching.pool_clips(scores, jnp.ones(scores.shape[1:], bool))
            return mean(matching.mil_nce(scores, valid)), pooled

        value, pooled, gradients = differentiate(objective, (words, features))
        account.loss(f"out/loss_{number}", value)
        account.output(f"out/simi_{number}", pooled)
        account.gradient(f"out/grad_words_{number}", gradients[0])
        account.gradient(f"out/grad_clip_{number}", gradients[1].reshape(clips.shape))
