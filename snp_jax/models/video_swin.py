"""Video Swin transformer (Liu et al. 2022, arXiv 2106.13230) with temporal stride 1, as flax linen modules.

All frames of a video go through it together, time being the third window axis. The projection to the model
width is not here; the arithmetic of windows, with its inherited quirk, is in `windows.py`.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from snp_jax.models import backend
from snp_jax.models.convolution import patchify
from snp_jax.models.dropout import DropPath
from snp_jax.models.layers import LayerNorm, VisualGrid, dense, drop_path_rates, gelu, grid_mask, linear
from snp_jax.models.loops import run_blocks
from snp_jax.models.remat import check_policies, keep_sum
from snp_jax.models.window_attention import attend_by_kernel, attend_by_xla, kernel_fits
from snp_jax.models.windows import Cut, Sizes, relative_index

EPSILON = 1e-5
PATCH = 4
"""Side of a patch. In time a patch is two frames deep and advances by one."""
MLP_RATIO = 4


@dataclasses.dataclass(frozen=True)
class VideoSwinConfig:
    """Sizes of a Video Swin; `depths`, `heads` and `remat` have one entry per stage. The defaults are the
    release's.

    Attributes:
        embed_dim: channels of the first stage; they double at each of the three mergings.
        window: frames, rows and columns that attend to each other; odd blocks shift it by half.
        drop_path: stochastic depth rate of the last block (rates rise linearly from 0).
        remat: what of this stage's blocks the backward pass recomputes, see `remat.py`.
        scan: run the blocks of a stage as one loop over pairs of them (`loops.py`).
    """

    embed_dim: int = 96
    depths: tuple[int, ...] = (2, 2, 18, 2)
    heads: tuple[int, ...] = (3, 6, 12, 24)
    window: tuple[int, int, int] = (8, 7, 7)
    drop_path: float = 0.2
    remat: tuple[str, ...] = ("none",) * 4
    scan: bool = False

    def __post_init__(self):
        if {len(self.depths), len(self.heads), len(self.remat)} != {4}:
            raise ValueError("VideoSwinConfig: each of depths, heads and remat needs 4 entries")
        check_policies("VideoSwinConfig", *self.remat)
        for stage, heads in enumerate(self.heads):
            if (self.embed_dim << stage) % heads:
                channels = self.embed_dim << stage
                raise ValueError(f"VideoSwinConfig: {channels} channels of stage {stage + 1} do not split into {heads} heads")

    @property
    def width(self) -> int:
        """Channels of the grid that comes out."""
        return self.embed_dim << 3


VIDEO_SWIN_CONFIGS = {
    "tiny": VideoSwinConfig(depths=(2, 2, 6, 2)),
    "small": VideoSwinConfig(),
    "base": VideoSwinConfig(embed_dim=128, heads=(4, 8, 16, 32)),
}
"""The published sizes. The authors' release has "small", the paper names "base"."""


class VideoSwin(nn.Module):
    """A Video Swin backbone behind the interface of all visual encoders."""

    config: VideoSwinConfig = VideoSwinConfig()
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, frames: jax.Array, pixel_mask: jax.Array | None = None, *, deterministic: bool) -> VisualGrid:
        """Encodes the frames of a video together.

        Args:
            frames: normalised float `[B, T, H, W, 3]`, any T, H and W; sizes are padded with zeros where
                needed.
            pixel_mask: bool `[B, T, H, W]`, True = real, or None. Padding is only marked in the output mask.
            deterministic: False draws drop path from the "dropout" key.

        Returns:
            Grid in the compute dtype with C = `config.width`, and its mask.
        """
        config = self.config
        x = PatchEmbed(config.embed_dim, self.dtype, name="patch_embed")(frames)
        rates = drop_path_rates(config.drop_path, config.depths)
        for stage in range(4):
            name = f"stage{stage + 1}"
            x = Stage(config, stage, tuple(rates[stage]), self.dtype, name=name)(x, deterministic)
        grid = LayerNorm(EPSILON, self.dtype, name="norm")(x)
        return VisualGrid(grid, grid_mask(pixel_mask, grid.shape))


class PatchEmbed(nn.Module):
    """2x4x4 patches with stride 1x4x4: `[B, T, H, W, 3]` -> `[B, T, ceil(H/4), ceil(W/4), D]`.

    One zero frame at the end makes up for the temporal depth. Written as a matrix product over cut-out
    patches: with 3 input channels that is the better form on every backend.
    """

    width: int
    dtype: Any

    @nn.compact
    def __call__(self, frames: jax.Array) -> jax.Array:
        batch, time, height, width, channels = frames.shape
        init = nn.initializers.variance_scaling(1.0, "fan_in", "uniform")
        kernel = self.param("kernel", init, (2, PATCH, PATCH, channels, self.width))
        bias = self.param("bias", nn.initializers.zeros, (self.width,))
        x = frames.astype(self.dtype).reshape(batch * time, height, width, channels)
        x = jnp.pad(x, ((0, 0), (0, -height % PATCH), (0, -width % PATCH), (0, 0)))
        x = patchify(x, PATCH)  # [B*T, h, w, 48]
        x = x.reshape(batch, time, *x.shape[1:])
        following = jnp.pad(x[:, 1:], ((0, 0), (0, 1), (0, 0), (0, 0), (0, 0)))
        pairs = jnp.concatenate([x, following], axis=-1)  # [B, T, h, w, 96]
        x = pairs @ kernel.reshape(-1, self.width).astype(self.dtype) + bias.astype(self.dtype)
        return LayerNorm(EPSILON, self.dtype, name="norm")(x)


