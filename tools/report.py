"""Collects a quickstart's numbers into results.json and draws report.html.

python tools/report.py --root runs/quickstart
"""

from __future__ import annotations

import argparse
import json
import platform
from pathlib import Path

from snp_jax.errors import UserError, run_cli

TASKS = ("retrieval", "qa", "choice")
TERMS = {
    "tagging_frames": ("tagging",),
    "tagging": ("tagging",),
    "pretrain": ("tags", "mlm_cross", "gvtm_stage1", "gvtm_stage2", "lvwm"),
    "retrieval": ("gvtm_stage1", "gvtm_stage2"),
    "qa": ("answer",),
    "choice": ("choice",),
}


def collect(root: Path) -> dict:
    """results.json: the numbers of the three tasks, with and without pre-training, the seconds of each stage, and in all."""
    results: dict = {"no_pretraining": {}}
    for task in TASKS:
        for name, target in ((task, results), (f"{task}_no_pretraining", results["no_pretraining"])):
            file = root / "eval" / f"{name}.json"
            if not file.exists():
                raise UserError(f"{file} does not exist: run tools/quickstart.py --root {root} first")
            target |= {key: value for key, value in json.loads(file.read_text()).items() if key in ("retrieval", "qa", "mc")}
    clock = json.loads((root / "clock.json").read_text())
    return results | {"seconds": clock["stages"], "seconds_in_all": clock["in_all"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path("runs/quickstart"))
    root = parser.parse_args().root
    results = collect(root)
    (root / "results.json").write_text(json.dumps(results, indent=2) + "\n")

    import jax

    from snp_jax.eval.gallery import Frames, heat_maps, retrieval_queries
    from snp_jax.eval.report import ReportData, Run, write_report
    from snp_jax.eval.scores import load_scores
    from snp_jax.eval.tables import Bars, format_results
    from snp_jax.train.config import parse_config
    from snp_jax.train.restore import open_run

    bars = Bars(t2v_r1=25.0, t2v_r10=70.0, qa_gain=25.0, mc=80.0)
    config = parse_config("configs/toy/retrieval.py", [f"--config.dataset.path={root}/tfds"])
    pretrained = open_run(root / "pretrain")
    frames = Frames(config.dataset.path, config.evaluation.split, pretrained.config.clip.num_clips)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(pretrained.params))
    data = ReportData(
        title="snp-jax quickstart",
        summary="A shared-BERT video-text model, pre-trained and fine-tuned on two CPU cores from raw video.",
        facts={
            "parameters": f"{parameters:,}", "jax": jax.__version__, "python": platform.python_version(),
            "device": str(jax.devices()[0]), "pre-training steps": str(pretrained.step),
            "pairs a step": str(pretrained.config.batch_size), "seed": str(pretrained.config.seed),
        },
        results=results, bars=bars,
        runs=[Run(name, root / name / "metrics.jsonl", terms) for name, terms in TERMS.items()],
        queries=retrieval_queries(load_scores(root / "eval/retrieval.npz"), frames, 10),
        heat_maps=heat_maps(pretrained, config, frames, str(root / "words.json"), 3),
    )  # fmt: skip
    write_report(root / "report.html", data)
    print(format_results(results, bars))
    print(f"\nwrote {root}/results.json and {root}/report.html")


if __name__ == "__main__":
    run_cli(main)
