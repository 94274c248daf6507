"""Windows of a grid of cells, for Video Swin: how a grid is cut, shifted and put together, and which cells see each other.

A stage keeps its cells window by window, as rows `[B * W * N, C]`, from its first block to its last. Only blocks with shifted
windows bring them into another order; everything else in a block works cell by cell, or window by window.
"""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from snp_jax.models import backend

Sizes = tuple[int, int, int]
"""Frames, rows, columns."""
MOST_CELLS = 2048
"""Cells of a grid, at most, that a TPU brings into another order by a matrix product."""


@dataclasses.dataclass(frozen=True)
class Cut:
    """How a grid is cut into windows.

    Attributes:
        sizes: of the grid.
        window: of a window; where it does not divide the grid, zeros stand at the end.
        shift: how far the windows of shifted blocks are moved; (0, 0, 0) if those are like the others.
    """

    sizes: Sizes
    window: Sizes
    shift: Sizes

    @classmethod
    def of(cls, sizes: Sizes, window: Sizes) -> Cut:
        """The cut of a grid: an axis no longer than its window is one window, and is not shifted."""
        fits = [size <= side for size, side in zip(sizes, window, strict=True)]
        used = tuple(min(size, side) for size, side in zip(sizes, window, strict=True))
        shift = tuple(0 if fit else side // 2 for fit, side in zip(fits, window, strict=True))
        return cls(sizes, used, shift)

    @property
    def padded(self) -> Sizes:
        """Sizes of the grid that windows divide."""
        return tuple(-(-size // side) * side for size, side in zip(self.sizes, self.window, strict=True))

    @property
    def places(self) -> int:
        """Cells of a padded grid, W * N."""
        return math.prod(self.padded)

    def split(self, grid: jax.Array) -> jax.Array:
        """`[B, T, h, w, C]` -> `[B * W * N, C]`."""
        ends = [(0, padded - size) for padded, size in zip(self.padded, self.sizes, strict=True)]
        return split_windows(jnp.pad(grid, ((0, 0), *ends, (0, 0))), self.window).reshape(-1, grid.shape[-1])

    def merge(self, x: jax.Array) -> jax.Array:
        """Inverse of `split`."""
        frames, rows, columns = self.sizes
        return self._padded_grid(x)[:, :frames, :rows, :columns]

    def without_padding(self, x: jax.Array) -> jax.Array:
        """`[B * W * N, C]` with zeros where the grid has no cell."""
        if self.padded == self.sizes:
            return x
        real = np.zeros((1, *self.padded, 1), bool)
        real[:, : self.sizes[0], : self.sizes[1], : self.sizes[2]] = True
        real = split_windows(real, self.window).reshape(1, -1, 1)
        return jnp.where(real, self.grids_of(x), 0).reshape(x.shape)

    def grids_of(self, x: jax.Array) -> jax.Array:
        """`[B * W * N, C]` -> `[B, W * N, C]`."""
        return x.reshape(-1, self.places, x.shape[-1])

    def windows_of(self, x: jax.Array) -> jax.Array:
        """`[B * W * N, C]` -> `[B, W, N, C]`."""
        cells = math.prod(self.window)
        return x.reshape(-1, self.places // cells, cells, x.shape[-1])

    def shifted(self, x: jax.Array, *, back: bool = False) -> jax.Array:
        """`[B * W * N, C]` by the windows of shifted blocks instead of the others', or `back`."""
        if backend.for_tpu() and self.places <= MOST_CELLS:
            return self._shifted_by_product(x, back)
        grid = jnp.roll(self._padded_grid(x), self.shift if back else tuple(-s for s in self.shift), axis=(1, 2, 3))
        return split_windows(grid, self.window).reshape(x.shape)

    def _shifted_by_product(self, x: jax.Array, back: bool) -> jax.Array:
        """A product with zeros and ones: where XLA's slices and transpositions would take five times as long."""
        place = np.arange(self.places).reshape(1, *self.padded, 1)
        before = split_windows(place, self.window).reshape(-1)
        after = split_windows(np.roll(place, tuple(-s for s in self.shift), axis=(1, 2, 3)), self.window).reshape(-1)
        taken = np.argsort(before)[after]  # after[i] stands at taken[i] of before
        matrix = jax.nn.one_hot(taken, self.places, dtype=x.dtype)
        product = "pq,bpc->bqc" if back else "pq,bqc->bpc"
        precision = None if x.dtype == jnp.bfloat16 else jax.lax.Precision.HIGHEST
        return jnp.einsum(product, matrix, self.grids_of(x), precision=precision).reshape(x.shape)

    def labels(self) -> np.ndarray:
        """Which cells of shifted windows belong together, int32 `[W, N]`: attention is between cells of equal label.

        Per axis the last window holds cells from both ends of the grid; the shift brought the last `shift` of them there.
        """
        label = np.zeros((1, 1, 1), np.int32)
        for axis, (size, side, step) in enumerate(zip(self.padded, self.window, self.shift, strict=True)):
            position = np.arange(size)
            region = (position >= size - side).astype(np.int32) + (position >= size - step)
            if step == 0:
                region = np.zeros(size, np.int32)
            label = 3 * label + region.reshape([-1 if a == axis else 1 for a in range(3)])
        return split_windows(label[None, ..., None], self.window)[0, :, :, 0]

    def _padded_grid(self, x: jax.Array) -> jax.Array:
        return merge_windows(self.windows_of(x), self.window, self.padded)


def split_windows(x: jax.Array, window: Sizes) -> jax.Array:
    """`[B, T, h, w, C]`, each size a multiple of its window's -> `[B, W, N, C]`, N = cells of a window."""
    batch, time, height, width, channels = x.shape
    t, h, w = window
    x = x.reshape(batch, time // t, t, height // h, h, width // w, w, channels)
    return x.transpose(0, 1, 3, 5, 2, 4, 6, 7).reshape(batch, -1, t * h * w, channels)


def merge_windows(x: jax.Array, window: Sizes, sizes: Sizes) -> jax.Array:
    """Inverse of `split_windows`: `[B, W, N, C]` -> `[B, *sizes, C]`."""
    t, h, w = window
    time, height, width = sizes
    x = x.reshape(x.shape[0], time // t, height // h, width // w, t, h, w, x.shape[-1])
    return x.transpose(0, 1, 4, 2, 5, 3, 6, 7).reshape(x.shape[0], *sizes, x.shape[-1])


def relative_index(window: Sizes, cells: int) -> jax.Array:
    """Row of the bias table for each pair of cells, int32 `[cells, cells]`.

    A window that was cut down to `cells` cells uses the first `cells` rows of the FULL window's index. That
    is right when only time is cut; when rows or columns are cut the pairs are mis-assigned. Every published
    weight was trained with this, so it is kept (method.md section 7, item 11).
    """
    spans = [2 * side - 1 for side in window]
    strides = np.array([spans[1] * spans[2], spans[2], 1])
    position = np.stack(np.meshgrid(*map(np.arange, window), indexing="ij"), axis=-1).reshape(-1, 3)
    code = jnp.asarray((position @ strides)[:cells], jnp.int32)
    centre = int((np.array(window) - 1) @ strides)
    return code[:, None] - code[None, :] + centre
