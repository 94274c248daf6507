"""Which caption tokens are masked, and the masked-word loss.

Pure functions of arrays and a key (SNP-S3 sections III-B and III-C). Word choice for LVWM is here too, since it reads the same
tables. Nothing here knows a network.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

IGNORE = -1
"""Label of a position that is not predicted."""


class Masked(NamedTuple):
    """A masked caption: `ids` int32 `[B, L]` as the network reads them, `labels` int32 `[B, L]` (`IGNORE` elsewhere)."""

    ids: jax.Array
    labels: jax.Array


class WordArrays(NamedTuple):
    """Device copy of `snp_jax.data.words.WordTables`.

    Attributes:
        significant: bool `[V]`.
        significant_ids: int32 `[S]`, S >= 1.
        lemma_ids: int32 `[V, M]`, ids sharing the lemma (padded with -1).
        lemma_count: int32 `[V]`, how many of `lemma_ids` are real; 0 = the word has no list.
    """

    significant: jax.Array
    significant_ids: jax.Array
    lemma_ids: jax.Array
    lemma_count: jax.Array


def masked_token_count(tokens: int, ratio: float) -> int:
    """How many of a caption's `tokens` MSSM masks: floor(ratio T), plus one if at least 0.3 is left over."""
    exact = ratio * tokens
    whole = int(exact)
    return whole + (exact - whole >= 0.3)


def _rank(scores: jax.Array) -> jax.Array:
    """Descending rank along the last axis, 0 = largest; ties go to the earlier position."""
    order = jnp.argsort(-scores, axis=-1, stable=True)
    return jnp.argsort(order, axis=-1, stable=True)


def _corrupt(key: jax.Array, ids: jax.Array, chosen: jax.Array, replacement: jax.Array, mask_id: int) -> Masked:
    """BERT's rule on the chosen positions: 80 % [MASK], 10 % `replacement`, 10 % left as they are."""
    draw = jax.random.uniform(key, ids.shape)
    corrupted = jnp.where(draw < 0.8, mask_id, jnp.where(draw < 0.9, replacement, ids))
    return Masked(jnp.where(chosen, corrupted, ids), jnp.where(chosen, ids, IGNORE))


def mask_any(key: jax.Array, ids: jax.Array, maskable: jax.Array, *, ratio: float, vocab_size: int, mask_id: int) -> Masked:
    """MLM: every maskable token with probability `ratio`.

    Args:
        ids: int32 `[B, L]`.
        maskable: bool `[B, L]`, True on caption tokens (no padding, no special token).
    """
    choose, corrupt, replace = jax.random.split(key, 3)
    chosen = maskable & (jax.random.uniform(choose, ids.shape) < ratio)
    replacement = jax.random.randint(replace, ids.shape, 0, vocab_size)
    return _corrupt(corrupt, ids, chosen, replacement, mask_id)


def mask_significant(
    key: jax.Array, ids: jax.Array, maskable: jax.Array, words: WordArrays, *, ratio: float, mask_id: int
) -> Masked:
    """MSSM: `masked_token_count` positions per caption, significant tokens first, the rest from the others.

    The random replacement is a significant word, then one of the words that share its lemma (the word itself where it has no
    list). Arguments as in `mask_any`.
    """
    choose, corrupt, pick, sibling = jax.random.split(key, 4)
    wanted = _wanted(maskable, ratio)
    score = jax.random.uniform(choose, ids.shape) + words.significant[ids]
    chosen = (_rank(jnp.where(maskable, score, -1.0)) < wanted[:, None]) & maskable
    return _corrupt(corrupt, ids, chosen, _significant_words(pick, sibling, ids.shape, words), mask_id)


def mask_significant_antmmf(
    key: jax.Array, ids: jax.Array, maskable: jax.Array, words: WordArrays, *, ratio: float, mask_id: int
) -> Masked:
    """`mask_significant` with the release's fallback where a caption has too few significant tokens.

    The tokens that are short are drawn as positions below the NUMBER of other tokens, whatever stands there; they become [MASK]
    and so do their labels. Then every significant token is masked as usual.
    """
    choose, corrupt, pick, sibling = jax.random.split(key, 4)
    significant = maskable & words.significant[ids]
    found = significant.sum(axis=1)
    wanted, others = _wanted(maskable, ratio), maskable.sum(axis=1) - found
    draw = jax.random.uniform(choose, ids.shape)
    low = maskable & (jnp.cumsum(maskable, axis=1) <= others[:, None])
    fallback = low & (_rank(jnp.where(low, draw, -1.0)) < (wanted - found)[:, None])
    emptied = jnp.where(fallback, mask_id, ids)
    chosen = significant & (_rank(jnp.where(significant, draw, -1.0)) < wanted[:, None])
    masked = _corrupt(corrupt, emptied, chosen, _significant_words(pick, sibling, ids.shape, words), mask_id)
    return Masked(masked.ids, jnp.where(fallback, mask_id, masked.labels))


def _wanted(maskable: jax.Array, ratio: float) -> jax.Array:
    """`masked_token_count` of each caption, int32 `[B]`."""
    counts = jnp.asarray([masked_token_count(t, ratio) for t in range(maskable.shape[1] + 1)], jnp.int32)
    return counts[maskable.sum(axis=1)]


def _significant_words(pick: jax.Array, sibling: jax.Array, shape: tuple[int, ...], words: WordArrays) -> jax.Array:
    """Random significant words, then for each one of the words of its lemma list."""
    word = jax.random.choice(pick, words.significant_ids, shape)
    listed = words.lemma_count[word]
    slot = (jax.random.uniform(sibling, shape) * listed).astype(jnp.int32)
    return jnp.where(listed > 0, words.lemma_ids[word, slot], word)


