"""From a config to the objects it names: tokeniser, model, task, optimiser options. No training here."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp
from ml_collections import ConfigDict

from snp_jax.data.text import Tokenizer
from snp_jax.data.words import build_word_tables, load_words
from snp_jax.errors import UserError
from snp_jax.models.bert import BertConfig
from snp_jax.models.snp import SNP, SNPConfig
from snp_jax.models.visual import VISUAL_CONFIGS, VisualConfig
from snp_jax.objectives.masking import WordArrays
from snp_jax.train import tasks
from snp_jax.train.optim import OptimOptions

TASKS = ("pretrain", "retrieval", "qa", "choice")
CHOICES = {
    "model.dtype": ("float32", "bfloat16"),
    "model.visual.kind": tuple(VISUAL_CONFIGS),
    "objective.matching.anchor": ("middle", "bag"),
    "objective.masking.kind": ("mssm", "mlm"),
    "objective.lvwm": ("after", "before", "both"),
    "objective.matching_caption": ("masked", "raw"),
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


def build_model(config: ConfigDict, tokenizer: Tokenizer) -> SNP:
    """The network of `config.model` for a tokeniser's vocabulary."""
    model = config.model
    if config.text.max_len > model.bert.max_positions:
        raise UserError(
            f"config.text.max_len={config.text.max_len} exceeds config.model.bert.max_positions={model.bert.max_positions}"
        )
    bert = _sizes("model.bert", BertConfig, vocab_size=tokenizer.vocab_size, **model.bert.to_dict())
    settings = SNPConfig(
        bert=bert, visual=build_visual(config), sep_id=tokenizer.sep_id,
        num_answers=model.num_answers, head_dropout=model.head_dropout,
    )  # fmt: skip
    return SNP(settings, dtype=jnp.dtype(model.dtype))


def build_visual(config: ConfigDict) -> VisualConfig:
    """`config.model.visual`; `UserError` when it holds the keys of another kind."""
    settings = config.model.visual.to_dict()
    kind = settings.pop("kind")
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


def build_task(config: ConfigDict, tokenizer: Tokenizer) -> Any:
    """The training task of `config.task`."""
    name, num_clips = check_task(config), config.clip.num_clips
    if name == "qa":
        return tasks.AnswerTask(num_clips)
    if name == "choice":
        return tasks.ChoiceTask(num_clips)
    options = tasks.MatchingOptions(**config.objective.matching.to_dict())
    if not 0 <= options.negatives < config.batch_size:
        raise UserError(
            f"config.objective.matching.negatives={options.negatives} must be below config.batch_size={config.batch_size}"
        )
    weights = config.objective.weights.to_dict()
    if name == "retrieval":
        return tasks.RetrievalTask(num_clips, weights, options)
    words = build_word_tables(load_words(required(config, "text", "words")), tokenizer, top_k=config.text.top_k)
    arrays = {field.name: jnp.asarray(getattr(words, field.name)) for field in dataclasses.fields(words)}
    return tasks.PretrainTask(
        num_clips=num_clips, weights=weights, matching=options,
        masking=tasks.MaskingOptions(**config.objective.masking.to_dict()), words=WordArrays(**arrays),
        special_ids=tuple(tokenizer.special_ids), mask_id=tokenizer.mask_id, lvwm=config.objective.lvwm,
        words_per_caption=config.objective.words_per_caption,
        matching_caption=config.objective.matching_caption,
    )  # fmt: skip


def build_optim(config: ConfigDict) -> OptimOptions:
    """`config.optim`."""
    settings = config.optim.to_dict()
    return OptimOptions(**{**settings, "milestones": tuple(settings["milestones"])})
