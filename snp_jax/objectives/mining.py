"""Which pairs the cross encoder sees when it cannot see all of them: sampled or mined negatives, and weights of the pairs.

Pure functions of stage-1 similarities over the GLOBAL batch (SNP-S3 section III-B). `valid [B]`: an undecodable example is
neither anchor nor negative.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from snp_jax.objectives.matching import EXCLUDED


class Negatives(NamedTuple):
    """Hard negatives: `videos` int32 `[B, k]` for each text, `texts` int32 `[B, k]` for each video; bool masks alike."""

    videos: jax.Array
    videos_mask: jax.Array
    texts: jax.Array
    texts_mask: jax.Array


def draw_negatives(key: jax.Array, similarity: jax.Array, valid: jax.Array, count: int, temperature: float) -> Negatives:
    """Draws k other videos for each text and k other texts for each video, likelier the more similar stage 1 finds them.

    Sampling is without replacement with probabilities softmax(similarity / temperature) (Gumbel top-k); a high temperature
    draws uniformly, a low one takes the most similar.

    Args:
        similarity: float32 `[B_text, B_video]`; no gradient flows through the draw.
        count: k < B.
    """
    pairs = similarity.shape[0]
    usable = valid[:, None] & valid[None, :] & ~jnp.eye(pairs, dtype=bool)
    logits = jnp.where(usable, jax.lax.stop_gradient(similarity) / temperature, EXCLUDED)
    noise = jax.random.gumbel(key, (2, pairs, pairs))
    _, videos = jax.lax.top_k(logits + noise[0], count)
    _, texts = jax.lax.top_k(logits.T + noise[1], count)
    return Negatives(
        videos,
        jnp.take_along_axis(usable, videos, axis=1),
        texts,
        jnp.take_along_axis(usable.T, texts, axis=1),
    )


def closeness(similarity: jax.Array, rule: str) -> jax.Array:
    """How eligible a negative is, larger = harder, for `rule` "nearest" (score closest to the positive's) or "top_k".

    Args:
        similarity: float32 `[B_text, B_video]`, positives on the diagonal; the result carries no gradient.
    """
    similarity = jax.lax.stop_gradient(similarity)
    if rule == "nearest":
        return -jnp.abs(similarity - jnp.diagonal(similarity)[:, None])
    if rule == "top_k":
        return similarity
    raise ValueError(f'rule must be "nearest" or "top_k", not {rule!r}')


def mine_negatives(similarity: jax.Array, valid: jax.Array, count: int, rule: str) -> Negatives:
    """The k hardest other videos for each text and the k hardest other texts for each video, by stage-1 similarity.

    Args:
        similarity: float32 `[B_text, B_video]` over the global batch.
        count: k < B.
        rule: see `closeness`.
    """
    usable = valid[:, None] & valid[None, :] & ~jnp.eye(valid.shape[0], dtype=bool)
    _, videos = jax.lax.top_k(jnp.where(usable, closeness(similarity, rule), EXCLUDED), count)
    _, texts = jax.lax.top_k(jnp.where(usable.T, closeness(similarity.T, rule), EXCLUDED), count)
    return Negatives(
        videos,
        jnp.take_along_axis(usable, videos, axis=1),
        texts,
        jnp.take_along_axis(usable.T, texts, axis=1),
    )


def mine_columns(similarity: jax.Array, valid: jax.Array, count: int, rule: str) -> jax.Array:
    """The videos of the authors' mined matrix, int32 `[B, count]`.

    For each text the `count` hardest videos of the batch, its own among them, and then its own once more in column b % count.
    """
    usable = valid[:, None] & valid[None, :]
    return put_own(jax.lax.top_k(jnp.where(usable, closeness(similarity, rule), EXCLUDED), count)[1])


def put_own(columns: jax.Array) -> jax.Array:
    """`columns`, int32 `[B, s]`, with video b in column b % s of row b."""
    own = jnp.arange(columns.shape[0], dtype=jnp.int32)
    return columns.at[own, own % columns.shape[1]].set(own)


def median_weights(positive: jax.Array, valid: jax.Array) -> jax.Array:
    """Weights of "median" re-weighting, float32 `[B]`: a pair that stage 1 finds easier than the mean pair counts less.

    With m the mean and l the least of the valid positives, a score s > m gets max((m - l) / (s - l), 0.2), others 1.
    (The name is the release's; it is the mean that is computed.)

    Args:
        positive: float32 `[B]`, stage-1 scores of the pairs; no gradient flows through the weights.
    """
    positive = jax.lax.stop_gradient(positive)
    mean = jnp.where(valid, positive, 0.0).sum() / jnp.maximum(valid.sum(), 1)
    least = jnp.where(valid, positive, jnp.inf).min()
    easy = valid & (positive > mean)
    ratio = (mean - least) / jnp.where(easy, positive - least, 1.0)
    return jnp.where(easy, jnp.maximum(ratio, 0.2), 1.0)


def sampled_nce(
    positive: jax.Array,
    other_videos: jax.Array,
    other_texts: jax.Array,
    negatives: Negatives,
    valid: jax.Array,
    *,
    weights: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """MIL-NCE (N = 1) with k sampled negatives a side instead of the whole matrix; with k = B - 1 the two are equal.

    Args:
        positive: `[B]` scores of the pairs.
        other_videos: `[B, k]`, text b against `negatives.videos[b]`.
        other_texts: `[B, k]`, `negatives.texts[b]` against video b.
        weights: optional float32 `[B]`, multiplies each pair's loss.

    Returns:
        (sum of losses, number of valid pairs).
    """
    scores = jnp.concatenate(
        [
            positive[:, None],
            jnp.where(negatives.videos_mask, other_videos, EXCLUDED),
            jnp.where(negatives.texts_mask, other_texts, EXCLUDED),
        ],
        axis=1,
    )
    losses = jax.nn.logsumexp(scores, axis=1) - positive
    if weights is not None:
        losses = losses * weights
    return jnp.where(valid, losses, 0.0).sum(), valid.sum().astype(jnp.float32)
