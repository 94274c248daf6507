"""tools/quickstart.py: which stage runs when, what is not done again, failures and signals."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from snp_jax.errors import UserError
from tools import quickstart
from tools.quickstart import Clock, Stage, run_stages

ROOT = Path(__file__).parent.parent.parent
WAIT = "import time; time.sleep({})"


@pytest.fixture
def stage(tmp_path):
    """A stage that writes when it began and ended, then makes its product."""

    def make(name, *needs, seconds=0.0, then=""):
        product = tmp_path / name
        code = f"import pathlib, time; begin = time.time(); time.sleep({seconds}); {then or 'pass'}; "
        code += f"pathlib.Path({str(product)!r}).write_text(str(begin) + chr(32) + str(time.time()))"
        return Stage(name, needs, product, f'-c "{code}"')

    return make


def times(stage):
    return [float(word) for word in stage.product.read_text().split()]


def run(listed, tmp_path):
    run_stages(listed, tmp_path, os.environ, Clock(tmp_path / "clock.json"))


def test_a_stage_waits_for_those_it_needs_and_two_run_side_by_side(stage, tmp_path):
    listed = [
        stage("first", seconds=0.5),
        stage("urgent", "first"),
        stage("behind", seconds=1.5),
        stage("late"),
        stage("last", "urgent", "behind"),
    ]
    run(listed, tmp_path)
    first, urgent, behind, late, last = (times(each) for each in listed)
    assert behind[0] < first[1] <= urgent[0] < late[0] < last[0]
    assert urgent[0] < behind[1] <= last[0]
    kept = json.loads((tmp_path / "clock.json").read_text())
    assert list(kept["stages"]) == ["first", "urgent", "late", "behind", "last"]  # as they ended
    assert kept["in_all"] < sum(kept["stages"].values())
    assert (tmp_path / "logs/behind.txt").exists() and not (tmp_path / "logs/urgent.txt").exists()


def test_what_is_done_is_not_done_again_but_for_the_report(stage, tmp_path):
    listed = [stage("one"), stage("report", "one")]
    run(listed, tmp_path)
    before = [times(each) for each in listed]
    run(listed, tmp_path)
    assert times(listed[0]) == before[0] and times(listed[1]) != before[1]
    assert json.loads((tmp_path / "clock.json").read_text())["stages"].keys() == {"one", "report"}


def test_a_stage_that_fails_is_named_the_others_are_stopped_and_the_same_command_goes_on(stage, tmp_path):
    wrong = stage("wrong", then="time.sleep(0.5); raise SystemExit(3)")
    listed = [stage("one"), stage("slow", "one", seconds=100), wrong, stage("report", "slow", "wrong")]
    message = r"stage wrong did not finish \(exit code 3\), see .*logs/wrong.txt; run the same command again"
    with pytest.raises(UserError, match=message):
        run(listed, tmp_path)
    assert not listed[1].product.exists() and not listed[3].product.exists()
    mended = [listed[0], stage("slow", "one"), stage("wrong"), listed[3]]
    run(mended, tmp_path)
    assert all(each.product.exists() for each in mended)


def test_a_stage_without_its_product_has_failed(stage, tmp_path):
    listed = [Stage("nothing", (), tmp_path / "nothing", '-c "pass"'), stage("report", "nothing")]
    with pytest.raises(UserError, match="stage nothing did not finish"):
        run(listed, tmp_path)


def test_after_a_signal_nothing_more_is_started(tmp_path):
    ready, after = tmp_path / "ready", tmp_path / "after"
    child = (
        "import pathlib, signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(75)); "
        f"pathlib.Path({str(ready)!r}).touch(); time.sleep(100)"
    )
    parent = f"""
import os
from pathlib import Path
from snp_jax.errors import run_cli
from tools.quickstart import Clock, Stage, run_stages

root = Path({str(tmp_path)!r})
listed = [
    Stage("saves", (), root / "saved", {f'-c "{child}"'!r}),
    Stage("after", (), root / "after", {f'-c "import time; time.sleep(2); open({str(after)!r}, chr(119))"'!r}),
    Stage("never", (), root / "never", "-c pass"),
]
run_cli(lambda: run_stages(listed, root, os.environ, Clock(root / "clock.json")))
"""
    process = subprocess.Popen([sys.executable, "-c", parent], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    while not ready.exists():
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 2
    assert "was stopped" in process.stderr.read()
    assert not (tmp_path / "never").exists()
    assert not (tmp_path / "logs/never.txt").exists()


def test_every_stage_comes_after_what_it_needs():
    listed = quickstart.stages(Path("runs/x"), 0)
    names = [each.name for each in listed]
    assert len(set(names)) == len(names)
    for each in listed:
        assert set(each.needs) <= set(names)
    assert names[-1] == "report"  # run_stages does it every time
