"""Commands side by side: exit codes, signals, and one that fails ends the others."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from snp_jax import children

ROOT = Path(__file__).resolve().parents[1]


def python(code):
    return [sys.executable, "-c", code]


def test_output_goes_to_the_file_that_is_named(tmp_path):
    log = tmp_path / "log.txt"
    say = python("import sys; print('out', flush=True); print('err', file=sys.stderr)")
    for _ in range(2):  # a stage that is run again appends
        assert children.run_together([python("pass"), say], os.environ, [None, log]) == 0
    assert log.read_text().split() == ["out", "err"] * 2


def test_exit_codes():
    fine, wrong = python("pass"), python("raise SystemExit(3)")
    assert children.run_together([fine, fine], os.environ) == 0
    assert children.run_together([fine, wrong], os.environ) == 3
    assert children.run_together([python("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")], os.environ) == 137


def test_one_that_fails_ends_the_others(monkeypatch):
    monkeypatch.setattr(children, "_GRACE_S", 0.2)
    started = time.monotonic()
    assert children.run_together([python("import time; time.sleep(100)"), python("raise SystemExit(4)")], os.environ) == 4
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
