"""ResNet-50 (He et al. 2016, the torchvision "v1.5" variant) with frozen BatchNorm, as flax linen modules.

Frames are encoded one by one. The classification head and the projection to the model width are not here.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from snp_jax.models.convolution import Conv
from snp_jax.models.dropout import DropPath
from snp_jax.models.layers import VisualGrid, drop_path_rates, grid_mask
from snp_jax.models.loops import run_blocks
from snp_jax.models.remat import check_policies

NORM_EPSILON = 1e-5
EXPANSION = 4
FROZEN_PATTERN = r"(^|[/_])bn\d?/(scale|bias|mean|var)$"
"""Matches the paths of the statistics: parameters in the tree, but never trained, decayed or counted as
trainable."""


@dataclasses.dataclass(frozen=True)
class ResNetConfig:
    """Sizes of a bottleneck ResNet; tuples have one entry per stage. The defaults are ResNet-50.

    Attributes:
        depths: blocks.
        planes: width inside a block; a block's output is `EXPANSION` times wider.
        stem_width: channels of the first convolution.
        drop_path: stochastic depth rate of the last block (rates rise linearly from 0); SNP recipes use 0.
        remat: what of this stage's blocks the backward pass recomputes, see `remat.py`.
        scan: run the blocks of a stage but its first as one loop (`loops.py`).
    """

    depths: tuple[int, ...] = (3, 4, 6, 3)
    planes: tuple[int, ...] = (64, 128, 256, 512)
    stem_width: int = 64
    drop_path: float = 0.0
    remat: tuple[str, ...] = ("none",) * 4
    scan: bool = False

    def __post_init__(self):
        if {len(self.depths), len(self.planes), len(self.remat)} != {4}:
            raise ValueError("ResNetConfig: each of depths, planes and remat needs 4 entries")
        check_policies("ResNetConfig", *self.remat)

    @property
    def width(self) -> int:
        """Channels of the grid that comes out."""
        return EXPANSION * self.planes[-1]


class ResNet(nn.Module):
    """A ResNet backbone behind the interface of all visual encoders."""

    config: ResNetConfig = ResNetConfig()
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, frames: jax.Array, pixel_mask: jax.Array | None = None, *, deterministic: bool) -> VisualGrid:
        """Encodes every frame by itself.

        Args:
            frames: normalised float `[B, T, H, W, 3]`, any H and W.
            pixel_mask: bool `[B, T, H, W]`, True = real, or None.
            deterministic: False draws drop path from the "dropout" key.

        Returns:
            Grid in the compute dtype with C = `config.width`, and its mask.
        """
        config = self.config
        x = frames.reshape(-1, *frames.shape[2:])  # [B*T, H, W, 3]
        x = Conv(config.stem_width, 7, 2, padding=3, use_bias=False, dtype=self.dtype, name="conv1")(x)
        x = jax.nn.relu(FrozenBatchNorm(self.dtype, name="bn1")(x))  # H / 2
        x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))  # H / 4
        rates = drop_path_rates(config.drop_path, config.depths)
        for stage in range(4):
            name = f"stage{stage + 1}"
            x = Stage(config, stage, tuple(rates[stage]), self.dtype, name=name)(x, deterministic)
        grid = x.reshape(*frames.shape[:2], *x.shape[1:])  # [B, T, h, w, C]
        return VisualGrid(grid, grid_mask(pixel_mask, grid.shape))


class Stage(nn.Module):
    """Bottleneck blocks of one resolution; all but the first stage start with a stride of 2."""

    config: ResNetConfig
    stage: int
    drop_paths: tuple[float, ...]
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, deterministic: bool) -> jax.Array:
        config, stage = self.config, self.stage

        def make(block: type[Bottleneck], i: int, rate: float | jax.Array, **where: Any) -> Bottleneck:
            stride = 2 if stage > 0 and i == 0 else 1
            return block(config.planes[stage], stride, i == 0, rate, self.dtype, **where)

        remat, scan = config.remat[stage], config.scan
        return run_blocks(self, Bottleneck, make, self.drop_paths, x, deterministic, scan=scan, remat=remat, unlike=1)


class Bottleneck(nn.Module):
    """1x1, 3x3 (with the stride), 1x1 and a shortcut: `[M, H, W, C]` -> `[M, H / stride, W / stride, 4 *
    planes]`.

    Attributes:
        project: the shortcut is a strided 1x1 convolution (first block of a stage), else the identity.
    """

    planes: int
    stride: int
    project: bool
    drop_path: float | jax.Array
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, deterministic: bool) -> jax.Array:
        def conv(features: int, name: str, size: int = 1, stride: int = 1) -> Conv:
            return Conv(features, size, stride, size // 2, use_bias=False, dtype=self.dtype, name=name)

        width = EXPANSION * self.planes
        y = jax.nn.relu(FrozenBatchNorm(self.dtype, name="bn1")(conv(self.planes, "conv1")(x)))
        y = conv(self.planes, "conv2", 3, self.stride)(y)
        y = jax.nn.relu(FrozenBatchNorm(self.dtype, name="bn2")(y))
        y = FrozenBatchNorm(self.dtype, name="bn3")(conv(width, "conv3")(y))
        if self.project:
            x = conv(width, "shortcut_conv", 1, self.stride)(x)
            x = FrozenBatchNorm(self.dtype, name="shortcut_bn")(x)
        return jax.nn.relu(x + DropPath(self.drop_path, name="drop_path")(y, deterministic))


class FrozenBatchNorm(nn.Module):
    """BatchNorm with fixed statistics, folded to one multiply-add; `scale`, `bias`, `mean`, `var`, each
    `[C]`.

    They are stored with the parameters, so that import and checkpoints treat them alike, but get no gradient.
    """

    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (x.shape[-1],)
        ones, zeros = nn.initializers.ones, nn.initializers.zeros
        scale, bias = self.param("scale", ones, shape), self.param("bias", zeros, shape)
        mean, var = self.param("mean", zeros, shape), self.param("var", ones, shape)
        factor = lax.stop_gradient(scale * lax.rsqrt(var + NORM_EPSILON))
        offset = lax.stop_gradient(bias) - lax.stop_gradient(mean) * factor
        return x * factor.astype(self.dtype) + offset.astype(self.dtype)
