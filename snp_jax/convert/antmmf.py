"""Checkpoints of the SNP-S3 release (AntMMF): which of their names are one array, what network they are of, and the way back.

PyTorch stores a shared module under each of its names; the name map of `snp.py` has one name an array. The names that this file
adds on export make the release's strict loading succeed.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from snp_jax.convert import sizes
from snp_jax.convert.files import State
from snp_jax.convert.rules import Rules
from snp_jax.convert.snp import map_snp
from snp_jax.errors import UserError
from snp_jax.models.pvt import PVTConfig
from snp_jax.models.snp import SNPConfig
from snp_jax.models.temporal import TemporalConfig
from snp_jax.models.video_swin import VideoSwinConfig
from snp_jax.models.windows import relative_index

IMAGENET_CLASSES = 1000
WORDS = "text_encoder.embeddings.word_embeddings.weight"
ALIASES = (
    (r"(.*module\.)text_encoder\.module\.", r"\1text_encoder."),
    (r"(.*module\.)cross_embeddings\.", r"\1text_encoder.embeddings."),
    (r"(.*module\.)cross_encoder\.", r"\1text_encoder.encoder."),
    (r"(.*)temporal_encoder\.module\.(embeddings|encoder)\.", r"\1temporal_encoder.\2."),
    (r"mlm_head\.(\w+)\.cls\.predictions\.decoder\.weight$", rf"model.module.{WORDS}"),
    (r"mlm_head\.(\w+)\.cls\.predictions\.decoder\.bias$", r"mlm_head.\1.cls.predictions.bias"),
)
"""(pattern, replacement): the other names of shared arrays, and the one that the name map has."""


def canonical(state: Mapping[str, np.ndarray]) -> tuple[State, int]:
    """The state with one name an array, and how many further names were dropped. Undoes DistributedDataParallel's "module.".

    Raises:
        UserError: two names of one array hold different numbers.
    """
    wrapped = all(name.startswith("module.") for name in state) and any(name.startswith("module.model.") for name in state)
    state = {name.removeprefix("module.") if wrapped else name: array for name, array in state.items()}
    single, dropped = {}, 0
    for name, array in state.items():
        own = canonical_name(name)
        if own in state and own != name:
            if not np.array_equal(state[own], array):
                raise UserError(f"{name} and {own} are one array in the release, but differ here: not a shared network")
            dropped += 1
            continue
        single[own] = array
    return single, dropped


def canonical_name(name: str) -> str:
    """The name that the name map has for an array."""
    for pattern, replacement in ALIASES:
        changed = re.sub(f"^{pattern}", replacement, name)
        if changed != name:
            return changed
    return name


def expand(state: Mapping[str, np.ndarray]) -> State:
    """The inverse of `canonical`: every array under all the names that the release's modules give it."""
    full = dict(state)
    for name, array in state.items():
        for pattern, replacement in SHARED_AS:
            changed = re.sub(f"^{pattern}", replacement, name)
            if changed != name:
                full.setdefault(changed, array)  # P3E has arrays of its own under the names of the cross branch
        if name.endswith(".cls.predictions.transform.dense.weight"):
            decoder = name.replace("transform.dense", "decoder")
            full[decoder] = state[f"model.module.{WORDS}"]
    return full


SHARED_AS = (
    (r"(.*module\.)text_encoder\.(embeddings|encoder|pooler)\.", r"\1text_encoder.module.\2."),
    (r"(.*module\.)text_encoder\.embeddings\.", r"\1cross_embeddings."),
    (r"(.*module\.)text_encoder\.encoder\.", r"\1cross_encoder."),
    (r"(.*)temporal_encoder\.(embeddings|encoder)\.", r"\1temporal_encoder.module.\2."),
    (r"mlm_head\.(\w+)\.cls\.predictions\.bias$", r"mlm_head.\1.cls.predictions.decoder.bias"),
)
"""`ALIASES` the other way round, but for the tied word table."""


@dataclasses.dataclass(frozen=True)
class Release:
    """What a checkpoint of the release holds.

    Attributes:
        config: sizes of the network; heads that leave no trace in shapes are 1, the vocabulary id of [SEP] is BERT's.
        prefix: what names of the network start with: "model." of a pre-training checkpoint, "" of a fine-tuned one.
        word_heads: whether it has the two masked-word heads.
        matching: whether it has the matching head (a question answering checkpoint has none).
    """

    config: SNPConfig
    prefix: str
    word_heads: bool
    matching: bool


