"""PVTv2, the pyramid vision transformer (Wang et al. 2022, arXiv 2106.13797), as flax linen modules.

Frames are encoded one by one. The classification head and the projection to the model width are not here.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from snp_jax.models.convolution import Conv, DepthwiseConv3x3
from snp_jax.models.dropout import DropPath
from snp_jax.models.layers import LayerNorm, VisualGrid, dense, drop_path_rates, gelu, grid_mask
from snp_jax.models.loops import run_blocks
from snp_jax.models.remat import check_policies, keep_sum

BLOCK_EPSILON = 1e-6
"""LayerNorm epsilon of blocks and stage outputs."""
DEFAULT_EPSILON = 1e-5
"""LayerNorm epsilon of patch embeddings and of the reduction (PyTorch's default)."""
LINEAR_POOL = 7
"""Side of the pooled grid that linear attention (b2_li) attends to."""


@dataclasses.dataclass(frozen=True)
class PVTConfig:
    """Sizes of a PVTv2; every tuple has one entry per stage. The defaults are PVTv2-B2.

    Attributes:
        embed_dims: channels.
        depths: blocks.
        heads: attention heads.
        mlp_ratios: hidden width of the MLP over the channels.
        sr_ratios: keys and values are computed on a grid this many times coarser (1 = no reduction).
        linear: pool keys and values to 7 x 7 instead ("b2_li").
        drop_path: stochastic depth rate of the last block (rates rise linearly from 0); SNP recipes use 0.
        remat: what of this stage's blocks the backward pass recomputes, see `remat.py`.
        scan: run the blocks of a stage as one loop (`loops.py`).
    """

    embed_dims: tuple[int, ...] = (64, 128, 320, 512)
    depths: tuple[int, ...] = (3, 4, 6, 3)
    heads: tuple[int, ...] = (1, 2, 5, 8)
    mlp_ratios: tuple[int, ...] = (8, 8, 4, 4)
    sr_ratios: tuple[int, ...] = (8, 4, 2, 1)
    linear: bool = False
    drop_path: float = 0.0
    remat: tuple[str, ...] = ("none",) * 4
    scan: bool = False

    def __post_init__(self):
        stages = {len(getattr(self, field)) for field in _PER_STAGE}
        if stages != {4}:
            raise ValueError(f"PVTConfig: each of {', '.join(_PER_STAGE)} needs 4 entries, found {stages}")
        check_policies("PVTConfig", *self.remat)
        for stage, (width, heads) in enumerate(zip(self.embed_dims, self.heads, strict=True), 1):
            if width % heads:
                raise ValueError(f"PVTConfig: {width} channels of stage {stage} do not split into {heads} heads")

    @property
    def width(self) -> int:
        """Channels of the grid that comes out."""
        return self.embed_dims[-1]


_PER_STAGE = ("embed_dims", "depths", "heads", "mlp_ratios", "sr_ratios", "remat")

PVT_CONFIGS = {
    "b0": PVTConfig(embed_dims=(32, 64, 160, 256), depths=(2, 2, 2, 2)),
    "b1": PVTConfig(depths=(2, 2, 2, 2)),
    "b2": PVTConfig(),
    "b2_li": PVTConfig(linear=True),
    "b3": PVTConfig(depths=(3, 4, 18, 3)),
    "b4": PVTConfig(depths=(3, 8, 27, 3)),
    "b5": PVTConfig(depths=(3, 6, 40, 3), mlp_ratios=(4, 4, 4, 4)),
}
"""The published sizes."""


class PVT(nn.Module):
    """A PVTv2 backbone behind the interface of all visual encoders."""

    config: PVTConfig
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, frames: jax.Array, pixel_mask: jax.Array | None = None, *, deterministic: bool) -> VisualGrid:
        """Encodes every frame by itself.

        Args:
            frames: normalised float `[B, T, H, W, 3]`, any H and W.
            pixel_mask: bool `[B, T, H, W]`, True = real, or None. It only makes the output mask: the network
                sees padded pixels, as in the original.
            deterministic: False draws drop path from the "dropout" key.

        Returns:
            Grid in the compute dtype with C = `config.width`, and its mask.
        """
        config = self.config
        x = frames.reshape(-1, *frames.shape[2:])  # [B*T, H, W, 3]
        rates = drop_path_rates(config.drop_path, config.depths)
        for stage in range(4):
            name = f"stage{stage + 1}"
            x = Stage(config, stage, tuple(rates[stage]), self.dtype, name=name)(x, deterministic)
        grid = x.reshape(*frames.shape[:2], *x.shape[1:])  # [B, T, h, w, C]
        return VisualGrid(grid, grid_mask(pixel_mask, grid.shape))


