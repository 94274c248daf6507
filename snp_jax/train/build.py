"""From a config to the objects it names: tokeniser, model, task, optimiser options. No training here."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from snp_jax.data.augment import AugmentOptions
from snp_jax.data.rand_augment import TOP
from snp_jax.data.text import Tokenizer
from snp_jax.data.words import build_word_tables, load_words, rank_words
from snp_jax.errors import UserError
from snp_jax.models.bert import BertConfig
from snp_jax.models.snp import SNP, SNPConfig
from snp_jax.models.tagger import Tagger
from snp_jax.models.temporal import TemporalConfig
from snp_jax.models.visual import VISUAL_CONFIGS, VisualConfig
from snp_jax.objectives import masking
from snp_jax.objectives.masking import WordArrays
from snp_jax.train import sharding, tasks
from snp_jax.train.choices import Masker
from snp_jax.train.compat import Compat, with_first_letters, with_uncounted_words
from snp_jax.train.gradients import REDUCE
from snp_jax.train.gvtm import MatchingOptions
from snp_jax.train.momentum import MocoOptions
from snp_jax.train.optim import DECAY_RULES, DECAY_RULES_BY_NAME, OptimOptions, encoder_rate_rules
from snp_jax.train.pretrain import PretrainTask
from snp_jax.train.tagging import TaggingTask
from snp_jax.train.tasks import Task

TASKS = ("tagging", "pretrain", "retrieval", "qa", "choice")
CHOICES = {
    "model.dtype": ("float32", "bfloat16"),
    "mesh.reduce": REDUCE,
    "model.visual.kind": tuple(VISUAL_CONFIGS),
    "objective.matching.anchor": ("middle", "bag"),
    "objective.masking.kind": ("mssm", "mlm"),
    "objective.tags": ("significant", "any"),
    "optim.name": ("adamw", "muon"),
    "objective.lvwm": ("after", "before", "both"),
    "objective.matching_caption": ("masked", "raw"),
    "evaluation.ties": ("average", "index"),
    "objective.matching.mining": ("sample", "nearest", "top_k"),
    "objective.matching.reweight": ("none", "median"),
}
"""Config keys that take one of a few words; a task has only some of them."""


def check_task(config: ConfigDict) -> str:
    """The config's task; `UserError` when there is no such task."""
    if config.task not in TASKS:
        raise UserError(f"config.task={config.task!r} is not a task: choose one of {', '.join(TASKS)}")
    return config.task


def check_choices(config: ConfigDict) -> None:
    """Raises `UserError` when a key of `CHOICES` has a value it cannot have."""
    for key, allowed in CHOICES.items():
        value = config
        for part in key.split("."):
            value = value.get(part) if value is not None else None
        if value is not None and value not in allowed:
            raise UserError(f"config.{key}={value!r}: choose one of {', '.join(allowed)}")


def required(config: ConfigDict, section: str, key: str) -> str:
    """A path the config leaves open; `UserError` when it was not given."""
    value = config[section][key]
    if not value:
        raise UserError(f"config.{section}.{key} is not set: add --config.{section}.{key}=<path>")
    return value


def build_mesh(config: ConfigDict, devices: Sequence[Any] | None = None) -> Mesh:
    """The mesh of `config.mesh` over `devices` (default: those present), checked against batch and model."""
    mesh = sharding.make_mesh(sharding.MeshOptions(**{axis: config.mesh[axis] for axis in sharding.MESH_AXES}), devices)
    accumulate, shards = config.optim.accumulate, sharding.batch_shards(mesh)
    sharding.check_batch_size(config.batch_size, mesh, accumulate)
    if config.task == "pretrain" and config.compat.order_over_batch and config.objective.weights.fom:
        clips, here = config.clip.num_clips, config.batch_size // accumulate
        here //= shards if config.mesh.reduce == "once" else 1
        if here % clips:
            raise UserError(
                f"config.compat.order_over_batch takes {clips} pairs for the clips of one video, and a program has {here}: set "
                'config.mesh.reduce="compiler", or another config.batch_size'
            )
    return mesh


