"""Names of the official PVTv2 checkpoints (`patch_embed1.proj.weight`, `block1.0.attn.q.weight`, ...)."""

from __future__ import annotations

from snp_jax.convert.rules import Rules, conv2d, linear, norm
from snp_jax.models.pvt import PVTConfig


def map_pvt(config: PVTConfig, prefix: str = "") -> Rules:
    """Rules for the backbone. The 1000-way `head` is not part of it, so it shows up as unused.

    Args:
        prefix: what foreign names start with, e.g. "model.".
    """
    rules: Rules = {}
    inputs = 3
    for stage, width in enumerate(config.embed_dims):
        number, size = stage + 1, 7 if stage == 0 else 3
        theirs, ours = f"{prefix}patch_embed{number}", f"stage{number}/patch_embed"
        rules |= conv2d(f"{theirs}.proj", f"{ours}/proj", inputs, width, size)
        rules |= norm(f"{theirs}.norm", f"{ours}/norm", width)
        for i in range(config.depths[stage]):
            rules |= _block(config, stage, f"{prefix}block{number}.{i}", f"stage{number}/block{i}")
        rules |= norm(f"{prefix}norm{number}", f"stage{number}/norm", width)
        inputs = width
    return rules


def _block(config: PVTConfig, stage: int, theirs: str, ours: str) -> Rules:
    width, ratio = config.embed_dims[stage], config.sr_ratios[stage]
    hidden = width * config.mlp_ratios[stage]
    rules = norm(f"{theirs}.norm1", f"{ours}/norm1", width) | norm(f"{theirs}.norm2", f"{ours}/norm2", width)
    rules |= linear(f"{theirs}.attn.q", f"{ours}/attn/q", width, width)
    rules |= linear(f"{theirs}.attn.kv", f"{ours}/attn/kv", width, 2 * width)
    rules |= linear(f"{theirs}.attn.proj", f"{ours}/attn/proj", width, width)
    if config.linear or ratio > 1:
        rules |= conv2d(f"{theirs}.attn.sr", f"{ours}/attn/sr", width, width, 1 if config.linear else ratio)
        rules |= norm(f"{theirs}.attn.norm", f"{ours}/attn/norm", width)
    rules |= linear(f"{theirs}.mlp.fc1", f"{ours}/mlp/fc1", width, hidden)
    rules |= conv2d(f"{theirs}.mlp.dwconv.dwconv", f"{ours}/mlp/dwconv", 1, hidden, 3)
    return rules | linear(f"{theirs}.mlp.fc2", f"{ours}/mlp/fc2", hidden, width)
