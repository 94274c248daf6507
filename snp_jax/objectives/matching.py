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


def real_clips(scores: jax.Array, clip_mask: jax.Array) -> jax.Array:
    """Scores `[T, V, N]` in which clips that are padding (`clip_mask` `[V, N]` False) take no part."""
    return jnp.where(clip_mask[None], scores, EXCLUDED)


def pool_clips(scores: jax.Array, clip_mask: jax.Array) -> jax.Array:
    """Video-level score: log-sum-exp over real clips, `[T, V, N]` and `[V, N]` -> `[T, V]`."""
    return jax.nn.logsumexp(real_clips(scores, clip_mask), axis=-1)


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
    own = jnp.arange(valid.shape[0])
    losses = pair_losses(scores, anchor_clips(scores, anchor, axis=2), own, valid, anchor=anchor)
    return summed(losses, valid, weights)


def anchor_clips(x: jax.Array, anchor: str, axis: int) -> jax.Array:
    """The clips of an axis of N that may be positives: the middle one, or for "bag" all. The axis stays."""
    if anchor == "middle":
        middle = x.shape[axis] // 2
        return jax.lax.slice_in_dim(x, middle, middle + 1, axis=axis)
    if anchor != "bag":
        raise ValueError(f'anchor must be "middle" or "bag", not {anchor!r}')
    return x


def pair_losses(rows: jax.Array, columns: jax.Array, own: jax.Array, valid: jax.Array, *, anchor: str = "middle") -> jax.Array:
    """The losses of `mil_nce` for b of the B pairs, float32 `[b]`; that of an invalid pair means nothing.

    Args:
        rows: `[b, B, N]`, their texts against all clips.
        columns: `[B, b, A]`, all texts against their `anchor_clips`.
        own: int32 `[b]`, where they stand among all pairs.
        valid: bool `[B]`.
    """
    copies = rows.shape[2] if anchor == "middle" else 1  # rows of each text in the square matrix
    both = valid[own][:, None] & valid[None, :]  # [b, B]
    columns = jnp.where(both.T[..., None], columns, EXCLUDED)
    positive = jax.nn.logsumexp(columns[own, jnp.arange(own.shape[0])], axis=-1)
    all_texts = jax.nn.logsumexp(columns, axis=(0, 2))
    others = both & (own[:, None] != jnp.arange(valid.shape[0]))
    other_clips = jax.nn.logsumexp(jnp.where(others[..., None], rows, EXCLUDED), axis=(1, 2))
    return jnp.logaddexp(all_texts + jnp.log(copies), other_clips) - positive - jnp.log(copies)


def summed(losses: jax.Array, valid: jax.Array, weights: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
    """(sum, count) of the losses of valid pairs, `[b]` each, optionally weighted."""
    if weights is not None:
        losses = losses * weights
    return jnp.where(valid, losses, 0.0).sum(), valid.sum().astype(jnp.float32)


def mil_nce_square(
    scores: jax.Array, clips: int, valid: jax.Array, *, weights: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
    """MIL-NCE with the middle clip as anchor, on the square matrix in which every text has a row for each of its N clips.

    In training the N rows of a text are equal (`mil_nce`); UniVL's loss, and so the release's, lets them differ.

    Args:
        scores: float32 `[B * N, B * N]`, rows are texts.
        clips: N.
        valid, weights: as for `mil_nce`.
    """
    pairs, middle = valid.shape[0], clips // 2
    scores = scores.reshape(pairs, clips, pairs, clips)  # text, its copy, video, its clip
    both = valid[:, None] & valid[None, :]
    anchors = jnp.where(both[:, None], scores[..., middle], EXCLUDED)  # [B, N, B]
    positive = jax.nn.logsumexp(jnp.diagonal(anchors, axis1=0, axis2=2), axis=0)
    others = both & ~jnp.eye(pairs, dtype=bool)
    other_clips = jax.nn.logsumexp(jnp.where(others[..., None], scores[:, middle], EXCLUDED), axis=(1, 2))
    losses = jnp.logaddexp(jax.nn.logsumexp(anchors, axis=(0, 1)), other_clips) - positive
    return summed(losses, valid, weights)


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


def in_batch_recall(scores: jax.Array, own: jax.Array, valid: jax.Array) -> tuple[jax.Array, jax.Array]:
    """R@1 of text-to-video inside the batch, (sum, count); a tie for the first place counts by its average position.

    Args:
        scores: `[b, C]`, some texts against C videos each.
        own: int32 `[b]`, the column of each text's own video.
        valid: bool `[b, C]` or `[1, C]`, videos that count; a text counts if its own video does.
    """
    scores, right, rows = _ranked(scores, own, valid)
    better = (scores > right).sum(axis=1)
    tied = (scores == right).sum(axis=1) - 1
    hit = (better + tied / 2.0 < 1.0) & rows
    return hit.sum().astype(jnp.float32), rows.sum().astype(jnp.float32)


def in_batch_recall_listed(scores: jax.Array, own: jax.Array, valid: jax.Array) -> tuple[jax.Array, jax.Array]:
    """`in_batch_recall` by the release's rule: each column that ties with the right one is a query more, the first is a hit."""
    scores, right, rows = _ranked(scores, own, valid)
    first = ((scores > right).sum(axis=1) == 0) & rows
    listed = jnp.where(rows, (scores == right).sum(axis=1), 0)
    return first.sum().astype(jnp.float32), listed.sum().astype(jnp.float32)


def _ranked(scores: jax.Array, own: jax.Array, valid: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Scores without invalid videos, those of the right videos `[b, 1]`, and which texts count `[b]`."""
    valid = jnp.broadcast_to(valid, scores.shape)
    scores = jnp.where(valid, scores, -jnp.inf)
    right, rows = (jnp.take_along_axis(x, own[:, None], axis=1) for x in (scores, valid))
    return scores, right, rows[:, 0]