def build_model(config: ConfigDict, tokenizer: Tokenizer) -> SNP | Tagger:
    """The network of `config.model` for a tokeniser's vocabulary; of the task "tagging", its visual part."""
    model = config.model
    if config.task == "tagging":
        return Tagger(build_visual(config), model.bert.width, tokenizer.vocab_size, dtype=jnp.dtype(model.dtype))
    if config.text.max_len > model.bert.max_positions:
        raise UserError(
            f"config.text.max_len={config.text.max_len} exceeds config.model.bert.max_positions={model.bert.max_positions}"
        )
    bert = _sizes("model.bert", BertConfig, vocab_size=tokenizer.vocab_size, **model.bert.to_dict())
    weights = config.objective.weights if config.task == "pretrain" else {"itm": 0.0, "fom": 0.0}
    temporal = TemporalConfig(**model.temporal.to_dict()) if weights["fom"] else None
    if temporal and not config.clip.num_clips <= min(temporal.max_clips, temporal.max_positions - 1):
        raise UserError(
            f"config.clip.num_clips={config.clip.num_clips} exceeds config.model.temporal.max_clips={temporal.max_clips} "
            f"(or max_positions={temporal.max_positions}, one of which is the CLS)"
        )
    settings = SNPConfig(
        bert=bert, visual=build_visual(config), sep_id=tokenizer.sep_id, num_answers=model.num_answers,
        head_dropout=model.head_dropout, cross_layers=model.cross_layers, itm=weights["itm"] != 0, temporal=temporal,
    )  # fmt: skip
    return SNP(settings, dtype=jnp.dtype(model.dtype))


def build_visual(config: ConfigDict) -> VisualConfig:
    """`config.model.visual`; `UserError` when it holds the keys of another kind."""
    settings = config.model.visual.to_dict()
    kind = settings.pop("kind", None)
    if kind is None:
        raise UserError("config.model.visual has no key 'kind': write config.model.visual = common.pvt(...), say")
    wanted = {field.name for field in dataclasses.fields(VISUAL_CONFIGS[kind])}
    if wanted != settings.keys():
        raise UserError(
            f"config.model.visual.kind={kind!r}, but the keys beside it are not that encoder's: "
            f"write config.model.visual = common.{kind}(...) in the config file"
        )
    return _sizes("model.visual", VISUAL_CONFIGS[kind], **settings)


def _sizes(section: str, make: type, **settings: Any) -> Any:
    """A model part's config; one whose sizes do not fit together is the user's mistake."""
    try:
        return make(**{name: tuple(v) if isinstance(v, list) else v for name, v in settings.items()})
    except ValueError as error:
        raise UserError(f"config.{section}: {error}") from None


def build_task(config: ConfigDict, tokenizer: Tokenizer) -> Task:
    """The training task of `config.task`."""
    name, num_clips = check_task(config), config.clip.num_clips
    if name == "qa":
        return tasks.AnswerTask(num_clips)
    if name == "choice":
        return tasks.ChoiceTask(num_clips)
    compat = Compat(**config.compat.to_dict())
    if name == "tagging":
        every = config.objective.tags == "any"
        tags = jnp.ones(tokenizer.vocab_size, bool) if every else build_words(config, tokenizer, compat).significant
        return TaggingTask(num_clips, tags, every, tuple(tokenizer.special_ids))
    shared = {
        "num_clips": num_clips, "weights": config.objective.weights.to_dict(), "matching": _matching(config),
        "moco": _moco(config, compat), "compat": compat,
    }  # fmt: skip
    if name == "retrieval":
        return tasks.RetrievalTask(**shared)
    objective = config.objective
    words = build_words(config, tokenizer, compat)
    return PretrainTask(
        **shared, masker=build_masker(objective.masking, words, tokenizer, compat), mask_ratio=objective.masking.ratio,
        attentive=objective.masking.attentive, significant=words.significant, special_ids=tuple(tokenizer.special_ids),
        mask_id=tokenizer.mask_id, lvwm=objective.lvwm, words_per_caption=objective.words_per_caption,
        matching_caption=objective.matching_caption, order_ratio=objective.order_ratio,
    )  # fmt: skip


def build_words(config: ConfigDict, tokenizer: Tokenizer, compat: Compat) -> WordArrays:
    """The significant words of `config.text.words` for a tokeniser, on the device."""
    mined, top_k = load_words(required(config, "text", "words")), config.text.top_k
    tables = build_word_tables(mined, tokenizer, top_k=top_k)
    if compat.uncounted_words:
        tables = with_uncounted_words(tables, rank_words(mined, tokenizer), top_k)
    if compat.first_letter:
        tables = with_first_letters(tables, tokenizer)
    return WordArrays(**{field.name: jnp.asarray(getattr(tables, field.name)) for field in dataclasses.fields(tables)})


def build_masker(options: ConfigDict, words: WordArrays, tokenizer: Tokenizer, compat: Compat) -> Masker:
    """How captions are masked: `config.objective.masking`."""
    settings = {"ratio": options.ratio, "mask_id": tokenizer.mask_id}
    if options.kind == "mlm":
        return functools.partial(masking.mask_any, vocab_size=tokenizer.vocab_size, **settings)
    rule = masking.mask_significant_antmmf if compat.mssm_fallback else masking.mask_significant
    return functools.partial(rule, words=words, **settings)


