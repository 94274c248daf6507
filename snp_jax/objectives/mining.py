"""Which pairs the cross encoder sees when it cannot see all of them: sampled or mined negatives, and weights of the pairs.

Pure functions of stage-1 similarities over the GLOBAL batch (SNP-S3 section III-B). `valid [B]`: an undecodable example is
neither anchor nor negative.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from snp_jax.objectives.matching import EXCLUDED, summed


class Similarities(NamedTuple):
    """Stage-1 scores of the b pairs that a program holds, of B in the batch; no gradient flows through a choice.

    Attributes:
        rows: float32 `[b, B]`, their texts against all videos.
        columns: float32 `[b, B]`, their videos against all texts.
        own: int32 `[b]`, where they stand among all pairs.
        valid: bool `[B]`.
    """

    rows: jax.Array
    columns: jax.Array
    own: jax.Array
    valid: jax.Array

    @property
    def positive(self) -> jax.Array:
        """Scores of the pairs themselves, `[b]`."""
        return _positive(self.rows, self.own)[:, 0]


class Negatives(NamedTuple):
    """Hard negatives: `videos` int32 `[b, k]` for each text, `texts` int32 `[b, k]` for each video; bool masks alike."""

    videos: jax.Array
    videos_mask: jax.Array
    texts: jax.Array
    texts_mask: jax.Array


def _positive(similarity: jax.Array, own: jax.Array) -> jax.Array:
    return jnp.take_along_axis(similarity, own[:, None], axis=1)  # [b, 1]


def _best_others(eligible: jax.Array, own: jax.Array, valid: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
    """The `count` most eligible (`[b, B]`) valid others of each row, and which of them are any."""
    usable = valid[own][:, None] & valid[None, :] & (own[:, None] != jnp.arange(valid.shape[0]))
    _, chosen = jax.lax.top_k(jnp.where(usable, jax.lax.stop_gradient(eligible), EXCLUDED), count)
    return chosen, jnp.take_along_axis(usable, chosen, axis=1)


def draw_negatives(keys: tuple[jax.Array, jax.Array], similarities: Similarities, count: int, temperature: float) -> Negatives:
    """Draws k other videos for each text and k other texts for each video, likelier the more similar stage 1 finds them.

    Sampling is without replacement with probabilities softmax(similarity / temperature) (Gumbel top-k); a high temperature
    draws uniformly, a low one takes the most similar.

    Args:
        keys: of the draws of each text and of each video, `[b]` each.
        count: k < B.
    """

    def draw(keys: jax.Array, scores: jax.Array) -> tuple[jax.Array, jax.Array]:
        noise = jax.vmap(lambda key: jax.random.gumbel(key, scores.shape[1:]))(keys)
        return _best_others(scores / temperature + noise, similarities.own, similarities.valid, count)

    return Negatives(*draw(keys[0], similarities.rows), *draw(keys[1], similarities.columns))


def closeness(similarity: jax.Array, own: jax.Array, rule: str) -> jax.Array:
    """How eligible a negative is, larger = harder, for `rule` "nearest" (score closest to the positive's) or "top_k".

    Args:
        similarity: float32 `[b, B]`.
        own: int32 `[b]`, where the positives are.
    """
    if rule == "nearest":
        return -jnp.abs(similarity - _positive(similarity, own))
    if rule == "top_k":
        return similarity
    raise ValueError(f'rule must be "nearest" or "top_k", not {rule!r}')


def mine_negatives(similarities: Similarities, count: int, rule: str) -> Negatives:
    """The k hardest other videos for each text and the k hardest other texts for each video, by stage-1 similarity.

    Args:
        count: k < B.
        rule: see `closeness`.
    """
    own, valid = similarities.own, similarities.valid
    sides = (similarities.rows, similarities.columns)
    videos, texts = (_best_others(closeness(side, own, rule), own, valid, count) for side in sides)
    return Negatives(*videos, *texts)


def mine_columns(similarities: Similarities, count: int, rule: str) -> jax.Array:
    """The videos of the authors' mined matrix, int32 `[b, count]`.

    For each text the `count` hardest videos of the batch, its own among them, and then its own once more in column b % count.
    """
    own, valid = similarities.own, similarities.valid
    eligible = jax.lax.stop_gradient(closeness(similarities.rows, own, rule))
    usable = valid[own][:, None] & valid[None, :]
    return put_own(jax.lax.top_k(jnp.where(usable, eligible, EXCLUDED), count)[1], own)


def put_own(columns: jax.Array, own: jax.Array) -> jax.Array:
    """`columns`, int32 `[b, s]`, with the pair itself, `own` int32 `[b]`, in column own % s of its row."""
    return columns.at[jnp.arange(own.shape[0]), own % columns.shape[1]].set(own)


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
        positive: `[b]` scores of the pairs.
        other_videos: `[b, k]`, text b against `negatives.videos[b]`.
        other_texts: `[b, k]`, `negatives.texts[b]` against video b.
        valid: bool `[b]`.
        weights: optional float32 `[b]`, multiplies each pair's loss.

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
    return summed(jax.nn.logsumexp(scores, axis=1) - positive, valid, weights)
