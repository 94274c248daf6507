"""Sequences without their padding: the real tokens of a batch one after the other.

A transformer's linear layers, LayerNorms and activations see one token at a time, so they can leave padding out; only
attention has to know which tokens belong together, and gets them padded. Shapes stay static: there is room for a fixed number
of tokens, which the host chooses when it has read the texts (`train/inputs.py`).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Packing(NamedTuple):
    """Which tokens of `[B, S]` are kept.

    Attributes:
        places: int32 `[C]`, where each kept token stands in the flattened `[B * S]`; B * S where the room is not used.
        slots: int32 `[B, S]`, where each token stands among the C; C where it is padding.
    """

    places: jax.Array
    slots: jax.Array

    @property
    def numbers(self) -> tuple[jax.Array, jax.Array]:
        """Row and position of each kept token, `[C]` both (of unused room: those of the last token)."""
        rows, length = self.slots.shape
        return jnp.divmod(jnp.minimum(self.places, rows * length - 1), length)


def packing_of(places: jax.Array, shape: tuple[int, int], *, copies: int = 1, more: int = 0) -> Packing:
    """The packing of captions, repeated and with tokens of another kind behind each.

    Args:
        places: int32 `[C]`, where the real tokens of the captions stand in their flattened `[B * L]`; B * L = unused.
        shape: (B, L).
        copies: m; row j * B + b holds caption b.
        more: tokens behind each caption, all of which are kept.

    Returns:
        For `[m * B, L + more]`, with room for m * C + m * B * more tokens.
    """
    captions, length = shape
    rows, width = copies * captions, length + more
    row, position = jnp.divmod(places, length)
    first = jnp.arange(copies, dtype=jnp.int32)[:, None] * (captions * width)
    kept = jnp.where(places < captions * length, first + row * width + position, rows * width)
    behind = jnp.arange(rows, dtype=jnp.int32)[:, None] * width + length + jnp.arange(more, dtype=jnp.int32)
    kept = jnp.concatenate([kept.reshape(-1), behind.reshape(-1)])
    slots = jnp.full(rows * width, kept.size, jnp.int32).at[kept].set(jnp.arange(kept.size, dtype=jnp.int32), mode="drop")
    return Packing(kept, slots.reshape(rows, width))


@jax.custom_vjp
def pack(x: jax.Array, packing: Packing) -> jax.Array:
    """`[B, S, D]` -> `[C, D]`; unused room is zero."""
    return x.reshape(-1, x.shape[-1]).at[packing.places].get(mode="fill", fill_value=0)


@jax.custom_vjp
def unpack(x: jax.Array, packing: Packing) -> jax.Array:
    """`[C, D]` -> `[B, S, D]`; padding is zero."""
    return x.at[packing.slots].get(mode="fill", fill_value=0)


# Each is the gradient of the other, since no token is kept twice.
pack.defvjp(lambda x, packing: (pack(x, packing), packing), lambda packing, gradient: (unpack(gradient, packing), None))
unpack.defvjp(lambda x, packing: (unpack(x, packing), packing), lambda packing, gradient: (pack(gradient, packing), None))
