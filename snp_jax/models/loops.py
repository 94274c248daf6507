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

from snp_jax.models.remat import recompute_layer, recompute_round

Step = Callable[[dict[str, Any], dict[str, jax.Array], Any, Any], Any]
"""(variables of a layer, its `rngs`, what the one before returned, its stochastic depth rate) -> what the next one gets."""


def loop_length(parent: nn.Module, scan: bool, layers: int, period: int = 1) -> int:
    """How many of `layers` layers run in a loop, the first ones; `period` of them are a round.

    None where there would be a single round, and none while parameters are made.
    """
    rounds = layers // period
    return rounds * period if scan and rounds > 1 and not parent.is_initializing() else 0


def run_loop(
    parent: nn.Module, names: Sequence[str], steps: Sequence[Step], carry: Any, *, rates: Sequence[float] = (), remat: str
) -> Any:
    """Runs layers one after the other, as a loop.

    Args:
        parent: the module that they are children of.
        names: of the children. Each is like the one `len(steps)` before it, in its parameters' shapes and in what it does.
        steps: calls of the layers of one round.
        carry: what the first layer gets; what a layer returns has the same shapes and dtypes.
        rates: stochastic depth of each layer, for the steps; where all are 0 that is what steps get, and no draws are made.
        remat: policy for every round (`remat.py`).

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

    return jax.lax.scan(recompute_round(one_round, remat), carry, (stacked, keys, rates))[0]


def run_blocks(
    parent: nn.Module,
    block: type[nn.Module],
    make: Callable[..., nn.Module],
    rates: Sequence[float],
    x: jax.Array,
    deterministic: bool,
    *,
    scan: bool,
    remat: str,
    unlike: int = 0,
    period: int = 1,
) -> jax.Array:
    """Runs the blocks of a visual encoder's stage, its children `block0`, `block1`, ..., as a loop as far as `scan` allows.

    Args:
        block: their class; called as `(x, deterministic)`.
        make: (class, number, stochastic depth rate, `name` or `parent` by keyword) -> the block.
        rates: stochastic depth of each block.
        remat: policy for every block (`remat.py`).
        unlike: how many blocks at the start are unlike those after them, so that no loop has them.
        period: after how many blocks one is like the first again.
    """
    kind = recompute_layer(block, remat, static_argnums=(2,))

    def run(start: int, stop: int, x: jax.Array) -> jax.Array:
        for i in range(start, stop):
            x = make(kind, i, rates[i], name=f"block{i}")(x, deterministic)
        return x

    def step(number: int) -> Step:
        return lambda variables, rngs, x, rate: make(block, number, rate, parent=None).apply(
            variables, x, deterministic, rngs=rngs
        )

    x = run(0, unlike, x)
    stop = unlike + loop_length(parent, scan, len(rates) - unlike, period)
    if stop > unlike:
        names, steps = [f"block{i}" for i in range(unlike, stop)], [step(unlike + place) for place in range(period)]
        x = run_loop(parent, names, steps, x, rates=rates[unlike:stop], remat=remat)
    return run(stop, len(rates), x)
