"""BERT as flax linen modules: embeddings, encoder, pooler and masked-word head.

The network of Devlin et al. 2019 (post-LN, erf gelu). How the text branch and the cross branch share it is `snp.py`'s business;
losses live in `snp_jax/objectives`.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from snp_jax.models import backend, layers
from snp_jax.models.dropout import Dropout
from snp_jax.models.loops import loop_length, run_loop
from snp_jax.models.packing import Packing, pack, unpack
from snp_jax.models.remat import check_policies, keep_sum, recompute_layer
from snp_jax.models.sequence_attention import attend_by_kernel, kernel_fits

PADDING_BIAS = -10000.0
"""Added to attention logits of padded keys (the value BERT was released with; -inf would make rows without keys NaN)."""


@dataclasses.dataclass(frozen=True)
class BertConfig:
    """Sizes of a BERT. The defaults are BERT-base, uncased.

    Attributes:
        remat: what of a layer the backward pass recomputes, see `remat.py`.
        scan: run them as one loop (`loops.py`).
    """

    vocab_size: int = 30522
    width: int = 768
    layers: int = 12
    heads: int = 12
    mlp_width: int = 3072
    max_positions: int = 512
    segments: int = 2
    dropout: float = 0.1
    attention_dropout: float = 0.1
    epsilon: float = 1e-12
    init_std: float = 0.02
    remat: str = "none"
    scan: bool = False

    def __post_init__(self):
        if self.width % self.heads:
            raise ValueError(f"BERT width {self.width} is not a multiple of its {self.heads} heads")
        check_policies("BertConfig", self.remat)


def dense(config: BertConfig, width: int, name: str, dtype: Any) -> layers.Dense:
    """A linear layer with BERT's initialisation (normal, `init_std`)."""
    return layers.Dense(width, dtype, nn.initializers.normal(config.init_std), name=name)


class PositionEmbeddings(nn.Module):
    """Position and segment embeddings, LayerNorm and dropout for vectors that come from elsewhere."""

    config: BertConfig
    dtype: Any = jnp.float32

    def setup(self):
        config, init = self.config, nn.initializers.normal(self.config.init_std)
        self.position = nn.Embed(config.max_positions, config.width, embedding_init=init)
        self.segment = nn.Embed(config.segments, config.width, embedding_init=init)
        self.norm = layers.LayerNorm(config.epsilon, self.dtype)
        self.dropout = Dropout(config.dropout)

    def __call__(self, vectors: jax.Array, segment: int, *, deterministic: bool) -> jax.Array:
        """Embeds a sequence whose word (or clip) vectors are given; positions start at 0.

        Args:
            vectors: `[B, L, D]`, from `Embeddings.words` or from a visual encoder.
            segment: 0 for captions, 1 for clips.

        Returns:
            `[B, L, D]` in the compute dtype.
        """
        positions = self.position(jnp.arange(vectors.shape[-2]))
        total = vectors + positions + self.segment(jnp.asarray(segment))
        return self.dropout(self.norm(total), deterministic)


class Embeddings(PositionEmbeddings):
    """Word + position + segment embeddings, LayerNorm, dropout."""

    def setup(self):
        super().setup()
        init = nn.initializers.normal(self.config.init_std)
        self.word = nn.Embed(self.config.vocab_size, self.config.width, embedding_init=init)

    def words(self, ids: jax.Array) -> jax.Array:
        """Rows of the word table: int32 `[...]` -> float32 `[..., D]`."""
        return self.word(ids)

    def tied_logits(self, hidden: jax.Array) -> jax.Array:
        """Scores against every word: `[..., D]` -> float32 `[..., V]`."""
        table = self.word.embedding.astype(self.dtype)
        return jnp.einsum("...d,vd->...v", hidden, table, preferred_element_type=jnp.float32)