def _matching(config: ConfigDict) -> MatchingOptions:
    """`config.objective.matching`, whose numbers must fit the batch."""
    options = MatchingOptions(**config.objective.matching.to_dict())
    where, batch_size, given = "config.objective.matching", config.batch_size, f"config.batch_size={config.batch_size}"
    if config.optim.accumulate > 1:  # pairs are compared inside a microbatch
        batch_size //= config.optim.accumulate
        given = f"{given} / config.optim.accumulate={config.optim.accumulate}"
    if not 0 <= options.negatives < batch_size:
        raise UserError(f"{where}.negatives={options.negatives} must be below {given}")
    if options.mining != "sample" and not options.negatives and not config.compat.mined_matrix:
        raise UserError(f"{where}.mining={options.mining!r} chooses {where}.negatives, which is 0: set how many")
    if options.local_groups < 1 or batch_size % options.local_groups:
        raise UserError(f"{given} is not a multiple of {where}.local_groups={options.local_groups}")
    if options.local_groups > 1 and options.negatives:
        raise UserError(f"{where}.local_groups is for all pairs of a group: set {where}.negatives=0")
    return options


def _moco(config: ConfigDict, compat: Compat) -> MocoOptions | None:
    """`config.objective.moco`; None when it is off."""
    settings = config.objective.moco.to_dict()
    if not settings.pop("enabled"):
        return None
    if config.optim.accumulate > 1:
        raise UserError(
            "config.objective.moco.enabled: key encoders and queues move once a step; set config.optim.accumulate=1 "
            "(MoCo needs no large batch: its negatives come from the queues)"
        )
    rows = {"clip_queue": config.batch_size * config.clip.num_clips, "text_queue": config.batch_size}
    for name, needed in rows.items():
        if settings[name] < needed:
            raise UserError(f"config.objective.moco.{name}={settings[name]} is shorter than the {needed} keys of one batch")
    return MocoOptions(**settings, clamped=compat.clamped_queue)


def build_optim(config: ConfigDict) -> OptimOptions:
    """`config.optim`."""
    settings = config.optim.to_dict()
    decay = DECAY_RULES_BY_NAME if config.compat.decay_by_name else DECAY_RULES
    rates = encoder_rate_rules(settings.pop("encoder_rate"))
    del settings["accumulate"]  # of the step, not of the update
    settings["milestones"], settings["freeze"] = tuple(settings["milestones"]), tuple(settings["freeze"])
    return OptimOptions(**settings, decay_rules=decay, rate_rules=rates)


def build_augment(config: ConfigDict) -> AugmentOptions:
    """`config.augment`, with the crop of `config.clip` and the mask of `config.compat`."""
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in config.augment.to_dict().items()}
    crop_size = tuple(config.clip.crop_size)
    settings = AugmentOptions(**given, crop_size=crop_size, corner_mask=Compat(**config.compat.to_dict()).corner_mask)
    if settings.zoom < 1.0 or min(settings.shift, settings.light) < 0.0:
        raise UserError(f"config.augment: zoom must be at least 1, shift and light at least 0; found {settings}")
    if not (0.0 < settings.scale <= 1.0 and 0.0 <= settings.flip <= 1.0 and 0.0 <= settings.rand_magnitude <= TOP):
        raise UserError(
            f"config.augment: scale must be in (0, 1], flip in [0, 1] and rand_magnitude in [0, {TOP:g}]; found {settings}"
        )
    (least, most), (narrow, wide) = settings.crop_area, settings.crop_ratio
    if not (0.0 < least <= most <= 1.0 and 0.0 < narrow <= wide):
        raise UserError(f"config.augment: crop_area must be two shares, crop_ratio two ratios, ascending; found {settings}")
    _check_padding(config, settings)
    return settings


def _check_padding(config: ConfigDict, settings: AugmentOptions) -> None:
    """What needs a crop, and what must not meet padding."""
    crops = settings.crop_area != (1.0, 1.0) or settings.crop_ratio != (1.0, 1.0)
    if crops and not settings.crop_size:
        raise UserError("config.augment.crop_area and crop_ratio are for crops: set config.clip.crop_size=(height, width)")
    if settings.scale != 1.0 and settings.crop_size:
        raise UserError("config.augment.scale pads pictures, config.clip.crop_size cuts them: use crop_area instead of scale")
    padded = (config.clip.fit == "pad" or settings.scale != 1.0) and not settings.crop_size
    if padded and (settings.zoom != 1.0 or settings.shift or settings.rand_ops):
        raise UserError(
            "config.augment.zoom, shift and rand_ops change whole frames, not padded ones: set config.clip.crop_size"
        )
