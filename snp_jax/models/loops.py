"""Equal layers as one loop.

A program of unrolled layers is compiled layer by layer; of a loop the compiler sees the layer once, so that compilation takes a
fraction of the time. Parameters stay one subtree a layer, as checkpoints have them: they are stacked where the loop starts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

Step = Callable[[dict[str, Any], dict[str, jax.Array], Any, Any], Any]
"""(variables of a layer, its `rngs`, what the one before returned, its stochastic depth rate) -> what the next one gets."""


def loop_length(parent: nn.Module, scan: bool, layers: int, period: int = 1) -> int:
    """How many of `layers` layers run in a loop, the first ones; `period` of them are a round.

    None where there would be a single round, and none while parameters are made.
    """
    rounds = layers // period
    return rounds * period if scan and rounds > 1 and not parent.is_initializing() else 0


def run_loop(
    parent: nn.Module, names: Sequence[str], steps: Sequence[Step], carry: Any, *, rates: Sequence[float] = (), remat: bool
) -> Any:
    """Runs layers one after the other, as a loop.

    Args:
        parent: the module that they are children of.
        names: of the children. Each is like the one `len(steps)` before it, in its parameters' shapes and in what it does.
        steps: calls of the layers of one round.
        carry: what the first layer gets; what a layer returns has the same shapes and dtypes.
        rates: stochastic depth of each layer, for the steps; where all are 0 that is what steps get, and no draws are made.
        remat: recompute every round in the backward pass instead of keeping its activations.

    Returns:
        What the last layer returned.
    """
    period, params = len(steps), parent.variables["params"]
    rounds = len(names) // period
    layers = [[params[name] for name in names[place::period]] for place in range(period)]
    stacked = [jax.tree.map(lambda *leaves: jnp.stack(leaves), *alike) for alike in layers]
    keys = jax.random.split(parent.make_rng("dropout"), (rounds, period)) if parent.has_rng("dropout") else None
    rates = jnp.asarray(rates, jnp.float32).reshape(rounds, period) if any(rates) else None

    def one_round(carry: Any, each: tuple[Any, Any, Any]) -> tuple[Any, None]:
        params, keys, rates = each
        for place, step in enumerate(steps):
            rngs = {} if keys is None else {"dropout": keys[place]}
            carry = step({"params": params[place]}, rngs, carry, 0.0 if rates is None else rates[place])
        return carry, None

    one_round = jax.checkpoint(one_round, prevent_cse=False) if remat else one_round
    return jax.lax.scan(one_round, carry, (stacked, keys, rates))[0]
