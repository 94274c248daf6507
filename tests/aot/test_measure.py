"""Which batch and mesh a program is compiled for, and what the report says of them, without a TPU compiler."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from configs.toy import common as toy
from snp_jax.aot import chips
from snp_jax.aot.budgets import check_budgets
from snp_jax.aot.collectives import Collective
from snp_jax.aot.measure import Attempt, _smaller, search, topology_mesh, with_batch
from snp_jax.aot.program import Program
from snp_jax.errors import UserError
from snp_jax.train.state import TrainState

MIB = 2**20


def test_another_batch_keeps_the_pairs_that_are_compared():
    config = toy.tiny("pretrain")
    config.objective.matching.negatives, config.objective.matching.local_groups = 0, 4
    larger = with_batch(config, 4 * config.batch_size, "train")
    assert larger.batch_size == 128 and larger.objective.matching.local_groups == 16
    assert config.batch_size == 32 and config.objective.matching.local_groups == 4
    assert with_batch(config, 7, "videos").evaluation.batch_size == 7
    assert with_batch(config, 9, "pairs").evaluation.chunk == 9


def test_chips_that_a_small_batch_leaves_go_to_the_model_axis():
    def sizes(batch, **mesh):
        config = with_batch(toy.tiny("pretrain"), batch, "train")
        config.objective.matching.negatives = 0
        config.mesh.update(mesh)
        return tuple(topology_mesh(config, jax.devices(), batch, "train").shape.values())  # data, fsdp, model

    assert sizes(32) == (8, 1, 1)
    assert sizes(4) == (4, 1, 2)
    assert sizes(32, fsdp=2) == (4, 2, 1)
    assert sizes(2, fsdp=2) == (1, 2, 4)
    assert sizes(1) == (1, 1, 8)
    with pytest.raises(UserError, match="does not give the 8 devices"):
        sizes(3, data=3)


def test_the_search_goes_down_as_far_as_memory_says():
    def report(total):
        return {"hbm_gib": {"total": total, "limit": 16.0}}

    assert _smaller(128, report(20.0)) == 64
    assert _smaller(128, report(100.0)) == 16
    assert _smaller(128, report(None)) == 64
    assert _smaller(2, report(200.0)) == 1
    assert _smaller(1, report(20.0)) == 0


@pytest.mark.parametrize(
    ("by_time", "largest", "chosen", "tried"),
    [(False, 64, 64, [128, 64]), (True, 64, 32, [128, 64, 32, 16]), (True, 16, 16, [128, 64, 32, 16, 8]), (True, 0, 1, None)],
)
def test_the_search_ends_at_what_fits_or_at_what_is_fastest(by_time, largest, chosen, tried):
    """32 a chip give most examples a second."""

    def attempt(a_chip):
        memory = {"total": None, "limit": 16.0}
        report = {"global_batch": a_chip, "fits": a_chip <= largest, "hbm_gib": memory, "examples_per_s": -abs(a_chip - 32)}
        return Attempt(report, f"program of {a_chip}")

    report, outcome = search(attempt, by_time=by_time)
    assert report["global_batch"] == chosen and outcome == f"program of {chosen}"
    assert tried is None or [each["global_batch"] for each in report["tried"]] == tried
    assert report["fits"] == (largest > 0)


def test_only_slices_that_exist():
    assert chips.find_topology("v5e-256") == chips.find_topology("v5e:16x16")
    assert chips.find_topology("v5p-64").size == 32 and chips.find_topology("v4-32").size == 16
    for name in ("v5e:3x5", "v5e:16x32", "v7x:2x2", "v5p-63"):
        with pytest.raises(UserError, match=name):
            chips.find_topology(name)


def program():
    """A step on 8 devices: 4 MiB of parameters, a batch of 8 MiB."""
    mesh = jax.make_mesh((8, 1, 1), ("data", "fsdp", "model"), axis_types=(jax.sharding.AxisType.Auto,) * 3)
    whole, split = NamedSharding(mesh, P()), NamedSharding(mesh, P(("data", "fsdp")))
    params = {"kernel": jax.ShapeDtypeStruct((1024, 1024), jnp.float32, sharding=whole)}
    state = TrainState(jax.ShapeDtypeStruct((), jnp.int32, sharding=whole), params, (params, params))
    batch = {"video": jax.ShapeDtypeStruct((8, 2**20), jnp.uint8, sharding=split)}
    return Program("train", None, None, state, batch, 8, mesh)


def collective(kind, size, count=1, group=8):
    return Collective(kind, "f32", size, size * (group if kind == "reduce-scatter" else 1), group, count, 0.0, "here")


@pytest.mark.parametrize(
    ("found", "broken"),
    [
        ([collective("all-reduce", 4 * MIB)], []),
        ([collective("all-reduce", 4 * MIB, count=3)], ["reductions of a step"]),
        ([collective("reduce-scatter", MIB // 2), collective("all-gather", 4 * MIB)], []),
        (
            [collective("all-reduce", 4 * MIB, count=2), collective("all-gather", 3 * MIB)],
            [],
        ),  # 3 MiB of gathered rows' gradients
        ([collective("all-reduce", 4 * MIB, count=2), collective("all-gather", 2 * MIB)], ["reductions of a step"]),
        ([collective("all-gather", 8 * MIB)], ["largest array in a collective"]),
        ([], []),
    ],
)
def test_budgets(found, broken):
    budgets = check_budgets(program(), found)
    assert [budget["name"] for budget in budgets if not budget["ok"]] == broken
    assert all((budget["sentence"] is None) == budget["ok"] for budget in budgets)
