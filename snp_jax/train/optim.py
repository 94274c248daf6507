"""AdamW with the decay groups, gradient clipping and step schedule of the SNP-S3 recipes (section IV-A), or Muon.

Muon (Jordan et al. 2024; here as `optax.contrib.muon`) orthogonalises the update of every weight matrix. From fresh weights the
quickstart's network learns shapes with a third of the examples that AdamW needs (`docs/log.md`).
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import jax
import jax.numpy as jnp
import optax

from snp_jax.errors import UserError
from snp_jax.models.resnet import FROZEN_PATTERN

DecayRules = tuple[tuple[str, bool], ...]
"""Ordered (pattern, decayed) rules on parameter paths; the first that matches decides, a path without a match is an error."""
RateRules = tuple[tuple[str, float], ...]
DECAY_RULES: DecayRules = (
    (FROZEN_PATTERN, False),
    (r"(^|/)bias$", False),
    (r"norm[^/]*/scale$", False),
    (r"(^|/)(position|segment|cls|relative_bias)(/|$)", False),
    (r"(^|/)(kernel|embedding)$", True),
)
"""No norm, no bias, no table of positions or segments decays."""
DECAY_RULES_BY_NAME: DecayRules = (
    (FROZEN_PATTERN, False),
    (r"(^|/)(bias|relative_bias)$", False),
    (r"^visual/.*scale$", True),
    (r"(^|/)scale$", False),
    (r"(^|/)(kernel|embedding|cls)$", True),
)
"""The release's (`compat.decay_by_name`): what is called "bias", or "LayerNorm" as BERT calls its own, does not decay. So norms
of PVT and Swin do, and position and segment tables."""

MATRIX_RULES: tuple[tuple[str, bool], ...] = (
    (r"(^|/)dwconv/kernel$", False),  # one filter a channel: nothing to orthogonalise
    (r"(^|/)(answer|match_fc2|itm|order/fc2|cell_tags|clip_tags)/kernel$", False),  # classifiers and scores
    (r"(^|/)kernel$", True),
    (r".*", False),
)
"""Ordered (pattern, Muon?) rules on parameter paths; what Muon leaves out (tables, norms, biases) goes to Adam."""
MUON_ITERATIONS = ((3.4445, -4.7750, 2.0315),) * 5
"""Coefficients of each Newton-Schulz iteration: optax's own, five times. Given once, optax unrolls the iterations instead of
making them a loop."""
MUON_RMS = 0.2
"""Root mean square of a Muon update at rate 1: that of a typical Adam update, so both share one rate (Liu et al. 2025)."""


@dataclasses.dataclass(frozen=True)
class OptimOptions:
    """Optimiser settings; defaults in `configs/common.py`.

    Attributes:
        name: "adamw" (published) or "muon".
        learning_rate: peak rate.
        weight_decay: decoupled, multiplied by the rate (AdamW).
        beta1, beta2: moments.
        clip_norm: global gradient norm bound.
        warmup_steps: W; the factor goes from `warmup_factor` to 1 linearly over W steps. 0 = none.
        milestones: steps at which the rate is multiplied by `milestone_factor`.
        decay_rules: which parameters decay, `DECAY_RULES` or `DECAY_RULES_BY_NAME`.
        rate_rules: ordered (pattern, factor) rules on parameter paths that multiply the rate; the first that matches decides.
        freeze: parts of the model (first components of parameter paths) that are not trained; the step computes no gradients of
            them.
    """

    name: str
    learning_rate: float
    weight_decay: float
    beta1: float
    beta2: float
    clip_norm: float
    warmup_steps: int
    warmup_factor: float
    milestones: tuple[int, ...]
    milestone_factor: float
    decay_rules: DecayRules
    rate_rules: RateRules
    freeze: tuple[str, ...] = ()


def parameter_path(path: tuple[Any, ...]) -> str:
    """`a/b/c` for a key path of a parameter tree."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def is_decayed(path: str, rules: DecayRules) -> bool:
    """Whether weight decay applies to a parameter.

    Raises:
        ValueError: no rule covers the path.
    """
    for pattern, decayed in rules:
        if re.search(pattern, path):
            return decayed
    raise ValueError(f"no weight-decay rule covers the parameter {path!r}: add one to the rules")


def decay_mask(params: Any, rules: DecayRules) -> Any:
    """Tree of booleans, True where weight decay applies."""
    return jax.tree_util.tree_map_with_path(lambda path, _: is_decayed(parameter_path(path), rules), params)


