"""Kernels in a compiled program, and the length of their schedules."""

import dataclasses
import importlib.util
import os

import pytest

from snp_jax.aot import hlo
from snp_jax.aot.chips import CHIPS
from snp_jax.aot.costs import operations
from snp_jax.aot.kernels import LayerNorm, SequenceAttention, WindowAttention, count_cycles, cycles_of, kernels_in

PROGRAM = """\
HloModule jit_step, entry_computation_layout={()->bf16[64,196,512]{2,1,0}}

ENTRY %main (q: bf16[64,196,512], bias: f32[16,196,196], rows: s32[4,196,1], columns: s32[4,1,196]) -> bf16[64,196,512] {
  %q = bf16[64,196,512]{2,1,0} parameter(0)
  %bias = f32[16,196,196]{2,1,0} parameter(1)
  %rows = s32[4,196,1]{2,1,0} parameter(2)
  %columns = s32[4,1,196]{2,1,0} parameter(3)
  %a.1 = bf16[64,196,512]{2,1,0} custom-call(%q, %q, %q, %bias), custom_call_target="tpu_custom_call", \
metadata={op_name="jit(step)/block0/attn/window_attention/pallas_call" stack_frame_id=1}
  ROOT %a.2 = bf16[64,196,512]{2,1,0} custom-call(%q, %q, %a.1, %bias, %rows, %columns), custom_call_target="tpu_custom_call", \
metadata={op_name="jit(step)/block1/attn/window_attention/pallas_call" stack_frame_id=1}
}
"""
PLAIN = WindowAttention(False, 64, 196, 512, 16, None, "bfloat16")
LABELLED = WindowAttention(False, 64, 196, 512, 16, 4, "bfloat16")
SEQUENCES = """\
HloModule jit_step, entry_computation_layout={()->bf16[8400,768]{1,0}}

ENTRY %main (q: bf16[8400,768], bias: f32[5,16,1,128], seed: u32[5,1,48]) -> bf16[8400,768] {
  %q = bf16[8400,768]{1,0} parameter(0)
  %bias = f32[5,16,1,128]{3,2,1,0} parameter(1)
  %seed = u32[5,1,48]{2,1,0} parameter(2)
  %a.1 = bf16[8400,768]{1,0} custom-call(%q, %q, %q, %bias), custom_call_target="tpu_custom_call", \
metadata={op_name="jit(step)/layer0/attention/sequence_attention_of_35_in_12/pallas_call" stack_frame_id=1}
  ROOT %a.2 = bf16[8400,768]{1,0} custom-call(%q, %q, %a.1, %bias, %seed, %seed, %q), custom_call_target="tpu_custom_call", \
metadata={op_name="jit(step)/layer0/attention/sequence_attention_backward_of_35_in_12/pallas_call" stack_frame_id=1}
}
"""
PAIRS = SequenceAttention(False, 240, 35, 768, 12, False, "bfloat16")
NORMS = """\
HloModule jit_step, entry_computation_layout={()->bf16[25088,512]{1,0}}

ENTRY %main (x: bf16[25088,512], scale: f32[1,512]) -> bf16[25088,512] {
  %x = bf16[25088,512]{1,0} parameter(0)
  %scale = f32[1,512]{1,0} parameter(1)
  %a.1 = bf16[25088,512]{1,0} custom-call(%x, %scale, %scale), custom_call_target="tpu_custom_call", \
metadata={op_name="jit(step)/block0/norm1/layer_norm/pallas_call" stack_frame_id=1}
  ROOT %a.2 = bf16[25088,512]{1,0} custom-call(%x, %a.1, %scale), custom_call_target="tpu_custom_call", \
metadata={op_name="jit(step)/transpose(block0)/norm1/layer_norm_backward/pallas_call" stack_frame_id=1}
}
"""
BRANCH = NORMS.replace("(%x, %a.1, %scale)", "(%x, %a.1, %x, %scale)")
ROWS = LayerNorm(False, False, 25_088, 512, "bfloat16")
BUNDLES = """\
= control target key start
     0   :  { %s1 = smov 0  ;;  %s2 = inlined_call_operand.vmem [shape: f32[8,128], index: 0] }
   0x1   :  { %s3 = smov 0 }
   0x2 LB: > { %s4 = sadd.s32 1, %s1 }
   0x3   : > { %s5 = smov 0 }
   0x4 LB: >> { %v1 = vld [vmem:[%s2]] }
   0x5   : >> { %v2 = vadd.f32 %v1, %v1 }
   0x6   : >> { %6 = sbr.rel (!%p1) target = $region2 }
   0x7   : > { %7 = sbr.rel (!%p2) target = $region1 }
   0x8   :  { %8 = vsyncpa [#allocation1], 1 }
"""