class Stage(nn.Module):
    """Patch embedding, blocks, LayerNorm: `[M, H, W, C]` -> `[M, h, w, D]`, 4x (first stage) or 2x
    coarser."""

    config: PVTConfig
    stage: int
    drop_paths: tuple[float, ...]
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, deterministic: bool) -> jax.Array:
        config, stage = self.config, self.stage
        x = PatchEmbed(config.embed_dims[stage], first=stage == 0, dtype=self.dtype, name="patch_embed")(x)

        def make(block: type[Block], _: int, rate: float | jax.Array, **where: Any) -> Block:
            return block(config, stage, rate, self.dtype, **where)

        x = run_blocks(self, Block, make, self.drop_paths, x, deterministic, scan=config.scan, remat=config.remat[stage])
        return LayerNorm(BLOCK_EPSILON, self.dtype, name="norm")(x)


class PatchEmbed(nn.Module):
    """Overlapping patches: a strided convolution (7x7 / 4 first, then 3x3 / 2) and LayerNorm."""

    width: int
    first: bool
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        size, stride = (7, 4) if self.first else (3, 2)
        x = Conv(self.width, size, stride, padding=size // 2, dtype=self.dtype, name="proj")(x)
        return LayerNorm(DEFAULT_EPSILON, self.dtype, name="norm")(x)


class Block(nn.Module):
    """Pre-norm attention and MLP with residuals: `[M, h, w, C]` -> same."""

    config: PVTConfig
    stage: int
    drop_path: float | jax.Array
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, deterministic: bool) -> jax.Array:
        y = LayerNorm(BLOCK_EPSILON, self.dtype, name="norm1")(x)
        y = Attention(self.config, self.stage, self.dtype, name="attn")(y)
        x = keep_sum(x + DropPath(self.drop_path, name="drop_path1")(y, deterministic))
        y = LayerNorm(BLOCK_EPSILON, self.dtype, name="norm2")(x)
        y = Mlp(self.config, self.stage, self.dtype, name="mlp")(y)
        return x + DropPath(self.drop_path, name="drop_path2")(y, deterministic)


class Attention(nn.Module):
    """Attention of every cell to a coarser copy of the grid: `[M, h, w, C]` -> same."""

    config: PVTConfig
    stage: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        count, height, width, channels = x.shape
        heads = self.config.heads[self.stage]
        query = dense(channels, self.dtype, "q")(x).reshape(count, height * width, heads, channels // heads)
        coarse = self._reduced(x)
        keys = coarse.shape[1] * coarse.shape[2]
        key_value = dense(2 * channels, self.dtype, "kv")(coarse)
        key_value = key_value.reshape(count, keys, 2, heads, channels // heads)  # [M, K, 2, H, C/H]
        key, value = key_value[:, :, 0], key_value[:, :, 1]
        logits = jnp.einsum("mqhd,mkhd->mhqk", query, key, preferred_element_type=jnp.float32)
        weights = jax.nn.softmax(logits * (channels // heads) ** -0.5, axis=-1)  # float32 [M, H, h*w, K]
        context = jnp.einsum("mhqk,mkhd->mqhd", weights.astype(self.dtype), value)
        return dense(channels, self.dtype, "proj")(context.reshape(x.shape))

    def _reduced(self, x: jax.Array) -> jax.Array:
        """The grid that keys and values come from."""
        channels, ratio = x.shape[-1], self.config.sr_ratios[self.stage]
        if self.config.linear:
            x = Conv(channels, 1, dtype=self.dtype, name="sr")(adaptive_mean(x, LINEAR_POOL))
            return gelu(LayerNorm(DEFAULT_EPSILON, self.dtype, name="norm")(x))
        if ratio == 1:
            return x
        x = Conv(channels, ratio, ratio, dtype=self.dtype, name="sr")(x)
        return LayerNorm(DEFAULT_EPSILON, self.dtype, name="norm")(x)


class Mlp(nn.Module):
    """Linear, 3x3 depthwise convolution, GELU, linear: `[M, h, w, C]` -> same."""

    config: PVTConfig
    stage: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels = x.shape[-1]
        y = dense(channels * self.config.mlp_ratios[self.stage], self.dtype, "fc1")(x)
        if self.config.linear:
            y = jax.nn.relu(y)
        y = gelu(DepthwiseConv3x3(self.dtype, name="dwconv")(y))
        return dense(channels, self.dtype, "fc2")(y)


def adaptive_mean(x: jax.Array, size: int) -> jax.Array:
    """PyTorch's `AdaptiveAvgPool2d`: `[M, H, W, C]` -> `[M, size, size, C]`; bins overlap where needed."""
    rows, columns = (_pooling_matrix(length, size) for length in x.shape[1:3])
    return jnp.einsum("mhwc,ih,jw->mijc", x, rows.astype(x.dtype), columns.astype(x.dtype))


def _pooling_matrix(length: int, size: int) -> np.ndarray:
    """float32 `[size, length]`: row i averages floor(i * length / size) up to ceil((i + 1) * length /
    size)."""
    starts = np.arange(size) * length // size
    stops = -(-(np.arange(size) + 1) * length // size)
    position = np.arange(length)
    inside = (position >= starts[:, None]) & (position < stops[:, None])
    return inside.astype(np.float32) / inside.sum(axis=1, keepdims=True)
