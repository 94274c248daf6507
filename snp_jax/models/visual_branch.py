"""The visual branch up to the cells of its clips, with or without a text branch beside it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn

from snp_jax.models.layers import VisualGrid
from snp_jax.models.visual import VisualConfig, make_visual, projection


def gather_cells(grid: VisualGrid, frame_mask: jax.Array, num_clips: int) -> tuple[jax.Array, jax.Array]:
    """The grid cells of each clip, `[B, N, F*h*w, D]`, and which are real, bool `[B, N, F*h*w, 1]`.

    Args:
        grid: of T = N * F frames, with D channels.
        frame_mask: bool `[B, T]`.
        num_clips: N.
    """
    batch, time, height, width, channels = grid.grid.shape
    cells = (time // num_clips) * height * width
    real = grid.mask & frame_mask[:, :, None, None]
    return grid.grid.reshape(batch, num_clips, cells, channels), real.reshape(batch, num_clips, cells, 1)


def mean_cells(cells: jax.Array, real: jax.Array) -> jax.Array:
    """Clip tokens: the mean over each clip's real cells (`gather_cells`), float32 `[B, N, D]`; zero where none is real."""
    count = jnp.maximum(real.sum(axis=2), 1)
    return jnp.where(real, cells, 0).astype(jnp.float32).sum(axis=2) / count


class VisualBranch(nn.Module):
    """What networks with a visual encoder share: the parts `visual` and, where needed, `visual_projection` to D channels.

    A network derives from it, has a field `dtype` and calls `set_up_visual` in its `setup`.
    """

    def set_up_visual(self, config: VisualConfig, width: int) -> None:
        """Makes the two parts."""
        linear = projection(config, width)
        self.visual = make_visual(config, self.dtype)
        self.visual_projection = None if linear is None else nn.Dense(width, use_bias=linear.use_bias, dtype=self.dtype)

    def encode_cells(
        self,
        frames: jax.Array,
        frame_mask: jax.Array,
        *,
        num_clips: int,
        pixel_mask: jax.Array | None,
        deterministic: bool,
    ) -> tuple[jax.Array, jax.Array]:
        """Frames to `gather_cells` of their grid, with D channels.

        Args:
            frames: normalised float `[B, T, H, W, 3]`, T = N * F.
            frame_mask: bool `[B, T]`.
            num_clips: N.
            pixel_mask: bool `[B, T, H, W]`, or None when no pixel is padding.
        """
        grid: VisualGrid = self.visual(frames, pixel_mask, deterministic=deterministic)
        if self.visual_projection is not None:
            grid = grid._replace(grid=self.visual_projection(grid.grid))  # [B, T, h, w, D]
        return gather_cells(grid, frame_mask, num_clips)
