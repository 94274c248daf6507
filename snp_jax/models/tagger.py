"""The visual encoder with layers that name what a video shows: weakly supervised pre-training of the encoder alone.

The paper starts from encoders trained on ImageNet. Where no such weights may be had, the words of captions are labels too
(Joulin et al. 2016, arXiv 1511.02251). Which cell shows a thing is left open, as in multiple-instance learning (Oquab et al.
2015); what takes time, like a direction, is read from all clip tokens in their order.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from snp_jax.models.visual import VisualConfig
from snp_jax.models.visual_branch import VisualBranch, mean_cells

EXCLUDED = -1e9
"""Score of a cell that is padding."""


class Tagger(VisualBranch):
    """The visual branch, from which an `SNP` can start, and two linear layers of word scores.

    Attributes:
        visual_config: of the visual encoder.
        width: the model's D.
        vocab_size: V.
    """

    visual_config: VisualConfig
    width: int
    vocab_size: int
    dtype: Any = jnp.float32

    def setup(self):
        self.set_up_visual(self.visual_config, self.width)
        self.cell_tags = nn.Dense(self.vocab_size, dtype=self.dtype)
        self.clip_tags = nn.Dense(self.vocab_size, use_bias=False, dtype=self.dtype)

    def tag_logits(
        self,
        frames: jax.Array,
        frame_mask: jax.Array,
        *,
        num_clips: int,
        pixel_mask: jax.Array | None = None,
        deterministic: bool,
    ) -> jax.Array:
        """Word scores of each video, float32 `[B, V]`: log-sum-exp over the real cells of all clips, plus a linear map of the N
        clip tokens side by side. Arguments as in `encode_cells`."""
        cells, real = self.encode_cells(
            frames, frame_mask, num_clips=num_clips, pixel_mask=pixel_mask, deterministic=deterministic
        )  # [B, N, cells, D]
        seen = jax.nn.logsumexp(jnp.where(real, self.cell_tags(cells).astype(jnp.float32), EXCLUDED), axis=(1, 2))
        tokens = mean_cells(cells, real).astype(self.dtype)  # [B, N, D]
        return seen + self.clip_tags(tokens.reshape(tokens.shape[0], -1)).astype(jnp.float32)

    def __call__(self, frames, frame_mask, ids, mask, *, num_clips: int) -> jax.Array:
        """As `SNP`'s: touches every parameter once, for initialisation."""
        del ids, mask
        return self.tag_logits(frames, frame_mask, num_clips=num_clips, deterministic=True)