def mask_attended(
    key: jax.Array, ids: jax.Array, maskable: jax.Array, importance: jax.Array, *, ratio: float, mask_id: int
) -> Masked:
    """Attentive masking: max(1, floor(ratio T)) tokens drawn by importance; all become [MASK].

    Args:
        importance: float32 `[B, L]`, attention received in the text branch. Drawn without replacement with probability
            proportional to it (Gumbel top-k).
    """
    counts = jnp.asarray([max(1, int(ratio * t)) for t in range(ids.shape[1] + 1)], jnp.int32)
    wanted = counts[maskable.sum(axis=1)]
    score = jnp.log(importance + 1e-6) + jax.random.gumbel(key, ids.shape)
    chosen = (_rank(jnp.where(maskable, score, -jnp.inf)) < wanted[:, None]) & maskable
    return Masked(jnp.where(chosen, mask_id, ids), jnp.where(chosen, ids, IGNORE))


def choose_words(key: jax.Array, ids: jax.Array, maskable: jax.Array, significant: jax.Array, count: int) -> jax.Array:
    """LVWM's word positions, int32 `[B, K]`.

    K significant tokens drawn without replacement; all of them and then repeats where there are fewer; other caption tokens
    where there is none; positions 0..K-1 in a caption without tokens.

    Args:
        significant: bool `[V]`.
        count: K.
    """
    draw, repeat = jax.random.split(key)
    key_words = maskable & significant[ids]
    candidates = jnp.where(key_words.any(axis=1, keepdims=True), key_words, maskable)
    score = jnp.where(candidates, jax.random.uniform(draw, ids.shape), -1.0)
    order = jnp.argsort(-score, axis=1)  # [B, L], candidates first, in random order
    available = candidates.sum(axis=1)[:, None]  # [B, 1]
    slots = jnp.arange(count)[None, :]
    repeats = (jax.random.uniform(repeat, (ids.shape[0], count)) * available).astype(jnp.int32)
    position = jnp.take_along_axis(order, jnp.where(slots < available, slots, repeats), axis=1)  # [B, K]
    return jnp.where(available > 0, position, slots).astype(jnp.int32)


def masked_word_loss(logits: jax.Array, labels: jax.Array, valid: jax.Array) -> dict[str, tuple]:
    """Cross entropy and accuracy over the labelled positions of valid examples.

    Args:
        logits: float32 `[B, L, V]`.
        labels: int32 `[B, L]`, `IGNORE` where nothing is predicted.
        valid: bool `[B]`.

    Returns:
        `{"loss": (sum, count), "accuracy": (sum, count)}`; both zero in a batch without labels.
    """
    predicted = (labels != IGNORE) & valid[:, None]
    target = jnp.where(predicted, labels, 0)
    log_probability = jax.nn.log_softmax(logits, axis=-1)
    loss = -jnp.take_along_axis(log_probability, target[..., None], axis=-1)[..., 0]
    count = predicted.sum().astype(jnp.float32)
    correct = (logits.argmax(axis=-1) == target) & predicted
    return {
        "loss": (jnp.where(predicted, loss, 0.0).sum(), count),
        "accuracy": (correct.sum().astype(jnp.float32), count),
    }


def labelled_positions(labels: jax.Array, room: int) -> jax.Array:
    """Where each caption has labels, int32 `[B, room]`: those positions first, in order, then others.

    A caption with more labels than `room` loses the last of them.
    """
    return jnp.argsort(labels == IGNORE, axis=1, stable=True)[:, :room]


def room_for_labels(length: int, ratio: float) -> int:
    """Positions a caption of `length` tokens is given for its labels: twice what a masker takes on average.

    MSSM and attentive masking never need more; MLM, which draws each token by itself, rarely does.
    """
    return min(length, 2 * math.ceil(ratio * length))


def masked_words(
    head: Callable[[jax.Array], jax.Array], hidden: jax.Array, labels: jax.Array, valid: jax.Array, room: int
) -> dict[str, tuple]:
    """`masked_word_loss` of `head(hidden)`, which is computed at labelled positions alone.

    Scores over the vocabulary are the largest arrays of a step. Each caption has `room` places for its labels; a batch in
    which one has more is computed at every position instead (recomputed backward, so that it takes no memory otherwise).

    Args:
        head: `[..., D]` -> float32 `[..., V]`.
        hidden: `[B, L, D]`.
    """

    @jax.checkpoint
    def everywhere(hidden: jax.Array) -> dict[str, tuple]:
        return masked_word_loss(head(hidden), labels, valid)

    def at_labels(hidden: jax.Array) -> dict[str, tuple]:
        position = labelled_positions(labels, room)
        some = jnp.take_along_axis(hidden, position[..., None], axis=1)  # [B, room, D]
        return masked_word_loss(head(some), jnp.take_along_axis(labels, position, axis=1), valid)

    if room >= labels.shape[1]:
        return masked_word_loss(head(hidden), labels, valid)
    fits = (jnp.sum(labels != IGNORE, axis=1) <= room).all()
    return jax.lax.cond(fits, at_labels, everywhere, hidden)


def special_free(ids: jax.Array, mask: jax.Array, special_ids: tuple[int, ...]) -> jax.Array:
    """Bool `[B, L]`: real tokens that are not special (so neither CLS, SEP nor padding)."""
    special = jnp.isin(ids, np.asarray(sorted(special_ids), np.int32))
    return mask & ~special
