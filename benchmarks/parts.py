"""Parts of the pre-training step one by one, forward and backward, on both sides; and how cost grows with the work.

A part's inputs are random; gradients go to its parameters and to what other parts computed. Together they take about as long as
the step.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from peer import Peer, load_weights, make_optimizer
from problem import MAX_LEN, REAL_LENGTHS, Ours, make_params
from timing import Results, interleave, timed

from configs import common
from snp_jax.models.bert import BertConfig
from snp_jax.models.network import Network
from snp_jax.models.pvt import PVTConfig
from snp_jax.models.snp import SNP, CrossInputs, SNPConfig
from snp_jax.models.video_swin import VIDEO_SWIN_CONFIGS, VideoSwin
from snp_jax.objectives import masking
from snp_jax.train.build import build_optim

PARTS = ("visual encoder", "text branch", "cross branch", "masked words", "update")
"""What a step is made of; LVWM, stage 1 and the losses are small."""


def parts_section(results: Results, config: SNPConfig, ours: Ours, params: Any, side: int, rounds: int) -> None:
    """Each of `PARTS` for a batch of captions of 30 tokens, as its side's step does it."""
    pairs, width, rng = len(REAL_LENGTHS), config.bert.width, np.random.default_rng(3)
    arrays = {
        "frames": rng.standard_normal((pairs, 1, side, side, 3)), "captions": rng.standard_normal((pairs, MAX_LEN, width)),
        "videos": rng.standard_normal((pairs, 2, width)), "hidden": rng.standard_normal((pairs, MAX_LEN, width)),
    }  # fmt: skip
    arrays = {name: array.astype(np.float32) for name, array in arrays.items()}
    ids = rng.integers(200, config.bert.vocab_size, (2 * pairs, MAX_LEN)).astype(np.int32)
    mine = _our_parts(ours, params, arrays, ids)
    theirs = _their_parts(config, params, arrays, ids)
    for name in PARTS:
        timed(f"parts: {name}, first call", mine[name])
        timed(f"parts: {name}, torch, first call", theirs[name])
        interleave(results, f"part: {name}", {"torch eager": theirs[name], "ours": mine[name]}, rounds)
    _video_swin(results, side, rounds)


def _our_parts(ours: Ours, params: Any, arrays: dict[str, np.ndarray], ids: np.ndarray) -> dict[str, Callable[[], Any]]:
    pairs = len(arrays["frames"])
    text, video = np.nonzero(~np.eye(pairs, dtype=bool))  # the pairs themselves come with the masked words' pass
    room = masking.room_for_labels(MAX_LEN, 0.15)

    def net(params):
        return Network(ours.model, params)

    def vision(params, frames):
        return net(params).clips(frames, jnp.ones((pairs, 1), bool), num_clips=1).features.sum()

    def texts(params, ids):
        out = net(params).text(ids, jnp.ones(ids.shape, bool))
        return out.feature.sum() + out.sequence.sum()

    def matching(params, captions, videos):
        inputs = tuple(CrossInputs(part, jnp.ones(part.shape[:2], bool)) for part in (captions, videos))
        own = net(params).cross(*inputs)
        others = net(params).pair_scores(*inputs, jnp.asarray(text), jnp.asarray(video), chunk=0)
        return own.sequence.sum() + net(params).match(own.pooled).sum() + others.sum()

    def words(params, hidden):
        return sum(jnp.square(net(params).head(f"{name}_word_logits", hidden)).sum() for name in ("text", "cross"))

    placed = jax.device_put(params)

    def gradients_of(function, names, *inputs, to=(0,)):
        """Gradients to the parameters `names` and to the inputs `to` (1 = the first)."""
        run = jax.jit(jax.grad(lambda some, *given: function(placed | some, *given), argnums=to))
        given = {name: placed[name] for name in names}, *jax.device_put(inputs)
        return lambda: jax.block_until_ready(run(*given))

    heads = ("text_words", "cross_words")
    return {
        "visual encoder": gradients_of(vision, ("visual", "visual_projection", "clip_fc1", "clip_fc2"), arrays["frames"]),
        "text branch": gradients_of(texts, ("embeddings", "encoder", "pooler"), ids),
        "cross branch": gradients_of(
            matching, ("encoder", "cross_pooler", "match_fc1", "match_fc2"), arrays["captions"], arrays["videos"], to=(0, 1, 2)
        ),
        "masked words": gradients_of(words, ("embeddings", *heads), arrays["hidden"][:, :room], to=(0, 1)),
        "update": _our_update(ours, params, placed),
    }


def _our_update(ours: Ours, params: Any, gradients: Any) -> Callable[[], Any]:
    """Clipping and AdamW on a state that is given away and comes back, as in training."""
    tx, first = ours.optimizer(), jax.tree.map(jnp.array, params)
    held = [(first, jax.jit(tx.init)(first))]

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def update(params, state, gradients):
        updates, state = tx.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    def run():
        held.append(jax.block_until_ready(update(*held.pop(), gradients)))

    return run