def is_frozen(path: str, freeze: tuple[str, ...]) -> bool:
    """Whether a parameter is never updated: in a part of `freeze`, or the statistics and affines of a frozen BatchNorm."""
    return path.split("/")[0] in freeze or re.search(FROZEN_PATTERN, path) is not None


def frozen_mask(params: Any, freeze: tuple[str, ...]) -> Any:
    """Tree of booleans, `is_frozen` of every parameter."""
    return jax.tree_util.tree_map_with_path(lambda path, _: is_frozen(parameter_path(path), freeze), params)


def check_freeze(freeze: tuple[str, ...], params: Any) -> None:
    """Raises `UserError` for a part that the model does not have."""
    for part in freeze:
        if part not in params:
            raise UserError(f"config.optim.freeze: the model has no part {part!r}; it has {', '.join(sorted(params))}")


def encoder_rate_rules(factor: float) -> RateRules:
    """The release's `encoder_lr_decay`: `factor` for BERT and the visual encoder, 1 for `cross_pooler` and the heads."""
    return ((r"^(embeddings|encoder|pooler|visual|visual_projection|clip_fc1|clip_fc2)/", factor), (r".*", 1.0))


def rate_factor(path: str, rules: RateRules) -> float:
    """What a parameter's rate is multiplied by."""
    return next(factor for pattern, factor in rules if re.search(pattern, path))


def _multiply_rates(rules: RateRules) -> optax.GradientTransformation:
    """Multiplies updates by `rate_factor`."""

    def scale(path: tuple[Any, ...], update: jax.Array) -> jax.Array:
        return update * rate_factor(parameter_path(path), rules)

    return optax.stateless(lambda updates, params: jax.tree_util.tree_map_with_path(scale, updates))


def learning_rate(step: jax.Array | int, options: OptimOptions) -> jax.Array:
    """Rate of a 0-based step: linear warm-up while step <= W, then one factor per milestone reached."""
    step = jnp.asarray(step, jnp.float32)
    reached = sum((step >= milestone).astype(jnp.float32) for milestone in options.milestones) if options.milestones else 0.0
    factor = jnp.float32(options.milestone_factor) ** reached
    if options.warmup_steps:
        done = step / options.warmup_steps
        warm = options.warmup_factor * (1.0 - done) + done
        factor = jnp.where(step <= options.warmup_steps, warm, factor)
    return options.learning_rate * factor


def make_optimizer(options: OptimOptions) -> optax.GradientTransformation:
    """Clip by global norm, then AdamW or Muon; frozen parameters get no update."""
    update = {"adamw": _adamw, "muon": _muon}[options.name]
    parts = [
        optax.clip_by_global_norm(options.clip_norm),
        update(options),
        optax.masked(optax.set_to_zero(), lambda params: frozen_mask(params, options.freeze)),
    ]
    if any(factor != 1.0 for _, factor in options.rate_rules):
        parts.append(_multiply_rates(options.rate_rules))
    return optax.chain(*parts)


def _adamw(options: OptimOptions) -> optax.GradientTransformation:
    return optax.adamw(
        lambda step: learning_rate(step, options),
        b1=options.beta1,
        b2=options.beta2,
        eps=1e-8,
        weight_decay=options.weight_decay,
        mask=lambda params: decay_mask(params, options.decay_rules),
    )


def _muon(options: OptimOptions) -> optax.GradientTransformation:
    """Muon on the weight matrices, which alone decay; Adam on everything else."""
    return optax.contrib.muon(
        lambda step: learning_rate(step, options),
        ns_coeffs=MUON_ITERATIONS,
        beta=options.beta1,
        adam_b1=options.beta1,
        adam_b2=options.beta2,
        weight_decay=options.weight_decay,
        consistent_rms=MUON_RMS,
        muon_weight_dimension_numbers=lambda params: matrix_axes(params, options.freeze),
    )


def matrix_axes(params: Any, freeze: tuple[str, ...]) -> Any:
    """For every parameter that Muon updates, which axes are its rows (all but the last) and columns; None for the others."""

    def axes(path: tuple[Any, ...], leaf: jax.Array) -> optax.contrib.MuonDimensionNumbers | None:
        name = parameter_path(path)
        if is_frozen(name, freeze) or not next(matrix for pattern, matrix in MATRIX_RULES if re.search(pattern, name)):
            return None
        return optax.contrib.MuonDimensionNumbers(tuple(range(leaf.ndim - 1)), leaf.ndim - 1)

    return jax.tree_util.tree_map_with_path(axes, params)
