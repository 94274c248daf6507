"""Reads a network's sizes off the shapes of its foreign arrays, so that a file needs no config beside it.

Attention heads leave no trace in the shapes of BERT and PVTv2: the configs made here have the heads that the caller names (one,
where it does not matter, as for name maps).
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from snp_jax.errors import UserError
from snp_jax.models.bert import BertConfig
from snp_jax.models.pvt import PVTConfig
from snp_jax.models.resnet import ResNetConfig
from snp_jax.models.temporal import TemporalConfig
from snp_jax.models.video_swin import VideoSwinConfig
from snp_jax.models.visual import VISUAL_CONFIGS, VisualConfig

STAGES = range(1, 5)
SQUARE = 13 * 13
"""Entries of a relative-position table over rows and columns for the published 7 x 7 windows."""


def bert_sizes(state: Mapping[str, np.ndarray], prefix: str = "", heads: int = 1) -> BertConfig:
    """Sizes of a BERT whose names start with `prefix`."""
    vocab, width = _shape(state, f"{prefix}embeddings.word_embeddings.weight", 2)
    positions, _ = _shape(state, f"{prefix}embeddings.position_embeddings.weight", 2)
    segments, _ = _shape(state, f"{prefix}embeddings.token_type_embeddings.weight", 2)
    hidden, _ = _shape(state, f"{prefix}encoder.layer.0.intermediate.dense.weight", 2)
    layers = _count(state, rf"{re.escape(prefix)}encoder\.layer\.(\d+)\.")
    return BertConfig(
        vocab_size=vocab, width=width, layers=layers, heads=heads, mlp_width=hidden, max_positions=positions, segments=segments
    )


def pvt_sizes(state: Mapping[str, np.ndarray], prefix: str = "", heads: tuple[int, ...] = (1, 1, 1, 1)) -> PVTConfig:
    """Sizes of a PVTv2 whose names start with `prefix`."""
    embed, ratios, reductions = [], [], []
    for stage in STAGES:
        width = _shape(state, f"{prefix}patch_embed{stage}.proj.weight", 4)[0]
        embed.append(width)
        ratios.append(_shape(state, f"{prefix}block{stage}.0.mlp.fc1.weight", 2)[0] // width)
        reduction = state.get(f"{prefix}block{stage}.0.attn.sr.weight")
        reductions.append(1 if reduction is None else reduction.shape[-1])
    linear = f"{prefix}block4.0.attn.sr.weight" in state and set(reductions) == {1}
    return PVTConfig(
        embed_dims=tuple(embed),
        depths=tuple(_count(state, rf"{re.escape(prefix)}block{stage}\.(\d+)\.") for stage in STAGES),
        heads=heads,
        mlp_ratios=tuple(ratios),
        sr_ratios=PVTConfig().sr_ratios if linear else tuple(reductions),
        linear=linear,
    )


def resnet_sizes(state: Mapping[str, np.ndarray], prefix: str = "") -> ResNetConfig:
    """Sizes of a bottleneck ResNet whose names start with `prefix`."""
    return ResNetConfig(
        depths=tuple(_count(state, rf"{re.escape(prefix)}layer{stage}\.(\d+)\.") for stage in STAGES),
        planes=tuple(_shape(state, f"{prefix}layer{stage}.0.conv1.weight", 4)[0] for stage in STAGES),
        stem_width=_shape(state, f"{prefix}conv1.weight", 4)[0],
    )


def video_swin_sizes(state: Mapping[str, np.ndarray], prefix: str = "") -> VideoSwinConfig:
    """Sizes of a Video Swin whose names start with `prefix`; the window follows from the bias tables."""
    table = "blocks.0.attn.relative_position_bias_table"
    tables = [_shape(state, f"{prefix}layers.{stage}.{table}", 2) for stage in range(4)]
    index = state.get(f"{prefix}layers.0.blocks.0.attn.relative_position_index")
    return VideoSwinConfig(
        embed_dim=_shape(state, f"{prefix}patch_embed.proj.weight", 5)[0],
        depths=tuple(_count(state, rf"{re.escape(prefix)}layers\.{stage}\.blocks\.(\d+)\.") for stage in range(4)),
        heads=tuple(heads for _, heads in tables),
        window=window_of_table(tables[0][0], None if index is None else len(index)),
    )


def temporal_sizes(state: Mapping[str, np.ndarray], prefix: str) -> TemporalConfig:
    """Sizes of the release's temporal encoder and its classifier."""
    positions, _ = _shape(state, f"{prefix}temporal_encoder.embeddings.position_embeddings.weight", 2)
    layers = _count(state, rf"{re.escape(prefix)}temporal_encoder\.encoder\.layer\.(\d+)\.")
    return TemporalConfig(layers, positions, _shape(state, "fom_output.linear_2.weight", 2)[0])


def window_of_table(entries: int, cells: int | None = None) -> tuple[int, int, int]:
    """Window (frames, side, side) of a relative-position table with `entries` = (2 frames - 1) (2 side - 1)^2 rows.

    Args:
        cells: cells of the window, when the file tells; otherwise 7 x 7 is taken where it fits, else the only one that does.

    Raises:
        UserError: no square window has such a table, or several have.
    """
    fits = []
    for side in range(1, math.isqrt(entries) // 2 + 2):
        square = (2 * side - 1) ** 2
        if entries % square == 0 and (entries // square) % 2 == 1:
            fits.append(((entries // square + 1) // 2, side, side))
    if cells is not None:
        fits = [window for window in fits if math.prod(window) == cells]
    elif entries % SQUARE == 0:
        fits = [window for window in fits if window[1] == 7]
    elif len(fits) > 1:
        fits = [window for window in fits if window[1] > 1]
    if len(fits) != 1:
        raise UserError(
            f"a relative-position table of {entries} entries does not tell its window: {len(fits)} square windows fit"
        )
    return fits[0]


VISUAL_SIZES: dict[str, Callable[[Mapping[str, np.ndarray], str], VisualConfig]] = {
    "pvt": pvt_sizes, "resnet": resnet_sizes, "video_swin": video_swin_sizes,
}  # fmt: skip
"""By the kind of encoder, as configs name it."""


def to_json(config: BertConfig | VisualConfig) -> dict[str, Any]:
    """A config as plain data; a visual encoder's says its `kind`."""
    kinds = {make: kind for kind, make in VISUAL_CONFIGS.items()}
    kind = {"kind": kinds[type(config)]} if type(config) in kinds else {}
    return kind | dataclasses.asdict(config)


def bert_from_json(settings: Mapping[str, Any]) -> BertConfig:
    """Inverse of `to_json`."""
    return BertConfig(**settings)


def visual_from_json(settings: Mapping[str, Any]) -> VisualConfig:
    """Inverse of `to_json`."""
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in settings.items() if name != "kind"}
    return VISUAL_CONFIGS[settings["kind"]](**values)


def _shape(state: Mapping[str, np.ndarray], name: str, rank: int) -> tuple[int, ...]:
    if name not in state:
        raise UserError(f"the file lacks {name}, which its kind of model always has: damaged, renamed, or of another kind")
    shape = tuple(state[name].shape)
    if len(shape) != rank or 0 in shape:
        raise UserError(f"{name} has shape {shape}, expected {rank} axes: not the kind of model that was named")
    return shape


def _count(names: Iterable[str], pattern: str) -> int:
    """One more than the highest number at the group of `pattern`."""
    return 1 + max((int(found[1]) for name in names if (found := re.match(pattern, name))), default=-1)