class Stage(nn.Module):
    """Blocks, then patch merging except in the last stage: `[B, T, h, w, C]` -> `[B, T, h/2, w/2, 2C]`."""

    config: VideoSwinConfig
    stage: int
    drop_paths: tuple[float, ...]
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, deterministic: bool) -> jax.Array:
        config, stage, cut = self.config, self.stage, Cut.of(x.shape[1:4], self.config.window)

        def make(block: type[Block], i: int, rate: float | jax.Array, **where: Any) -> Block:
            return block(config.window, cut, config.heads[stage], i % 2 == 1, rate, self.dtype, **where)

        remat, scan, cells = config.remat[stage], config.scan, cut.split(x)
        cells = run_blocks(self, Block, make, self.drop_paths, cells, deterministic, scan=scan, remat=remat, period=2)
        x = cut.merge(cells)
        if stage < 3:
            x = PatchMerging(self.dtype, name="merge")(x)
        return x


class PatchMerging(nn.Module):
    """Joins 2x2 cells of a frame: `[B, T, h, w, C]` -> `[B, T, ceil(h/2), ceil(w/2), 2C]`."""

    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = jnp.pad(x, ((0, 0), (0, 0), (0, x.shape[2] % 2), (0, x.shape[3] % 2), (0, 0)))
        quarters = [x[:, :, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        x = jnp.concatenate(quarters, axis=-1)
        x = LayerNorm(EPSILON, self.dtype, name="norm")(x)
        return dense(x.shape[-1] // 2, self.dtype, "reduction", use_bias=False)(x)


class Block(nn.Module):
    """Pre-norm window attention and MLP with residuals, on cells window by window: `[B * W * N, C]` -> same.

    Sizes that windows do not divide are padded; in attention padding is zeros.
    """

    window: Sizes
    cut: Cut
    heads: int
    shifted: bool
    drop_path: float | jax.Array
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, deterministic: bool) -> jax.Array:
        x, y = LayerNorm(EPSILON, self.dtype, branch=True, name="norm1")(x)
        y = self._attend(self.cut.without_padding(y))
        x = keep_sum(x + self._dropped(y, "drop_path1", deterministic))
        x, y = LayerNorm(EPSILON, self.dtype, branch=True, name="norm2")(x)
        y = dense(MLP_RATIO * x.shape[-1], self.dtype, "fc1")(y)
        y = dense(x.shape[-1], self.dtype, "fc2")(gelu(y))
        # A loop recomputes two blocks at a time: what comes out of the first goes into the second.
        return keep_sum(x + self._dropped(y, "drop_path2", deterministic))

    def _dropped(self, x: jax.Array, name: str, deterministic: bool) -> jax.Array:
        return DropPath(self.drop_path, name=name)(self.cut.grids_of(x), deterministic).reshape(x.shape)

    def _attend(self, x: jax.Array) -> jax.Array:
        attention = WindowAttention(self.window, self.heads, self.dtype, name="attn")
        if not (self.shifted and any(self.cut.shift)):
            return attention(self.cut.windows_of(x), None).reshape(x.shape)
        y = attention(self.cut.windows_of(self.cut.shifted(x)), self.cut.labels())
        return self.cut.shifted(y.reshape(x.shape), back=True)


class WindowAttention(nn.Module):
    """Multi-head attention with relative position bias inside each window: `[B, W, N, C]` -> same.

    Parameter `relative_bias` is `[(2 * frames - 1) * (2 * rows - 1) * (2 * columns - 1), heads]` for the full
    window.
    """

    window: Sizes
    heads: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, labels: np.ndarray | None) -> jax.Array:
        cells, channels = x.shape[2:]
        entries = int(np.prod([2 * side - 1 for side in self.window]))
        init = nn.initializers.truncated_normal(0.02)
        table = self.param("relative_bias", init, (entries, self.heads))
        bias = jnp.take(table, relative_index(self.window, cells), axis=0).transpose(2, 0, 1)  # [H, N, N]
        by_kernel = backend.kernels_for_tpu() and kernel_fits(channels, self.heads)
        query, key, value = QueryKeyValue(self.dtype, name="qkv")(x, apart=by_kernel)
        context = (attend_by_kernel if by_kernel else attend_by_xla)(query, key, value, bias, labels)
        return dense(channels, self.dtype, "proj")(context)


class QueryKeyValue(nn.Module):
    """Three linear layers `[..., C]` -> `[..., C]` whose parameters are stored as those of one with 3C outputs.

    They are computed as one, or `apart` where their results go to a kernel, which would need copies of the parts.
    """

    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, *, apart: bool) -> list[jax.Array]:
        channels = x.shape[-1]
        kernel = self.param("kernel", nn.initializers.truncated_normal(0.02), (channels, 3 * channels)).astype(self.dtype)
        bias = self.param("bias", nn.initializers.zeros, (3 * channels,)).astype(self.dtype)
        if apart:
            parts = zip(jnp.split(kernel, 3, axis=1), jnp.split(bias, 3), strict=True)
            return [linear(x, weights, shift) for weights, shift in parts]
        return jnp.split(linear(x, kernel, bias), 3, axis=-1)
