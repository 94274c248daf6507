"""tools/eval.py: a table, a JSON file, and one line for a mistake."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from snp_jax.eval.metrics import recall_metrics
from snp_jax.eval.scores import load_scores

ROOT = Path(__file__).resolve().parents[2]


def evaluate(config, *arguments):
    command = [sys.executable, str(ROOT / "tools" / "eval.py"), "--config", str(config), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300)


def test_parameter_table(monkeypatch, capsys):
    """In this process, where the counts may be known already from tests/eval/test_parameters.py."""
    monkeypatch.setattr(sys, "argv", ["eval.py", "--table", "parameters"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "tools" / "eval.py"), run_name="__main__")
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    for count in ("160,372,791", "161,101,087", "205,473,591", "206,201,887"):
        assert f"{count}  {count}" in printed


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--table", "parameters", "--out", "x"], "takes no other argument"),
        (["--checkpoint", "x"], "--config and --checkpoint are both needed"),
    ],
)
def test_arguments_that_do_not_fit(arguments, part, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["eval.py", *arguments])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "tools" / "eval.py"), run_name="__main__")
    assert ended.value.code == 2 and part in capsys.readouterr().err


def config_file(tmp_path, task, prepared_dataset):
    file = tmp_path / f"{task}.py"
    file.write_text(
        "from configs import common\n\n\ndef get_config(arg=None):\n"
        f"    config = common.base({task!r})\n"
        f"    config.dataset.path = {str(prepared_dataset)!r}\n"
        "    config.reading.num_workers = 0\n"
        "    config.evaluation.update(batch_size=3, chunk=5)\n"
        "    return config\n"
    )
    return file


def test_evaluation(pretrained, prepared_dataset, tmp_path):
    out, kept = tmp_path / "new" / "results.json", tmp_path / "new" / "scores.npz"
    config = config_file(tmp_path, "retrieval", prepared_dataset)
    done = evaluate(config, "--checkpoint", pretrained, "--out", out, "--scores", kept, "--config.evaluation.split=val")
    assert done.returncode == 0, done.stderr
    results = json.loads(out.read_text())
    assert results["checkpoint_step"] == 4 and results["split"] == "val" and results["broken"] == {}
    assert results["retrieval"]["gallery"] == 4 and results["retrieval"]["queries"] == 12
    assert len(done.stdout.splitlines()) > 2 and "R@1" in done.stdout
    scores = load_scores(kept)
    assert scores.stage1.shape == scores.ranking.shape == (12, 4) and set(scores.video) == set(range(4))
    assert results["retrieval"]["t2v"] == recall_metrics(scores.ranking, scores.positives)


def test_mistakes(pretrained, prepared_dataset, tmp_path):
    config = config_file(tmp_path, "retrieval", prepared_dataset)
    questions = config_file(tmp_path, "qa", prepared_dataset)
    for arguments, part in (
        ((config, "--checkpoint", tmp_path / "nothing"), "no checkpoint found at"),
        ((questions, "--checkpoint", pretrained), "was trained for pretrain, which has no answers"),
        ((config, "--checkpoint", pretrained, "--config.evaluation.spilt=val"), "spilt"),
        ((questions, "--checkpoint", pretrained, "--scores", tmp_path / "x.npz"), "--scores is for retrieval"),
    ):
        done = evaluate(*arguments)
        assert done.returncode == 2, done.stderr
        (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        assert part in line and done.stderr.splitlines()[-1] == line and "Traceback" not in done.stderr
