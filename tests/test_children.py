"""Commands side by side: exit codes, signals, priorities, and one that fails ends the others."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from snp_jax import children
from snp_jax.children import Children, run_together

ROOT = Path(__file__).resolve().parents[1]


def python(code):
    return [sys.executable, "-c", code]


def test_output_goes_to_the_file_that_is_named(tmp_path):
    log = tmp_path / "log.txt"
    say = python("import sys; print('out', flush=True); print('err', file=sys.stderr)")
    with Children(os.environ) as running:
        for _ in range(2):  # a stage that is run again appends
            child = running.start(say, log)
            assert running.wait() == (child, 0)
    assert log.read_text().split() == ["out", "err"] * 2


def test_the_first_that_ends_is_told():
    with Children(os.environ) as running:
        slow = running.start(python("import time; time.sleep(100)"))
        fast = running.start(python("raise SystemExit(5)"))
        assert running.wait() == (fast, 5) and len(running) == 1
        running.ask_to_stop()
        assert running.wait() == (slow, 128 + signal.SIGTERM) and len(running) == 0
        assert not running.signalled


def test_what_is_left_when_the_context_ends_is_killed():
    with Children(os.environ) as running:
        child = running.start(python("import time; time.sleep(100)"))
    assert child.returncode == -signal.SIGKILL


def test_behind_means_a_lower_priority():
    with Children(os.environ) as running:
        children = [running.start(python("import time; time.sleep(100)"), behind=behind) for behind in (False, True)]
        front, behind = (os.getpriority(os.PRIO_PROCESS, child.pid) for child in children)
        assert behind == front + 10
        assert {os.getsid(child.pid) for child in children} == {os.getsid(0)}  # Linux compares no priorities across sessions
        assert all(os.getpgid(child.pid) == child.pid for child in children)  # Ctrl-C is passed on, once


def test_exit_codes():
    fine, wrong = python("pass"), python("raise SystemExit(3)")
    assert run_together([fine, fine], os.environ) == 0
    assert run_together([fine, wrong], os.environ) == 3
    assert run_together([python("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")], os.environ) == 137


def test_one_that_fails_ends_the_others(monkeypatch):
    monkeypatch.setattr(children, "_GRACE_S", 0.2)
    started = time.monotonic()
    assert run_together([python("import time; time.sleep(100)"), python("raise SystemExit(4)")], os.environ) == 4
    assert time.monotonic() - started < 50


def test_signals_are_passed_on(tmp_path):
    """As to a training run, which saves and ends with 75."""
    child = (
        "import pathlib, signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))\n"
        f"pathlib.Path({str(tmp_path / 'ready')!r}).touch()\n"
        "time.sleep(100)"
    )
    parent = (
        "import os, sys; from snp_jax.children import run_together; "
        f"sys.exit(run_together([[sys.executable, '-c', {child!r}]], os.environ))"
    )
    process = subprocess.Popen(python(parent), cwd=ROOT)
    while not (tmp_path / "ready").exists():
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 75
