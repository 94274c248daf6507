"""Loss terms and gradients of one step.

With `reduce="once"` every device runs its own program on its rows (`jax.shard_map` over `data` and `fsdp`): it gathers the
parameters once, runs forward and backward of all losses, in which contrastive terms gather the features of the whole batch, and
then the gradients are added up over the devices, once. With `reduce="compiler"` it is one program for the whole batch, and XLA
places the collectives: it adds up the gradients of the shared BERT once for each of its passes. Both compute the same.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from snp_jax.data.augment import AugmentOptions, training_batch
from snp_jax.models import backend
from snp_jax.models.network import Network
from snp_jax.models.shard import Shard, row_keys
from snp_jax.models.snp import SNP
from snp_jax.objectives.total import SumCount, total_loss
from snp_jax.train.choices import each_row
from snp_jax.train.sharding import BATCH_AXES, batch_shards, spreader
from snp_jax.train.tasks import TEXT_PLACES, Batch, Outcome, Task

REDUCE = ("once", "compiler")
"""Values of `config.mesh.reduce`."""


class Computed(NamedTuple):
    """What a step computed from the whole batch.

    Attributes:
        gradients: of the weighted total, a tree like the parameters, float32.
        terms, metrics: (sum, count) by name.
        memory: what the next step starts from.
    """

    gradients: Any
    terms: dict[str, SumCount]
    metrics: dict[str, SumCount]
    memory: Any


Compute = Callable[[Any, Any, Batch, jax.Array], Computed]
"""(parameters, memory, batch, key of the step) -> what the step computed."""


@dataclasses.dataclass(frozen=True)
class Program:
    """One program's part of a step: forward and backward on the rows that it holds.

    Attributes:
        shard: which rows those are.
        accumulate: k microbatches, one after the other; row r of the batch is in microbatch r % k.
        freeze: parts of the model without gradients.
    """

    model: SNP
    task: Task
    changes: AugmentOptions
    shard: Shard
    spread: Callable[[jax.Array], jax.Array]
    accumulate: int
    freeze: tuple[str, ...]

    def outcome(self, params: Any, memory: Any, batch: Batch, key: jax.Array, part: jax.Array | int) -> Outcome:
        """Loss terms of a microbatch, augmented."""
        shard = dataclasses.replace(self.shard, parts=self.accumulate, part=part)
        not_rows = {name: x for name, x in batch.items() if name == TEXT_PLACES}
        rows = {name: self._take(x, part) for name, x in batch.items() if name not in not_rows}
        keys = row_keys(jax.random.fold_in(key, 1), shard.rows(rows["video"].shape[0]))
        rows = each_row(functools.partial(training_batch, options=self.changes), keys, rows) | not_rows
        held = {name: jax.lax.stop_gradient(tree) if name in self.freeze else tree for name, tree in params.items()}
        net = Network(self.model, held, self.spread, shard)
        return self.task.compute(net, rows, key, train=True, memory=memory)

    def _take(self, x: jax.Array, part: jax.Array | int) -> jax.Array:
        """Every k-th row: the same rows of the batch whatever part of it is here."""
        if self.accumulate == 1:
            return x
        split = x.reshape(-1, self.accumulate, *x.shape[1:])
        return jax.lax.dynamic_index_in_dim(split, part, axis=1, keepdims=False)

    def compute(self, params: Any, memory: Any, batch: Batch, key: jax.Array) -> Computed:
        """This program's share of the gradients and of the sums and counts."""

        def loss(params: Any, memory: Any, part: jax.Array | int, counts: dict[str, jax.Array] | None):
            found = self.outcome(params, memory, batch, key, part)
            counts = self.shard.total(counts_of(found)) if counts is None else counts
            return total_loss(found.terms, self.task.weights, counts), found

        differentiate = jax.value_and_grad(loss, has_aux=True)
        if self.accumulate == 1:
            (_, found), gradients = differentiate(params, memory, 0, None)
            return Computed(gradients, *found)

        # What the sums are divided by is that of all microbatches, so it comes first. Little is computed for it: counts depend
        # on the drawn masks, at most on the attention that masking goes by.
        parts = jnp.arange(self.accumulate, dtype=jnp.int32)
        counts = jax.lax.map(lambda part: counts_of(self.outcome(params, memory, batch, key, part)), parts)
        counts = self.shard.total(_added(counts))

        def step(carry: tuple[Any, Any], part: jax.Array) -> tuple[tuple[Any, Any], Any]:
            gradients, memory = carry
            (_, found), more = differentiate(params, memory, part, counts)
            return (jax.tree.map(jnp.add, gradients, more), found.memory), (found.terms, found.metrics)

        start = (jax.tree.map(jnp.zeros_like, params), memory)
        (gradients, memory), found = jax.lax.scan(step, start, parts)
        return Computed(gradients, *_added(found), memory)


