"""Compiles the published recipes for TPU slices (tools/aot.py) and tables memory, time estimate and communication.

    python benchmarks/scaling.py --json docs/scaling.json --table docs/scaling.md
    python benchmarks/scaling.py --json docs/scaling.json --table docs/scaling.md --only pretrain/pvt@v5p-64

Every cell is a process of its own that takes one to ten minutes, so results are kept after each one and what the JSON file
holds is not compiled again (delete a cell to repeat it). The table replaces what stands between the two marks in the page.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SLICES = ("v5e-256", "v5p-64", "v5e-64", "v4-32")
RECIPES = (
    "pretrain/vst_webvid", "pretrain/pvt", "pretrain/resnet50", "pretrain/vst_images", "retrieval/msrvtt", "retrieval/didemo",
    "qa/msrvtt",
)  # fmt: skip
"""One of each program: MSVD's retrieval differs from MSRVTT's in rate and steps, its questions in the number of answers."""
PASSES = (("choice/msrvtt", "videos", 1024), ("choice/msrvtt", "pairs", 4096))
POD = {"pretrain": 4096, "retrieval": 1024, "qa": 1024}
PUBLISHED = {"pretrain": 128, "retrieval": 32, "qa": 32}
COLUMNS = (
    "recipe", "slice", "global batch", "a chip", "HBM, GiB", "Tflop a chip", "estimate, ms", "examples/s", "MFU",
    "collectives, MiB",
)  # fmt: skip
BEGIN, END = "<!-- scaling table -->", "<!-- end of scaling table -->"
KEPT = (
    "topology", "devices", "mesh", "step", "global_batch", "batch_per_device", "optimization_level", "versions", "compile_s",
    "fits", "why_not", "hbm_gib", "flops_per_device", "recomputed_flops_per_device", "estimated_step_s", "estimate",
    "examples_per_s", "mfu", "collectives", "budgets",
)  # fmt: skip


def cells() -> list[tuple[str, list[str]]]:
    """(name, arguments of tools/aot.py) of every cell, those that say most first."""
    found = []
    for recipe in RECIPES:
        kind = recipe.partition("/")[0]
        published = 128 if recipe == "retrieval/didemo" else PUBLISHED[kind]
        for batch in (POD[kind], published):
            for name in SLICES:
                arguments = ["--config", f"configs/{recipe}.py", "--topology", name, "--batch", str(batch)]
                found.append((f"{recipe}@{name}@{batch}", arguments))
    for recipe, step, rows in PASSES:
        for name in SLICES:
            arguments = ["--config", f"configs/{recipe}.py", "--topology", name, "--batch", str(rows), "--step", step]
            found.append((f"{recipe}:{step}@{name}@{rows}", arguments))
    return found


def compile_cell(arguments: list[str]) -> dict:
    """Runs tools/aot.py; a refusal is a result too."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "report.json"
        command = [sys.executable, "tools/aot.py", *arguments, "--json", str(file)]
        done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True)
        if not file.exists():
            message = done.stderr.strip().splitlines()[-1:] or ["no message"]
            return {"refused": message[0].removeprefix("error: ")}
        report = json.loads(file.read_text())
    return {key: report[key] for key in KEPT if key in report}


def table(results: dict[str, dict]) -> str:
    """Markdown of all results, and what was not compiled."""
    lines = [
        f"| {' | '.join(COLUMNS)} |",
        f"|{' --- |' * len(COLUMNS)}",
    ]
    missing = []
    for name, _ in cells():
        recipe, where, batch = name.split("@")
        row = results.get(name)
        if row is None:
            missing.append(name)
        elif "refused" in row:
            lines.append(f"| {recipe} | {where} | {batch} | refused: {row['refused']} | | | | | | |")
        else:
            lines.append(f"| {recipe} | {where} | {batch} | {_row(row)} |")
    if missing:
        lines += ["", f"Not compiled yet ({len(missing)} of {len(cells())}): {', '.join(missing)}."]
    return "\n".join(lines)


def _row(row: dict) -> str:
    memory = row["hbm_gib"]
    verdict = "" if row["fits"] else "**does not fit:** "
    start = f"{row['batch_per_device']:g} | {verdict}{memory['total']:.1f} of {memory['limit']:g}"
    work = f"{row['flops_per_device'] / 1e12:.2f}"
    if "mfu" not in row:
        return f"{start} | {work} | | | |"
    sent = sum(each["bytes"] for each in row["collectives"]) / 2**20
    marks = "" if all(budget["ok"] for budget in row["budgets"]) else " (over budget)"
    time = f"{row['estimated_step_s'] * 1e3:.1f} | {row['examples_per_s']:.0f} | {row['mfu']:.0%}"
    return f"{start} | {work} | {time} | {sent:.0f}{marks}"


def main() -> None:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form, allow_abbrev=False)
    parser.add_argument("--json", type=Path, required=True, help="results, read and written")
    parser.add_argument("--table", type=Path, help="page whose marked part is replaced")
    parser.add_argument("--only", action="append", help="cells whose name contains this; repeatable; 'none' compiles nothing")
    arguments = parser.parse_args()
    results = json.loads(arguments.json.read_text()) if arguments.json.exists() else {}
    for name, command in cells():
        if name in results or (arguments.only and not any(part in name for part in arguments.only)):
            continue
        print(name, flush=True)
        results[name] = compile_cell(command)
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")
    if arguments.table:
        page = arguments.table.read_text()
        before, after = page.partition(BEGIN)[0], page.partition(END)[2]
        arguments.table.write_text(f"{before}{BEGIN}\n{table(results)}\n{END}{after}")


if __name__ == "__main__":
    main()
