"""Cases of optimisation: the schedule, which parameters decay at which rate, and AdamW steps on recorded gradients."""

from __future__ import annotations

import re
from typing import Any

import jax
import numpy as np
import optax
from flax.traverse_util import flatten_dict, unflatten_dict

from snp_jax.convert import antmmf
from snp_jax.convert.snp import map_snp
from snp_jax.models.bert import BertConfig
from snp_jax.models.pvt import PVTConfig
from snp_jax.models.resnet import FROZEN_PATTERN
from snp_jax.models.snp import SNPConfig
from snp_jax.models.video_swin import VideoSwinConfig
from snp_jax.parity.compare import Account
from snp_jax.parity.golden import Golden
from snp_jax.parity.networks import compiled
from snp_jax.train.optim import (
    DECAY_RULES_BY_NAME,
    OptimOptions,
    encoder_rate_rules,
    is_decayed,
    learning_rate,
    make_optimizer,
    rate_factor,
)

MULTIPLIED = ("retrieval", "multichoice")
"""Tasks in which the release reads `encoder_lr_decay`."""
GROUPS_RATE = 0.5
"""`encoder_lr_decay` in the recorded parameter groups."""
UNUSED = (".img_encoder.model.head.", "temporal_encoder.module.pooler.")
"""Parameters that the release has and never uses."""


def schedule_options(config: dict[str, Any], **changes: Any) -> OptimOptions:
    """Our options for a schedule of the release: epochs, where given, replace steps."""
    milestones = [epoch * config["epoch_iterations"] for epoch in config.get("lr_epochs", ())] or config["lr_steps"]
    values = {
        "name": "adamw", "learning_rate": 1.0, "weight_decay": 0.0, "beta1": 0.9, "beta2": 0.98, "clip_norm": 1.0,
        "warmup_steps": config["warmup_iterations"] if config["use_warmup"] else 0, "warmup_factor": config["warmup_factor"],
        "milestones": tuple(milestones), "milestone_factor": config["lr_ratio"], "decay_rules": DECAY_RULES_BY_NAME,
        "rate_rules": encoder_rate_rules(1.0),
    }  # fmt: skip
    return OptimOptions(**values | changes)


def schedule_case(golden: Golden, account: Account) -> None:
    """The factor of the rate at recorded steps."""
    for number, case in enumerate(golden.facts["cases"]):
        options = schedule_options(case["config"])
        for step, factor in case["table"]:
            account.value(f"case {number}, step {step}", float(learning_rate(step, options)), factor)


def parameter_groups_case(golden: Golden, account: Account) -> None:
    """Weight decay and rate of every parameter of the full-size models."""
    for model, groups in golden.facts["groups"].items():
        shapes = {name: shape for group in groups for name, shape in group["names"].items()}
        state = {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}
        rules = antmmf.map_release(antmmf.recognise(state))
        rates = encoder_rate_rules(GROUPS_RATE if model.startswith(MULTIPLIED) else 1.0)
        for group in groups:
            for name in group["names"]:
                if name not in rules:
                    account.rule(f"{model}: {name}", any(part in name for part in UNUSED), "no parameter of ours stands for it")
                    continue
                path = rules[name].path
                found = is_decayed(path, DECAY_RULES_BY_NAME), rate_factor(path, rates)
                wanted = group["weight_decay_on"], group["lr_multiplier"]
                account.rule(f"{model}: {name}", found == wanted, f"(decay, rate) is {found}, recorded {wanted}")
        left = [name for name, rule in rules.items() if name not in shapes and not re.search(FROZEN_PATTERN, rule.path)]
        account.rule(f"{model}: no parameter is in no group", not left, f"{len(left)} are, for example {left[:1]}")


def optimizer_case(golden: Golden, account: Account) -> None:
    """Clipping, AdamW and schedule, step by step."""
    config = golden.config
    rate = config["encoder_lr_decay"] if config["head"] in MULTIPLIED else 1.0
    options = schedule_options(
        config, learning_rate=config["lr"], weight_decay=config["weight_decay"], beta1=config["betas"][0],
        beta2=config["betas"][1], clip_norm=config["max_grad_l2_norm"], rate_rules=encoder_rate_rules(rate),
    )  # fmt: skip
    start = golden.group("param/") or golden.group("in/param/")
    paths = _paths(start)
    tx = make_optimizer(options)
    params = _nest(start, paths)
    state, update = tx.init(params), compiled(tx.update)
    for step in range(len({name.split("/")[1] for name in golden.arrays if re.match(r"in/step\d+/", name)})):
        gradients = _nest(golden.group(f"in/step{step}/grad/"), paths)
        account.output(f"out/step{step}/grad_norm", optax.tree.norm(gradients))
        rates = [
            float(learning_rate(step, options)) * rate_factor(paths[group["params"][0]], options.rate_rules)
            for group in golden.facts["groups"]
        ]
        account.output(f"out/step{step}/lr", rates)
        updates, state = update(gradients, state, params)
        params = optax.apply_updates(params, updates)
        flat = flatten_dict(jax.device_get(params), sep="/")
        for name, path in paths.items():
            account.output(f"out/step{step}/param/{name}", flat[path])


def _nest(arrays: dict[str, np.ndarray], paths: dict[str, str]) -> dict[str, Any]:
    return unflatten_dict({paths[name]: array for name, array in arrays.items()}, sep="/")


def _paths(names: dict[str, np.ndarray]) -> dict[str, str]:
    """Our path of each recorded name; the shapes are made up, so the sizes of the map are as well."""
    bert = BertConfig(vocab_size=1, width=1, layers=12, heads=1, mlp_width=1)
    rules = {}
    for visual in (VideoSwinConfig(), PVTConfig()):
        for prefix in ("", "model."):
            rules |= map_snp(SNPConfig(bert, visual, sep_id=0, num_answers=1, itm=True), prefix)
    return {name: rules[name].path for name in names}