def recognise(state: Mapping[str, np.ndarray], bert_heads: int = 1, visual_heads: tuple[int, ...] = (1, 1, 1, 1)) -> Release:
    """Which network a state (under canonical names) is of.

    Raises:
        UserError: it has no SNP network's names.
    """
    ending = f"module.{WORDS}"
    prefixes = [name.removesuffix(ending) for name in state if name.endswith(ending)]
    if len(prefixes) != 1:
        first = ", ".join(sorted(state)[:3])
        raise UserError(
            f"no name ends in {ending}: not a checkpoint of the SNP-S3 release; the file's names start with {first}"
        )
    prefix, image = prefixes[0], f"{prefixes[0]}module.img_encoder."
    bert = sizes.bert_sizes(state, f"{prefix}module.text_encoder.", bert_heads)
    if f"{image}swin.patch_embed.proj.weight" in state:
        visual = sizes.video_swin_sizes(state, f"{image}swin.")
    elif f"{image}model.patch_embed1.proj.weight" in state:
        visual = sizes.pvt_sizes(state, f"{image}model.", visual_heads)
    else:
        visual = sizes.resnet_sizes(state, f"{image}model.")
    config = SNPConfig(
        bert, visual, sep_id=102,
        num_answers=len(state[f"{prefix}clf.weight"]) if f"{prefix}clf.weight" in state else 0,
        itm="itm_head.cls.seq_relationship.weight" in state,
        temporal=sizes.temporal_sizes(state, prefix) if f"{prefix}cls_token" in state else None,
    )  # fmt: skip
    word_heads = "mlm_head.text_encoder_mlm.cls.predictions.bias" in state
    return Release(config, prefix, word_heads, f"{prefix}similarity_dense.0.weight" in state)


def map_release(release: Release) -> Rules:
    """The name map of what `recognise` found."""
    rules = map_snp(release.config, release.prefix, "mlm_head." if release.word_heads else None)
    if not release.matching:
        rules = {name: rule for name, rule in rules.items() if not rule.path.startswith("match_")}
    return rules


def to_json(release: Release) -> dict[str, Any]:
    """A `Release` as plain data."""
    config = release.config
    network = {"bert": sizes.to_json(config.bert), "visual": sizes.to_json(config.visual), "num_answers": config.num_answers}
    network |= {"itm": config.itm, "temporal": config.temporal and dataclasses.asdict(config.temporal)}
    network["cross_layers"] = config.cross_layers
    rest = {field.name: getattr(release, field.name) for field in dataclasses.fields(release) if field.name != "config"}
    return network | rest


def from_json(settings: Mapping[str, Any]) -> Release:
    """Inverse of `to_json`."""
    rest = dict(settings)
    bert, visual = sizes.bert_from_json(rest.pop("bert")), sizes.visual_from_json(rest.pop("visual"))
    temporal = rest.pop("temporal")
    network = {name: rest.pop(name) for name in ("num_answers", "itm", "cross_layers")}
    config = SNPConfig(bert, visual, sep_id=102, temporal=temporal and TemporalConfig(**temporal), **network)
    return Release(config, **rest)


def unlearnt(release: Release) -> State:
    """Arrays that the release's modules save beside the network, so that its strict loading finds every name.

    Video Swin's index of relative positions follows from the sizes. PVTv2's ImageNet head and the pooler left over in the
    temporal encoder are never used there: zeros.
    """
    config, prefix = release.config, release.prefix
    visual, width = config.visual, config.bert.width
    extra: State = {}
    if isinstance(visual, VideoSwinConfig):
        index = np.asarray(relative_index(visual.window, math.prod(visual.window)), np.int64)
        tables = [name for name in map_release(release) if name.endswith("relative_position_bias_table")]
        extra |= {name.replace("bias_table", "index"): index for name in tables}
    if isinstance(visual, PVTConfig):
        head = f"{prefix}module.img_encoder.model.head"
        extra[f"{head}.weight"] = np.zeros((IMAGENET_CLASSES, visual.width), np.float32)
        extra[f"{head}.bias"] = np.zeros(IMAGENET_CLASSES, np.float32)
    if config.temporal is not None:
        pooler = f"{prefix}temporal_encoder.module.pooler.dense"
        extra[f"{pooler}.weight"] = np.zeros((width, width), np.float32)
        extra[f"{pooler}.bias"] = np.zeros(width, np.float32)
    return extra
