"""Costs of compiled instructions and collectives, against sums worked out by hand."""

import dataclasses
from pathlib import Path

import pytest

from snp_jax.aot import hlo
from snp_jax.aot.chips import CHIPS
from snp_jax.aot.collectives import find_collectives, group_size
from snp_jax.aot.costs import operations

HERE = Path(__file__).parent
COLLECTIVES = (HERE / "collectives.hlo").read_text()
LOOP = (HERE / "loop.hlo").read_text()

CHIP = dataclasses.replace(CHIPS["v5e"], flops=1e12, hbm_bandwidth=1e9, ici_bandwidth=1e9)


def test_a_batched_product_written_as_a_convolution_with_holes():
    done = {each.name: each for each in operations(hlo.parse(LOOP), CHIP, {})}
    product = done["fusion.1"]
    assert product.flops == 2 * 8 * 12 * 64 * 64 * 32  # one tap of 8 x 12 is no hole
    operand, result = 2 * 8 * 64 * 12 * 32, 2 * 8 * 12 * 64 * 64
    assert product.bytes == 2 * operand + result
    assert (product.count, product.cycles) == (6, 3000)
    assert not product.compute_bound and product.seconds == pytest.approx(product.bytes / 1e9)


def test_what_is_stored_in_place_costs_the_slice():
    done = {each.name: each for each in operations(hlo.parse(LOOP), CHIP, {})}
    assert done["fusion.2"].bytes == 2 * (2 * 8 * 12 * 64 * 64) + 4  # reads the slice and the counter, writes the slice
    assert done["copy.1"].bytes == 64 * 64 * 4  # its result stays on the chip
    assert done["copy.2"].bytes == 64 * 64 * 4
    assert not {"custom-call.7", "while.1", "all-reduce.1", "tuple.2"} & done.keys()


def test_collectives_count_as_often_as_they_run():
    (reduction,) = find_collectives(hlo.parse(LOOP), CHIP, 8)
    assert (reduction.kind, reduction.dtype, reduction.group, reduction.count) == ("all-reduce", "f32", 4, 6)
    assert reduction.bytes == reduction.largest == 64 * 64 * 4
    assert reduction.seconds == pytest.approx(2 * 64 * 64 * 4 * 3 / 4 / 1e9)


def test_disguised_collectives():
    found = {each.kind: each for each in find_collectives(hlo.parse(COLLECTIVES), CHIP, 16)}
    mib = 2**20
    gather = found["all-gather"]  # start, step and done contain it; it runs once
    assert (gather.count, gather.bytes, gather.group) == (1, 4 * mib, 16)
    assert gather.seconds == pytest.approx(4 * mib * 15 / 16 / 1e9)
    scatter = found["reduce-scatter"]  # a fusion of an all-reduce and a slice
    assert (scatter.count, scatter.bytes, scatter.largest, scatter.group) == (1, mib // 4, 4 * mib, 16)
    several = found["all-reduce"]
    assert (several.count, several.bytes, several.largest, several.group) == (1, 192 * 1024, 128 * 1024, 2)
    assert found["collective-permute"].bytes == mib // 4
    assert len(found) == 4


def test_work_beside_a_collective_is_counted():
    done = {each.name: each for each in operations(hlo.parse(COLLECTIVES), CHIP, {})}
    assert done.keys() == {"fusion.96"}
    assert done["fusion.96"].flops == 2 * 1024 * 128 * 256
    assert done["fusion.96"].bytes == 2 * (1024 * 256 + 256 * 128 + 1024 * 128)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("replica_groups={{0,1,2,3},{4,5,6,7}}", 4),
        ("replica_groups=[4,2]<=[8]", 2),
        ("replica_groups=[2,4]<=[4,2]T(1,0)", 4),
        ("replica_groups={0,1,2}", 3),
        ("replica_groups={}", 8),
        ("source_target_pairs={{0,1},{1,0}}", 2),
    ],
)
def test_spellings_of_groups(text, size):
    assert group_size(f"channel_id=1, {text}, to_apply=%add", 8) == size
