"""Result tables: the right number in the right place, aligned, with what is missing left out."""

from __future__ import annotations

from snp_jax.eval.tables import Bars, Table, format_results, format_table, result_tables


def recalls(first: float) -> dict[str, float]:
    return {"r1": first, "r5": first + 1, "r10": first + 2, "mdr": first + 3}


RESULTS = {
    "retrieval": {
        "gallery": 500,
        "t2v": recalls(10),
        "v2t": recalls(20),
        "stage1": {"t2v": recalls(30), "v2t": recalls(40)},
        "stage2_candidates": 50,
        "several_correct": 1234,
    },
    "qa": {"accuracy": 61.25, "majority_baseline": 15.0, "by_kind": {"colour": 90.0, "motion": 33.3}},
    "mc": {"accuracy": 85.0},
    "no_pretraining": {
        "retrieval": {"gallery": 500, "t2v": recalls(50), "v2t": recalls(60), "stage1": {"t2v": recalls(70)}},
        "qa": {"accuracy": 50.0},
        "mc": {"accuracy": 70.0},
    },
}
BARS = Bars(t2v_r1=25, t2v_r10=70, qa_gain=25, mc=80)


def test_columns_are_aligned():
    table = Table("Title", ("", "a", "long"), (("first", "1.0", "-"), ("x", "100.0", "2.0")), "Note.")
    assert format_table(table).splitlines() == [
        "Title",
        "           a  long",
        "------------------",
        "first    1.0     -",
        "x      100.0   2.0",
        "Note.",
    ]


def test_retrieval_rows():
    table = result_tables(RESULTS, BARS)[0]
    rows = {row[0]: row[1:] for row in table.rows}
    assert table.header[1] == "t2v R@1" and table.header[8] == "v2t MdR"
    assert rows["stage 2"] == ("10.0", "11.0", "12.0", "13.0", "20.0", "21.0", "22.0", "23.0")
    assert rows["stage 2, no pre-training"][0] == "50.0" and rows["stage 1"][4] == "40.0"
    assert rows["stage 1, no pre-training"] == ("70.0", "71.0", "72.0", "73.0", "-", "-", "-", "-")
    assert rows["chance"][:4] == ("0.2", "1.0", "2.0", "250.5")
    assert rows["bar"] == ("25.0", "-", "70.0", "-", "-", "-", "-", "-")
    assert "best 50 of stage 1" in table.note and "1,234 captions fit several videos" in table.note


def test_all_pairs_are_called_so():
    retrieval = {**RESULTS["retrieval"], "stage2_candidates": 500}
    assert "scores all pairs" in result_tables({"retrieval": retrieval})[0].note


def test_accuracy_rows():
    _, accuracy, kinds = result_tables(RESULTS, BARS)
    assert accuracy.rows == (
        ("question answering", "61.2", "50.0", "15.0", "40.0"),
        ("multiple choice", "85.0", "70.0", "20.0", "80.0"),
    )
    assert kinds.rows == (("colour", "90.0"), ("motion", "33.3"))


def test_a_single_task_prints_alone():
    text = format_results({"mc": {"accuracy": 85.0}})
    assert "multiple choice" in text and "85.0" in text
    assert "question answering  " not in text and "Retrieval" not in text
    assert format_results({}) == ""
