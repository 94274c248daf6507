"""The jitted training step: augmentation, forward, backward, update. A pure function of (state, batch, seed)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from snp_jax.data.augment import AugmentOptions, training_batch
from snp_jax.models.network import Network
from snp_jax.models.snp import SNP
from snp_jax.objectives.total import mean
from snp_jax.train.optim import OptimOptions, learning_rate
from snp_jax.train.sharding import batch_sharding, replicated, spreader
from snp_jax.train.state import TrainState
from snp_jax.train.tasks import Task

Metrics = dict[str, jax.Array]


def make_train_step(
    model: SNP,
    task: Task,
    tx: optax.GradientTransformation,
    options: OptimOptions,
    changes: AugmentOptions,
    mesh: Mesh,
    state_shardings: Any,
    seed: int,
) -> Callable[[TrainState, dict], tuple[TrainState, Metrics]]:
    """Builds `step(state, batch) -> (state, metrics)`.

    The state is donated. Every random draw comes from the seed and the state's step, so a resumed run draws the same.
    Metrics are scalars, averaged over the global batch: each loss term and metric of the task, `loss`,
    `learning_rate`, `gradient_norm`.
    """
    spread = spreader(mesh)

    def step(state: TrainState, batch: dict[str, jax.Array]) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        batch = training_batch(jax.random.fold_in(key, 1), batch, changes)

        def loss(params):
            return task.loss(Network(model, params, spread), batch, key, train=True, memory=state.memory)

        (total, outcome), gradients = jax.value_and_grad(loss, has_aux=True)(state.params)
        updates, opt_state = tx.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = {name: mean(term) for name, term in outcome.terms.items()}
        metrics |= {
            "loss": total,
            "learning_rate": learning_rate(state.step, options).astype(jnp.float32),
            "gradient_norm": optax.tree.norm(gradients),
        }
        return TrainState(state.step + 1, params, opt_state, outcome.memory), metrics

    return jax.jit(
        step,
        in_shardings=(state_shardings, batch_sharding(mesh)),
        out_shardings=(state_shardings, replicated(mesh)),
        donate_argnums=0,
    )
