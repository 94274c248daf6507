"""Names of official Video Swin checkpoints (mmaction: `patch_embed.proj.weight`,
`layers.0.blocks.0.attn.qkv.weight`)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from snp_jax.convert.rules import CONV3D, Rule, Rules, linear, norm
from snp_jax.models.video_swin import MLP_RATIO, PATCH, VideoSwinConfig


def map_video_swin(config: VideoSwinConfig, prefix: str = "") -> Rules:
    """Rules for the backbone. `relative_position_index` buffers are derived, so they show up as unused.

    Args:
        prefix: what foreign names start with, e.g. "backbone." (mmaction) or "swin.".
    """
    width = config.embed_dim
    kernel = Rule("patch_embed/kernel", (width, 3, 2, PATCH, PATCH), CONV3D)
    rules = {
        f"{prefix}patch_embed.proj.weight": kernel,
        f"{prefix}patch_embed.proj.bias": Rule("patch_embed/bias", (width,)),
    }
    rules |= norm(f"{prefix}patch_embed.norm", "patch_embed/norm", width)
    for stage, depth in enumerate(config.depths):
        theirs, ours = f"{prefix}layers.{stage}", f"stage{stage + 1}"
        for i in range(depth):
            rules |= _block(config, stage, f"{theirs}.blocks.{i}", f"{ours}/block{i}")
        width = config.embed_dim << stage
        if stage < 3:
            rules |= norm(f"{theirs}.downsample.norm", f"{ours}/merge/norm", 4 * width)
            reduction = f"{theirs}.downsample.reduction", f"{ours}/merge/reduction"
            rules |= linear(*reduction, 4 * width, 2 * width, bias=False)
    return rules | norm(f"{prefix}norm", "norm", config.width)


def _block(config: VideoSwinConfig, stage: int, theirs: str, ours: str) -> Rules:
    width, hidden = config.embed_dim << stage, MLP_RATIO * (config.embed_dim << stage)
    frames, rows, columns = config.window
    entries = (2 * frames - 1) * (2 * rows - 1) * (2 * columns - 1)
    table = Rule(f"{ours}/attn/relative_bias", (entries, config.heads[stage]))
    rules = {f"{theirs}.attn.relative_position_bias_table": table}
    rules |= norm(f"{theirs}.norm1", f"{ours}/norm1", width) | norm(f"{theirs}.norm2", f"{ours}/norm2", width)
    rules |= linear(f"{theirs}.attn.qkv", f"{ours}/attn/qkv", width, 3 * width)
    rules |= linear(f"{theirs}.attn.proj", f"{ours}/attn/proj", width, width)
    rules |= linear(f"{theirs}.mlp.fc1", f"{ours}/fc1", width, hidden)
    return rules | linear(f"{theirs}.mlp.fc2", f"{ours}/fc2", hidden, width)


def inflate(state: Mapping[str, np.ndarray], frames: int = 8) -> dict[str, np.ndarray]:
    """A 2-D Swin (Liu et al. 2021) as a start for a 3-D one, as Video Swin section 3.3 does it.

    The patch kernel `[C, 3, 4, 4]` is repeated over two frames and halved, so a still picture gives what it gave; each
    relative bias table `[(2 rows - 1) (2 columns - 1), H]` is repeated for the 2 * `frames` - 1 offsets in time. Buffers
    that depend on the window are left out.
    """
    grown = {}
    for name, array in state.items():
        if name.endswith("relative_position_bias_table"):
            array = np.tile(array, (2 * frames - 1, 1))
        elif name.endswith("patch_embed.proj.weight"):
            array = np.repeat(array[:, :, None], 2, axis=2) / 2
        elif name.endswith(("relative_position_index", "attn_mask")):
            continue
        grown[name] = array
    return grown
