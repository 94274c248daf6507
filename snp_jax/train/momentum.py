"""MoCo in training: the key encoders and queues that a run carries from step to step beside its parameters.

They are part of `TrainState.memory`: checkpointed, replicated (queues) or sharded like the parameters they copy (key encoders),
and updated inside the step. The arithmetic is `snp_jax/objectives/moco.py`.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from snp_jax.models.network import Network
from snp_jax.models.snp import Clips, Text, unit_norm
from snp_jax.objectives import moco
from snp_jax.objectives.total import SumCount, mean

ENCODERS = ("visual", "visual_projection", "clip_fc1", "clip_fc2", "embeddings", "encoder", "pooler")
"""Parts of the network that stage 1 uses; each has a slowly following copy."""


@dataclasses.dataclass(frozen=True)
class MocoOptions:
    """Settings of `config.objective.moco`.

    Attributes:
        momentum: share of the key encoder's old weights that a step keeps.
        temperature: divides similarities.
        clip_queue, text_queue: lengths.
        clamped: enqueue as the release does (`moco.enqueue_clamped`).
    """

    momentum: float
    temperature: float
    clip_queue: int
    text_queue: int
    clamped: bool


@flax.struct.dataclass
class Memory:
    """State of MoCo.

    Attributes:
        encoders: parameters of the key encoders, a subset of the network's tree.
        clip_queue, text_queue: float32 `[K, D]`, unit-norm keys.
        clip_pointer, text_pointer: int32 scalars, position of the oldest key.
    """

    encoders: Any
    clip_queue: jax.Array
    text_queue: jax.Array
    clip_pointer: jax.Array
    text_pointer: jax.Array


def init_memory(params: Any, options: MocoOptions, key: jax.Array) -> Memory:
    """Key encoders equal to the network, queues of random unit vectors."""
    width = params["clip_fc2"]["bias"].shape[0]
    clip_key, text_key = jax.random.split(key)
    return Memory(
        encoders=jax.tree.map(jnp.copy, _encoders(params)),
        clip_queue=unit_norm(jax.random.normal(clip_key, (options.clip_queue, width))),
        text_queue=unit_norm(jax.random.normal(text_key, (options.text_queue, width))),
        clip_pointer=jnp.zeros((), jnp.int32),
        text_pointer=jnp.zeros((), jnp.int32),
    )


def contrast(
    net: Network,
    text: Text,
    clips: Clips,
    frames: jax.Array,
    batch: Any,
    memory: Memory,
    options: MocoOptions,
    key: jax.Array | None,
) -> tuple[SumCount, Memory]:
    """The loss of one batch against the queues as they were, and the memory after it.

    The key encoders move towards the current weights first; the keys of the whole batch enter the queues last, unless the loss
    or a key is not finite. Keys of invalid pairs and of clips without real frames never enter.

    Args:
        text, clips: the pairs that are here as the network encoded them.
        frames: normalised float `[B, T, H, W, 3]`.
        key: of the key encoders' dropout, or None.
    """
    encoders = jax.lax.stop_gradient(moco.momentum_update(memory.encoders, _encoders(net.params), options.momentum))
    key_net = dataclasses.replace(net, params=encoders)
    keys = (None, None) if key is None else jax.random.split(key)
    key_clips = key_net.clips(
        frames, batch["video_mask"], num_clips=clips.mask.shape[1], pixel_mask=batch.get("pixel_mask"), key=keys[0]
    )
    key_text = key_net.text(batch["text_ids"], batch["text_mask"], key=keys[1])
    valid = batch["valid"]
    term = moco.info_nce(
        text.feature, clips.features, key_text.feature, key_clips.features,
        memory.text_queue, memory.clip_queue, clips.mask, valid, options.temperature,
    )  # fmt: skip
    enqueue = moco.enqueue_clamped if options.clamped else moco.enqueue
    clip_rows, text_rows, valid, real = net.shard.gather(
        (key_clips.features, key_text.feature, valid, clips.mask & valid[:, None])
    )
    clip_queue, clip_pointer = enqueue(
        memory.clip_queue, memory.clip_pointer, clip_rows.reshape(-1, clip_rows.shape[-1]), real.reshape(-1)
    )
    text_queue, text_pointer = enqueue(memory.text_queue, memory.text_pointer, text_rows, valid)
    finite = jnp.isfinite(mean(net.shard.total(term))) & jnp.isfinite(clip_queue).all() & jnp.isfinite(text_queue).all()
    after = Memory(encoders, clip_queue, text_queue, clip_pointer, text_pointer)
    kept = memory.replace(encoders=encoders)
    return term, jax.tree.map(lambda new, old: jnp.where(finite, new, old), after, kept)


def _encoders(params: Any) -> dict[str, Any]:
    return {name: params[name] for name in ENCODERS if name in params}
