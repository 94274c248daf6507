"""Table II of SNP-S3: how many parameters each network has, counted on the shapes of its real parameter tree.

What the paper counts was found by arithmetic (its four numbers fit no released configuration directly): pre-training with the
temporal encoder, both masked-word heads on the tied word table, and PVTv2's 1000-way ImageNet head, which is part of its
checkpoint and of no use here; not the classifier of frame-order modelling, and no frozen BatchNorm statistics.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from snp_jax.eval.tables import NOTHING, Table
from snp_jax.models.bert import BertConfig
from snp_jax.models.pvt import PVTConfig
from snp_jax.models.resnet import FROZEN_PATTERN, ResNetConfig
from snp_jax.models.snp import SNP, SNPConfig
from snp_jax.models.temporal import TemporalConfig
from snp_jax.models.video_swin import VIDEO_SWIN_CONFIGS
from snp_jax.models.visual import VisualConfig

ENCODERS: dict[str, VisualConfig] = {
    "R50": ResNetConfig(),
    "PVT": PVTConfig(),
    "VST-S": VIDEO_SWIN_CONFIGS["small"],
    "VST-B": VIDEO_SWIN_CONFIGS["base"],
}
"""The paper's visual encoders. Of Video Swin, "small" is what the authors released and "base" what the paper names."""
DESIGNS = {"SNP": 0, "P3E": 3}
"""`SNPConfig.cross_layers` of the shared network and of the three-encoder baseline."""
PAPER = {
    ("SNP", "R50"): 160_372_791,
    ("SNP", "PVT"): 161_101_087,
    ("P3E", "R50"): 205_473_591,
    ("P3E", "PVT"): 206_201_887,
}
"""The counts behind Table II's 160.4M, 161.1M, 205.5M and 206.2M."""
IMAGENET_CLASSES = 1000
PARTS = {
    "BERT: embeddings": ("embeddings",),
    "BERT: 12 layers": ("encoder",),
    "text pooler": ("pooler",),
    "cross pooler": ("cross_pooler",),
    "own cross embeddings": ("cross_embeddings",),
    "own cross layers": ("cross_encoder",),
    "visual encoder": ("visual",),
    "map to 768": ("visual_projection",),
    "clip features (img_fc)": ("clip_fc1", "clip_fc2"),
    "matching score": ("match_fc1", "match_fc2"),
    "masked-word heads": ("text_words", "cross_words"),
    "ITM head": ("itm",),
    "temporal encoder": ("temporal",),
}
"""Name of a part and the top-level modules it consists of."""
IMAGENET_HEAD = "ImageNet head"
NOT_COUNTED = {"order classifier (FOM)": ("order",)}
FROZEN = "frozen BatchNorm statistics"


@dataclasses.dataclass(frozen=True)
class Counts:
    """Parameters of one network: by part, and of what the paper's number leaves out."""

    counted: dict[str, int]
    left_out: dict[str, int]

    @property
    def total(self) -> int:
        """The number to compare with Table II."""
        return sum(self.counted.values())


def parameter_shapes(config: SNPConfig) -> Any:
    """The parameter tree of a network as shapes."""
    model = SNP(config)
    frames, ids = jax.ShapeDtypeStruct((1, 1, 64, 64, 3), jnp.float32), jax.ShapeDtypeStruct((1, 4), jnp.int32)
    frame_mask, mask = jax.ShapeDtypeStruct((1, 1), bool), jax.ShapeDtypeStruct((1, 4), bool)
    init = lambda *inputs: model.init(jax.random.key(0), *inputs, num_clips=1)["params"]  # noqa: E731
    return jax.eval_shape(init, frames, frame_mask, ids, mask)


@functools.cache
def count_parameters(encoder: str, design: str) -> Counts:
    """Counts a network of `ENCODERS` and `DESIGNS` with BERT-base."""
    visual = ENCODERS[encoder]
    config = SNPConfig(
        bert=BertConfig(), visual=visual, sep_id=102, cross_layers=DESIGNS[design], itm=True, temporal=TemporalConfig()
    )
    leaves = jax.tree_util.tree_leaves_with_path(parameter_shapes(config))
    sizes = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf.size for path, leaf in leaves}
    frozen = {name for name in sizes if re.search(FROZEN_PATTERN, name)}

    def size(modules: tuple[str, ...]) -> int:
        return sum(n for name, n in sizes.items() if name.split("/")[0] in modules and name not in frozen)

    counted = {part: size(modules) for part, modules in PARTS.items()}
    counted[IMAGENET_HEAD] = _imagenet_head(visual.width) if isinstance(visual, PVTConfig) else 0
    left_out = {part: size(modules) for part, modules in NOT_COUNTED.items()}
    left_out[FROZEN] = sum(sizes[name] for name in frozen)
    if sum(counted.values()) + sum(left_out.values()) != sum(sizes.values()) + counted[IMAGENET_HEAD]:
        raise AssertionError(f"parts do not cover the parameters of {design}-{encoder}: complete PARTS")
    return Counts(counted, left_out)


def _imagenet_head(width: int) -> int:
    """Parameters of the linear classifier that a PVTv2 checkpoint carries."""
    head = nn.Dense(IMAGENET_CLASSES)
    shapes = jax.eval_shape(head.init, jax.random.key(0), jax.ShapeDtypeStruct((1, width), jnp.float32))
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def parameter_tables() -> list[Table]:
    """Totals beside the paper's, and what each network consists of."""
    networks = {(design, encoder): count_parameters(encoder, design) for design in DESIGNS for encoder in ENCODERS}
    totals = []
    for name, counts in networks.items():
        paper = PAPER.get(name)
        rounded = NOTHING if paper is None else f"{paper / 1e6:.1f}M"
        difference = NOTHING if paper is None else f"{counts.total - paper:,}"
        totals.append(("-".join(name), f"{counts.total:,}", _number(paper), rounded, difference))
    header = ("", "counted here", "the paper's", "as printed", "difference")
    note = "Table II has no Video Swin. VST-S is the authors' release, VST-B what the paper names."
    summary = Table("Parameters (SNP-S3, Table II)", header, tuple(totals), note)

    def row(part: str, group: str) -> tuple[str, ...]:
        return (part, *(_number(getattr(counts, group)[part] or None) for counts in networks.values()))

    rows = [row(part, "counted") for part in (*PARTS, IMAGENET_HEAD)]
    rows.append(("counted", *(f"{counts.total:,}" for counts in networks.values())))
    rows += [row(part, "left_out") for part in (*NOT_COUNTED, FROZEN)]
    note = (
        "The paper's numbers leave out what is below the line \"counted\". They include PVTv2's ImageNet head, which this "
        "project does not build, and no pooler of the temporal encoder."
    )
    return [summary, Table("By part", ("", *("-".join(name) for name in networks)), tuple(rows), note)]


def _number(value: int | None) -> str:
    return NOTHING if value is None else f"{value:,}"