def _their_parts(
    config: SNPConfig, params: Any, arrays: dict[str, np.ndarray], ids: np.ndarray
) -> dict[str, Callable[[], Any]]:
    peer, pairs = Peer(config), len(arrays["frames"])
    load_weights(peer, config, params)
    optimizer = make_optimizer(peer, build_optim(common.base("pretrain")))
    table = peer.bert.embeddings.word_embeddings.weight
    given = {name: torch.from_numpy(array).requires_grad_() for name, array in arrays.items()}
    given["frames"] = torch.from_numpy(np.ascontiguousarray(np.moveaxis(arrays["frames"], -1, 2)))
    text, video = torch.arange(pairs).repeat_interleave(pairs), torch.arange(pairs).repeat(pairs)
    tokens, mask = torch.from_numpy(ids.astype(np.int64)), torch.ones((2 * pairs, MAX_LEN), dtype=torch.long)

    def texts():
        halves = [peer.text(part, mask[:pairs]) for part in tokens.split(pairs)]
        return sum(hidden.sum() + feature.sum() for hidden, feature in halves)

    def matching():
        own, _ = peer.cross(given["captions"], mask[:pairs], given["videos"])
        _, pooled = peer.cross(given["captions"][text], mask[:pairs][text], given["videos"][video])
        return own[:, :MAX_LEN].sum() + peer.match(pooled).sum()

    def words():
        return sum(head(given["hidden"], table).square().sum() for head in (peer.text_words, peer.cross_words))

    def backward(function):
        def run():
            peer.zero_grad(set_to_none=True)
            function().backward()

        return run

    def update():
        for parameter in peer.parameters():
            parameter.grad = parameter.detach()
        torch.nn.utils.clip_grad_norm_(peer.parameters(), 1e9)
        optimizer.step()

    return {
        "visual encoder": backward(lambda: peer.clips(given["frames"])[1].sum()),
        "text branch": backward(texts),
        "cross branch": backward(matching),
        "masked words": backward(words),
        "update": update,
    }


def _video_swin(results: Results, side: int, rounds: int) -> None:
    """Forward pass of the release's Video Swin on one clip of 8 frames (no peer: `transformers` has none)."""
    swin = VideoSwin(VIDEO_SWIN_CONFIGS["small" if side == 224 else "tiny"])
    frames = jnp.asarray(np.random.default_rng(4).standard_normal((1, 8, side, side, 3), np.float32))
    shapes = jax.eval_shape(lambda: swin.init(jax.random.key(0), frames, deterministic=True))
    zeros = jax.tree.map(lambda x: jnp.full(x.shape, 0.01, x.dtype), shapes)
    run = jax.jit(lambda variables: swin.apply(variables, frames, deterministic=True).grid)
    forward = lambda: jax.block_until_ready(run(zeros))  # noqa: E731
    timed("parts: Video Swin, forward, first call", forward)
    interleave(results, "part: Video Swin, forward, 8 frames", {"ours": forward}, rounds)


# ---------------------------------------------------------------------- scaling
SMALL = SNPConfig(
    bert=BertConfig(vocab_size=1000, width=128, layers=4, heads=4, mlp_width=512),
    visual=PVTConfig((8, 16, 20, 32), (1, 1, 1, 1), (1, 2, 5, 8)),
    sep_id=102,
)
"""The network of the scaling curves, which are about growth and not about absolute time."""


def scaling_section(results: Results) -> None:
    """Seconds and temporary memory of matching, forward and backward: by batch, clips, negatives k, and pairs at one chunk."""
    ours = Ours(SNP(SMALL))
    params = jax.device_put(make_params(ours.model))
    curves = {
        "batch, all pairs at once": [(b, 1, b * b, 0) for b in (4, 8, 16)],
        "clips, batch 8": [(8, n, 64, 0) for n in (1, 4, 16)],
        "negatives k, batch 32, chunk 32": [(32, 1, 32 * (1 + 2 * k), 32) for k in (1, 2, 4, 8)],
        "pairs, chunk 32": [(32, 1, pairs, 32) for pairs in (64, 256, 1024)],
    }
    results.content["scaling"] = {
        name: [_matching_cost(ours, params, *sizes) for sizes in points] for name, points in curves.items()
    }
    results.write()


def _matching_cost(ours: Ours, params: Any, batch: int, clips: int, pairs: int, chunk: int) -> dict[str, float]:
    """One point: `pairs` pairs of a batch with so many clips a video, in chunks."""
    rng, width = np.random.default_rng(5), ours.model.config.bert.width
    captions = rng.standard_normal((batch, MAX_LEN, width), np.float32)
    videos = rng.standard_normal((batch, clips + 1, width), np.float32)
    text, video = (rng.integers(0, batch, pairs).astype(np.int32) for _ in range(2))

    def score(params, captions, videos):
        inputs = (CrossInputs(part, jnp.ones(part.shape[:2], bool)) for part in (captions, videos))
        return Network(ours.model, params).pair_scores(*inputs, text, video, chunk=chunk).sum()

    run = jax.jit(jax.grad(score, argnums=(0, 1, 2))).lower(params, captions, videos).compile()
    times = []
    for _ in range(4):
        start = time.perf_counter()
        jax.block_until_ready(run(params, captions, videos))
        times.append(time.perf_counter() - start)
    memory = run.memory_analysis().temp_size_in_bytes / 2**20
    point = {
        "batch": batch,
        "clips": clips,
        "pairs": pairs,
        "chunk": chunk,
        "seconds": sorted(times[1:])[1],
        "temp_mib": memory,
    }
    print("scaling:", {name: round(value, 3) for name, value in point.items()}, flush=True)
    return point
