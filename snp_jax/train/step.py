"""The jitted training step: augmentation, forward, backward, update. A pure function of (state, batch, seed)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from snp_jax.data.augment import AugmentOptions
from snp_jax.models.snp import SNP
from snp_jax.objectives.total import mean, total_loss
from snp_jax.train.gradients import make_compute
from snp_jax.train.optim import OptimOptions, learning_rate
from snp_jax.train.sharding import batch_sharding, replicated
from snp_jax.train.state import TrainState
from snp_jax.train.tasks import Task

Metrics = dict[str, jax.Array]


def apply_updates(tx: optax.GradientTransformation, gradients: Any, state: TrainState) -> tuple[Any, Any]:
    """Parameters and optimiser state after one update. The one place where parameters change."""
    updates, opt_state = tx.update(gradients, state.opt_state, state.params)
    return optax.apply_updates(state.params, updates), opt_state


def keep_if(finite: jax.Array, after: TrainState, before: TrainState) -> TrainState:
    """`after` where the bool scalar `finite` holds, else `before`."""
    return jax.tree.map(lambda new, old: jnp.where(finite, new, old), after, before)


def make_train_step(
    model: SNP,
    task: Task,
    tx: optax.GradientTransformation,
    options: OptimOptions,
    changes: AugmentOptions,
    mesh: Mesh,
    state_shardings: Any,
    seed: int,
    *,
    reduce: str = "once",
    accumulate: int = 1,
    kernels: bool = True,
) -> Callable[[TrainState, dict], tuple[TrainState, Metrics]]:
    """Builds `step(state, batch) -> (state, metrics)`.

    The state is donated. Every random draw comes from the seed, the state's step and the row's number in the batch, so a
    resumed run draws the same, and so do one device and many. Metrics are scalars, averaged over the global batch: each loss
    term and metric of the task, `loss`, `learning_rate`, `gradient_norm`, and `skipped`: 1 where loss or
    gradient are not finite and nothing but the step changes.

    Args:
        mesh: may be one of devices that are not present, for ahead-of-time compilation.
        reduce: how gradients are added up, see `gradients.py`.
        accumulate: microbatches a step. Masking losses are those of the whole batch exactly; contrastive terms compare inside
            each microbatch (rows r with the same r % accumulate) and are averaged.
        kernels: use kernels of our own where there is one for the platform (`models/backend.py`).
    """
    compute = make_compute(
        model,
        task,
        changes,
        mesh,
        state_shardings.params,
        state_shardings.memory,
        reduce=reduce,
        accumulate=accumulate,
        kernels=kernels,
        freeze=options.freeze,
    )

    def step(state: TrainState, batch: dict[str, jax.Array]) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        found = compute(state.params, state.memory, batch, key)
        params, opt_state = apply_updates(tx, found.gradients, state)
        metrics = {name: mean(term) for name, term in (found.terms | found.metrics).items()}
        total, norm = total_loss(found.terms, task.weights), optax.tree.norm(found.gradients)
        finite = jnp.isfinite(total) & jnp.isfinite(norm)
        metrics |= {
            "loss": total,
            "learning_rate": learning_rate(state.step, options).astype(jnp.float32),
            "gradient_norm": norm,
            "skipped": 1.0 - finite.astype(jnp.float32),
        }
        after = TrainState(state.step, params, opt_state, found.memory)
        return keep_if(finite, after, state).replace(step=state.step + 1), metrics

    return jax.jit(
        step,
        in_shardings=(state_shardings, batch_sharding(mesh)),
        out_shardings=(state_shardings, replicated(mesh)),
        donate_argnums=0,
    )
