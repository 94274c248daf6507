"""Matching losses: MIL-NCE on similarities, word-clip similarity, choice cross entropy. Hard negatives are in `mining.py`.

Pure functions of arrays and masks over the GLOBAL batch: `[B_text, B_video, N]` similarities, `valid [B]` (an undecodable
example is neither anchor nor negative). Sources: SNP-S3 section III-B; MIL-NCE in the form of UniVL (Luo et al. 2020).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

EXCLUDED = -1e12
"""Score of an entry that takes no part in a log-sum-exp (finite, so that gradients stay finite)."""


def text_clip_similarity(text: jax.Array, clips: jax.Array) -> jax.Array:
    """Dot products of text features `[B, D]` and clip features `[B, N, D]` -> float32 `[B_text, B_video, N]`."""
    return jnp.einsum("td,vnd->tvn", text, clips, precision=jax.lax.Precision.HIGHEST, preferred_element_type=jnp.float32)


def word_clip_similarity(words: jax.Array, clips: jax.Array) -> jax.Array:
    """LVWM's similarity: log-sum-exp over the K words of word . clip.

    Args:
        words: un-normalised word features `[B, K, D]`.
        clips: clip features `[B, N, D]`.

    Returns:
        float32 `[B_text, B_video, N]`.
    """
    scores = jnp.einsum(
        "tkd,vnd->tkvn",
        words.astype(jnp.float32),
        clips,
        precision=jax.lax.Precision.HIGHEST,
        preferred_element_type=jnp.float32,
    )
    return jax.nn.logsumexp(scores, axis=1)


def pool_clips(scores: jax.Array, clip_mask: jax.Array) -> jax.Array:
    """Video-level score: log-sum-exp over real clips, `[T, V, N]` and `[V, N]` -> `[T, V]`."""
    return jax.nn.logsumexp(jnp.where(clip_mask[None], scores, EXCLUDED), axis=-1)


def mil_nce(
    scores: jax.Array,
    valid: jax.Array,
    *,
    anchor: str = "middle",
    weights: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """MIL-NCE over a batch of pairs.

    Every text is repeated for the N clips of a video, so a pair owns an N x N block of positives. With the published
    `anchor="middle"` only the middle clip m = N // 2 of a pair is a positive:

        loss_b = -log( N e^S[b,b,m] / ( N sum_t e^S[t,b,m] + sum_{v != b, n} e^S[b,v,n] ) ).

    `anchor="bag"` makes all clips of the pair positives (MIL-NCE as Miech et al. 2020 state it):

        loss_b = -log( sum_n e^S[b,b,n] / ( sum_{t, n} e^S[t,b,n] + sum_{v != b, n} e^S[b,v,n] ) ).

    Args:
        scores: float32 `[B_text, B_video, N]`.
        valid: bool `[B]`; other pairs are left out altogether.
        weights: optional float32 `[B]`, multiplies each pair's loss (hard-example re-weighting).

    Returns:
        (sum of losses, number of valid pairs).
    """
    pairs, _, clips = scores.shape
    own = jnp.eye(pairs, dtype=bool)
    both = valid[:, None] & valid[None, :]
    scores = jnp.where(both[..., None], scores, EXCLUDED)
    diagonal = jnp.diagonal(scores, axis1=0, axis2=1).T  # [B, N]: own clips
    others = jnp.where(own[..., None], EXCLUDED, scores)  # [B, B, N]
    negative_clips = jax.nn.logsumexp(others, axis=(1, 2))  # [B]: this text against other videos' clips
    if anchor == "middle":
        middle = clips // 2
        positive = jnp.log(clips) + diagonal[:, middle]
        all_texts = jnp.log(clips) + jax.nn.logsumexp(scores[:, :, middle], axis=0)
    elif anchor == "bag":
        positive = jax.nn.logsumexp(diagonal, axis=1)
        all_texts = jax.nn.logsumexp(scores, axis=(0, 2))
    else:
        raise ValueError(f'anchor must be "middle" or "bag", not {anchor!r}')
    losses = jnp.logaddexp(all_texts, negative_clips) - positive
    if weights is not None:
        losses = losses * weights
    return jnp.where(valid, losses, 0.0).sum(), valid.sum().astype(jnp.float32)


def choice_loss(logits: jax.Array, label: jax.Array, valid: jax.Array) -> dict[str, tuple]:
    """Cross entropy and accuracy of picking one of C classes (answers, or options of a question).

    Args:
        logits: float32 `[B, C]`.
        label: int32 `[B]`; -1 = the right answer is not among the classes: no loss, and counted as wrong.
        valid: bool `[B]`.
    """
    labelled = valid & (label >= 0)
    target = jnp.maximum(label, 0)
    log_probability = jax.nn.log_softmax(logits, axis=-1)
    loss = -jnp.take_along_axis(log_probability, target[:, None], axis=1)[:, 0]
    correct = (logits.argmax(axis=-1) == target) & labelled
    return {
        "loss": (jnp.where(labelled, loss, 0.0).sum(), labelled.sum().astype(jnp.float32)),
        "accuracy": (correct.sum().astype(jnp.float32), valid.sum().astype(jnp.float32)),
    }


def in_batch_recall(scores: jax.Array, valid: jax.Array) -> tuple[jax.Array, jax.Array]:
    """R@1 of text-to-video inside the batch, (sum, count); a tie for the first place counts by its average position."""
    scores = jnp.where(valid[None, :], scores, -jnp.inf)
    own = jnp.diagonal(scores)[:, None]
    better = (scores > own).sum(axis=1)
    tied = (scores == own).sum(axis=1) - 1
    hit = (better + tied / 2.0 < 1.0) & valid
    return hit.sum().astype(jnp.float32), valid.sum().astype(jnp.float32)


def in_batch_recall_listed(scores: jax.Array, valid: jax.Array) -> tuple[jax.Array, jax.Array]:
    """`in_batch_recall` by the release's rule: each column that ties with the right one is a query more, the first is a hit."""
    scores = jnp.where(valid[None, :], scores, -jnp.inf)
    own = jnp.diagonal(scores)[:, None]
    first = ((scores > own).sum(axis=1) == 0) & valid
    listed = jnp.where(valid, (scores == own).sum(axis=1), 0)
    return first.sum().astype(jnp.float32), listed.sum().astype(jnp.float32)