def counts_of(found: Outcome) -> dict[str, jax.Array]:
    """What each loss term counted."""
    return {name: count for name, (_, count) in found.terms.items()}


def _added(tree: Any) -> Any:
    return jax.tree.map(lambda x: x.sum(axis=0), tree)


def make_compute(
    model: SNP,
    task: Task,
    changes: AugmentOptions,
    mesh: Mesh,
    param_shardings: Any,
    memory_shardings: Any,
    *,
    reduce: str,
    accumulate: int,
    kernels: bool = True,
    freeze: tuple[str, ...] = (),
) -> Compute:
    """The computation of a step, to be jitted.

    Args:
        param_shardings, memory_shardings: trees of `NamedSharding`, where parameters and memory live.
        reduce: one of `REDUCE`; on one device both are the same program.
        accumulate: microbatches a step.
        kernels: use kernels of our own, where a program's arrays are those of one device.
        freeze: parts of the model without gradients.
    """
    make = functools.partial(Program, model, task, changes)
    if reduce == "compiler" or batch_shards(mesh) == 1:
        whole = make(Shard(), spreader(mesh), accumulate, freeze)
        return _on_one_device(whole.compute) if kernels and mesh.size == 1 else whole.compute
    program = make(Shard(BATCH_AXES), lambda x: x, accumulate, freeze)
    compute = _on_one_device(program.compute) if kernels and mesh.shape["model"] == 1 else program.compute
    params_at, memory_at = (jax.tree.map(split_by_fsdp, tree) for tree in (param_shardings, memory_shardings))

    def one_device(params: Any, memory: Any, batch: Batch, key: jax.Array) -> Computed:
        params, memory = jax.tree.map(_gather, params, params_at), jax.tree.map(_gather, memory, memory_at)
        found = compute(params, memory, batch, key)
        return Computed(
            jax.tree.map(_reduce, found.gradients, params_at),
            *program.shard.total((found.terms, found.metrics)),
            jax.tree.map(_cut, found.memory, memory_at),
        )

    return jax.shard_map(
        one_device,
        mesh=mesh,
        in_specs=(params_at, memory_at, P(BATCH_AXES), P()),
        out_specs=Computed(params_at, P(), P(), memory_at),
        axis_names=set(mesh.axis_names if mesh.shape["model"] == 1 else BATCH_AXES),  # `model` stays with the compiler
        check_vma=False,
    )


def _on_one_device(compute: Compute) -> Compute:
    """`compute`, whose arrays are those of one device: kernels may be used."""

    def run(*args: Any) -> Computed:
        with backend.one_device():
            return compute(*args)

    return run


def split_by_fsdp(sharding: NamedSharding) -> P:
    """How the programs of `one_device` hold an array: split over `fsdp`, as it lives, or whole.

    An array that is split over `model` too comes whole: XLA can gather over one axis and leave the other split outside of
    `shard_map`, but not inside.
    """
    axes = [axis if axis is not None and sharding.mesh.shape[axis] > 1 else None for axis in sharding.spec]
    return P() if "model" in axes or "fsdp" not in axes else P(*axes)


def _gather(x: jax.Array, spec: P) -> jax.Array:
    return jax.lax.all_gather(x, "fsdp", axis=spec.index("fsdp"), tiled=True) if "fsdp" in spec else x


def _cut(x: jax.Array, spec: P) -> jax.Array:
    """The opposite of `_gather`, of an array that all devices hold alike."""
    if "fsdp" not in spec:
        return x
    axis = spec.index("fsdp")
    size = x.shape[axis] // jax.lax.axis_size("fsdp")
    return jax.lax.dynamic_slice_in_dim(x, jax.lax.axis_index("fsdp") * size, size, axis)


def _reduce(x: jax.Array, spec: P) -> jax.Array:
    """The sum over all devices, split as the parameter is."""
    if "fsdp" not in spec:
        return jax.lax.psum(x, BATCH_AXES)
    return jax.lax.psum(jax.lax.psum_scatter(x, "fsdp", scatter_dimension=spec.index("fsdp"), tiled=True), "data")