def test_kernels_are_found_with_their_sizes():
    assert kernels_in(hlo.parse(PROGRAM)) == {PLAIN, LABELLED}
    assert kernels_in(hlo.parse(SEQUENCES)) == {PAIRS, dataclasses.replace(PAIRS, backward=True, dropped=True)}
    assert kernels_in(hlo.parse(NORMS)) == {ROWS, dataclasses.replace(ROWS, backward=True)}
    assert kernels_in(hlo.parse(BRANCH)) == {ROWS, dataclasses.replace(ROWS, backward=True, branch=True)}


def test_grids_of_kernels():
    assert PLAIN.loops == (4 * 8, 8)
    assert PAIRS.loops == (6 * 3, 27)
    assert ROWS.loops == (49, 0)


def test_another_kernel_is_an_error():
    with pytest.raises(ValueError, match=r"does not know: jit\(step\)/block0/attn/flash/pallas_call"):
        kernels_in(hlo.parse(PROGRAM.replace("block0/attn/window_attention", "block0/attn/flash")))


def test_a_kernel_takes_its_schedule_or_its_traffic():
    chip = CHIPS["v5e"]
    first, second = operations(hlo.parse(PROGRAM), chip, {PLAIN: 300_000, LABELLED: 3})
    assert first.cycles == 300_000 and first.compute_bound and first.seconds == pytest.approx(300_000 / chip.clock)
    window, bias = 2 * 64 * 196 * 512, 4 * 16 * 196 * 196
    assert second.bytes == 4 * window + bias + 2 * 4 * 4 * 196
    assert not second.compute_bound and second.seconds == pytest.approx(second.bytes / chip.hbm_bandwidth)


def test_bundles_count_as_often_as_their_loops_run():
    assert cycles_of(BUNDLES, steps=10, rounds=4) == 3 + 10 * (3 + 4 * 3)
    with pytest.raises(ValueError, match=r"depths \[0, 1, 2, 3\]"):
        cycles_of(BUNDLES.replace("0x5   : >>", "0x5   : >>>"), steps=1, rounds=1)
    with pytest.raises(ValueError, match=r"depths \[\]"):
        cycles_of("", steps=1, rounds=1)


needs_libtpu = pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed (extra tpu-aot)")


@pytest.fixture
def as_in_a_run(monkeypatch):
    """The processes that compile kernels get none of the tests' settings."""
    monkeypatch.setenv("XLA_FLAGS", "")
    monkeypatch.delenv("JAX_DISABLE_MOST_OPTIMIZATIONS", raising=False)
    monkeypatch.setenv("PYTHONPATH", os.getcwd())


@pytest.mark.slow
@needs_libtpu
def test_schedules_of_the_compiler(as_in_a_run):
    """Twice the windows take twice as long, the backward pass, with five products instead of two, about twice as long."""
    double = dataclasses.replace(PLAIN, count=128)
    backward = dataclasses.replace(PLAIN, backward=True)
    dropping = dataclasses.replace(PAIRS, dropped=True)
    asking = [dropping, dataclasses.replace(dropping, backward=True), PAIRS]
    norms = [ROWS, dataclasses.replace(ROWS, rows=2 * ROWS.rows), dataclasses.replace(ROWS, backward=True)]
    norms.append(dataclasses.replace(norms[2], branch=True))
    found = count_cycles([PLAIN, double, backward, LABELLED, *asking, *norms], "v5e:2x2")
    assert found[double] / found[PLAIN] == pytest.approx(2, rel=0.05)
    assert 1.5 < found[backward] / found[PLAIN] < 3
    assert 1 < found[LABELLED] / found[PLAIN] < 1.5
    assert 1.5 < found[asking[1]] / found[dropping] < 3
    assert 1 < found[dropping] / found[PAIRS] < 1.5
    assert found[norms[1]] / found[ROWS] == pytest.approx(2, rel=0.05)
    assert 1 < found[norms[2]] / found[ROWS] < 4
    assert 1 < found[norms[3]] / found[norms[2]] < 1.5


@pytest.mark.slow
@needs_libtpu
@pytest.mark.parametrize("topology", ["v4:2x2x1", "v5e:2x2", "v5p:2x2x1"])
def test_the_largest_steps_compile(topology, as_in_a_run):
    """The kernel's blocks and logits fit into the memory of every chip."""
    longest = [
        dataclasses.replace(PAIRS, count=count, length=length, dtype=dtype, backward=True, dropped=True)
        for count, length, dtype in [(16, 182, "bfloat16"), (16, 91, "float32"), (256, 35, "float32"), (480, 35, "bfloat16")]
    ]
    widest = [dataclasses.replace(ROWS, rows=rows, channels=channels, dtype="float32", backward=True, branch=True)
              for rows, channels in [(4096, 128), (512, 512), (128, 2048)]]  # fmt: skip
    assert min(count_cycles([*longest, *widest], topology).values()) > 0