class SelfAttention(nn.Module):
    """Multi-head attention of some positions `[B, Q, D]` of a sequence to all of it `[B, L, D]`, with a key padding mask.

    Either may be packed, `[C, D]`. Returns the context, shaped like the first, and the probabilities `[B, H, Q, L]`.
    """

    config: BertConfig
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, asking: jax.Array, x: jax.Array, mask: jax.Array, *, packing: Packing | None, deterministic: bool
    ) -> tuple[jax.Array, jax.Array]:
        config = self.config
        head_width = config.width // config.heads

        def heads(name: str, x: jax.Array) -> jax.Array:
            projected = dense(config, config.width, name, self.dtype)(x)
            projected = unpack(projected, packing) if x.ndim == 2 else projected
            return projected.reshape(*projected.shape[:2], config.heads, head_width)  # [B, L, H, D/H]

        query, key, value = heads("query", asking), heads("key", x), heads("value", x)
        logits = jnp.einsum("bqhd,bkhd->bhqk", query, key, preferred_element_type=jnp.float32)
        logits = logits / jnp.sqrt(jnp.float32(head_width))
        logits = logits + _padding_bias(mask)[:, None, None, :]
        probabilities = jax.nn.softmax(logits, axis=-1)  # float32 [B, H, Q, L]
        probabilities = Dropout(config.attention_dropout)(probabilities, deterministic)
        context = jnp.einsum("bhqk,bkhd->bqhd", probabilities.astype(self.dtype), value)
        context = context.reshape(*context.shape[:2], config.width)  # [B, Q, D]
        context = pack(context, packing) if asking.ndim == 2 else context
        return dense(config, config.width, "out", self.dtype)(context), probabilities


class SelfAttentionOfRows(nn.Module):
    """`SelfAttention` of all tokens to each other, which are rows: `[B * L, D]` -> `[B * L, D]`, as a kernel for TPUs."""

    config: BertConfig
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array, *, deterministic: bool) -> jax.Array:
        config = self.config
        query, key, value = (dense(config, config.width, name, self.dtype)(x) for name in ("query", "key", "value"))
        rate = 0.0 if deterministic else config.attention_dropout
        seeds = Dropout(config.attention_dropout).seeds(mask.shape[0]) if rate else None
        context = attend_by_kernel(query, key, value, _padding_bias(mask), heads=config.heads, rate=rate, seeds=seeds)
        return dense(config, config.width, "out", self.dtype)(context)


def _padding_bias(mask: jax.Array) -> jax.Array:
    return jnp.where(mask, 0.0, PADDING_BIAS)


class Layer(nn.Module):
    """One post-LN transformer layer. Also returns how much attention each token receives, float32 `[B, L]`.

    With `packing`, x and the output are `[C, D]`. With `first_only` the output is that of the first token alone, `[B, 1, D]`:
    of the others only keys and values are computed.
    """

    config: BertConfig
    dtype: Any = jnp.float32
    deterministic: bool = True
    first_only: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array, packing: Packing | None = None) -> tuple[jax.Array, jax.Array]:
        kept = x
        tokens = None if packing is None or self.first_only else packing.numbers
        if self.first_only:
            kept = x[:, :1] if packing is None else x[packing.slots[:, :1]]
        attention = SelfAttention(self.config, self.dtype, name="attention")
        attended, probabilities = attention(kept, x, mask, packing=packing, deterministic=self.deterministic)
        received = probabilities.mean(axis=1).sum(axis=1)  # mean over heads, sum over queries
        return self._after_attention(kept, attended, tokens), received

    def _after_attention(self, x: jax.Array, attended: jax.Array, tokens: tuple[jax.Array, jax.Array] | None) -> jax.Array:
        config = self.config

        def added(x: jax.Array, branch: jax.Array, name: str) -> jax.Array:
            branch = Dropout(config.dropout)(branch, self.deterministic, tokens)
            return layers.LayerNorm(config.epsilon, self.dtype, name=name)(keep_sum(x + branch))

        x = added(x, attended, "attention_norm")
        hidden = layers.gelu(dense(config, config.mlp_width, "mlp_in", self.dtype)(x))
        return added(x, dense(config, config.width, "mlp_out", self.dtype)(hidden), "mlp_norm")


