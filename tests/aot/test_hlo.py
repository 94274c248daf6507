"""Reading a compiled program's text: structure, and how often instructions run.

The programs beside this file are in the spelling of libtpu 0.0.42.1, cut down to what is read.
"""

from pathlib import Path

import pytest

from snp_jax.aot import hlo

HERE = Path(__file__).parent
LOOP = (HERE / "loop.hlo").read_text()


def test_shapes_with_layouts_tuples_and_memory_spaces():
    text = "(s32[]{:T(128)}, bf16[8,64]{1,0:T(8,128)(2,1)S(1)}, /*index=2*/f8e4m3fn[4]{0}, pred[3,0]{1,0})"
    shapes = hlo.shapes_of(text)
    assert [(shape.dtype, shape.dims, shape.space) for shape in shapes] == [
        ("s32", (), 0), ("bf16", (8, 64), 1), ("f8e4m3fn", (4,), 0), ("pred", (3, 0), 0),
    ]  # fmt: skip
    assert [shape.bytes for shape in shapes] == [4, 1024, 4, 0]


def test_a_loops_body_runs_as_often_as_its_condition_says():
    module = hlo.parse(LOOP)
    counts = {instruction.name: count for _, instruction, count in module.executed()}
    assert counts["while.1"] == 1 and counts["copy.1"] == 1
    assert counts["fusion.1"] == 6 and counts["all-reduce.1"] == 6
    assert "convolution-base-dilated.6" not in counts  # part of a fusion
    assert module.unknown_loops() == []


def test_a_loop_without_a_readable_bound_is_named():
    module = hlo.parse(LOOP.replace("constant(6)", "parameter(1)"))
    assert module.unknown_loops() == ["while.1"]
    written = 'while(%tuple.2), condition=%condition.1, body=%body.1, backend_config={"known_trip_count":{"n":"9"}}'
    module = hlo.parse(LOOP.replace("while(%tuple.2), condition=%condition.1, body=%body.1", written))
    assert {instruction.name: count for _, instruction, count in module.executed()}["fusion.1"] == 9


def test_of_a_condition_the_larger_branch_runs():
    module = hlo.parse("""\
%few (a: f32[4]) -> f32[4] {
  %a = f32[4]{0} parameter(0)
  ROOT %small = f32[4]{0} add(%a, %a)
}

%all (b: f32[4]) -> f32[4] {
  %b = f32[4]{0} parameter(0)
  %large = f32[4,64]{1,0} broadcast(%b), dimensions={0}
  ROOT %b.2 = f32[4]{0} slice(%large), slice={[0:4], [0:1]}
}

ENTRY %main (p: pred[], x: f32[4]) -> f32[4] {
  %p = pred[] parameter(0)
  %x = f32[4]{0} parameter(1)
  ROOT %c = f32[4]{0} conditional(%p, %x, %x), branch_computations={%few, %all}
}
""")
    names = {instruction.name for _, instruction, _ in module.executed()}
    assert "large" in names and "small" not in names


def test_instructions_keep_what_is_asked_of_them():
    body = hlo.parse(LOOP).computations["body.1"]
    reduction = body.instructions["all-reduce.1"]
    assert reduction.operands == ("get-tuple-element.4",) and reduction.bytes == 64 * 64 * 4
    assert reduction.attribute("channel_id") == "1" and reduction.source == "jit(step)/while/body/psum"
    assert body.root.name == "tuple.1" and len(body.root.operands) == 4


def test_text_without_an_entry_is_refused():
    with pytest.raises(ValueError, match="ENTRY"):
        hlo.parse("HloModule nothing\n")