class LayerOfRows(Layer):
    """`Layer` with `SelfAttentionOfRows`: x and the output are `[B * L, D]`, and how much attention tokens receive is None."""

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array, packing: None = None) -> tuple[jax.Array, None]:
        attention = SelfAttentionOfRows(self.config, self.dtype, name="attention")
        attended = attention(x, mask, deterministic=self.deterministic)
        return self._after_attention(x, attended, jnp.divmod(jnp.arange(mask.size), mask.shape[1])), None


class Encoder(nn.Module):
    """The stack of layers."""

    config: BertConfig
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        mask: jax.Array,
        *,
        packing: Packing | None = None,
        deterministic: bool,
        first_only: bool = False,
        importance: bool = False,
    ) -> tuple[jax.Array, jax.Array | None]:
        """Runs the layers.

        Args:
            x: embedded sequence `[B, L, D]`.
            mask: bool `[B, L]`, True = real.
            packing: of the real tokens; padding is then left out of all but attention, and comes out as zeros.
            first_only: only the first token's output is wanted: `[B, 1, D]`, and an importance without the last layer's other
                queries. The last layer then costs a sixth.
            importance: whether it is wanted. If not, attention may be a kernel.

        Returns:
            The last hidden states `[B, L, D]`, and the importance of each token, float32 `[B, L]` or None: attention received,
            averaged over heads and summed over layers and query positions (SNP-S3 section III-C, attentive masking).
            A padded query asks at random, or with `packing` all tokens alike.
        """
        shape, kind = x.shape, Layer
        if packing is not None:
            x = pack(x, packing)
        elif not importance and self._kernel_fits(x):
            x, kind = x.reshape(-1, shape[-1]), LayerOfRows
        total = jnp.zeros(shape[:2], jnp.float32) if importance else None

        def add(total: jax.Array | None, received: jax.Array | None) -> jax.Array | None:
            return None if total is None else total + received

        looped = loop_length(self, self.config.scan, self.config.layers - first_only)
        if looped:
            layer = kind(self.config, self.dtype, deterministic, parent=None)

            def step(variables: Any, rngs: Any, carry: tuple[jax.Array, Any], _: Any) -> tuple[jax.Array, Any]:
                x, received = layer.apply(variables, carry[0], mask, packing, rngs=rngs)
                return x, add(carry[1], received)

            names = [f"layer{index}" for index in range(looped)]
            x, total = run_loop(self, names, [step], (x, total), remat=self.config.remat)
        for index in range(looped, self.config.layers):
            first = first_only and index == self.config.layers - 1
            if first and kind is LayerOfRows:
                x, kind = x.reshape(shape), Layer
            layer_class = recompute_layer(kind, self.config.remat)
            x, received = layer_class(self.config, self.dtype, deterministic, first, name=f"layer{index}")(x, mask, packing)
            total = add(total, received)
        if kind is LayerOfRows:
            x = x.reshape(shape)
        return (unpack(x, packing) if x.ndim == 2 else x), total

    def _kernel_fits(self, x: jax.Array) -> bool:
        batch, length, width = x.shape
        return backend.kernels_for_tpu() and kernel_fits(batch, length, width, self.config.heads, self.dtype)


class Pooler(nn.Module):
    """tanh(dense(first token)): `[B, L, D]` -> `[B, D]`."""

    config: BertConfig
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, sequence: jax.Array) -> jax.Array:
        return jnp.tanh(dense(self.config, self.config.width, "dense", self.dtype)(sequence[:, 0]))


class MaskedWordHead(nn.Module):
    """dense, gelu, LayerNorm, then the tied word table plus an own bias: `[..., D]` -> float32 `[..., V]`."""

    config: BertConfig
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, hidden: jax.Array, embeddings: Embeddings) -> jax.Array:
        hidden = layers.gelu(dense(self.config, self.config.width, "dense", self.dtype)(hidden))
        hidden = layers.LayerNorm(1e-6, self.dtype, name="norm")(hidden)
        bias = self.param("bias", nn.initializers.zeros, (self.config.vocab_size,))
        return embeddings.tied_logits(hidden) + bias
