"""Mining significant words at scale: `python benchmarks/words.py --json results.json [--captions 200000]`.

Runs `tools/mine_significant_words.py` on generated captions (`captions.py`), as a user does. One process against two on
half of them, interleaved, medians; memory of all processes on a tenth and on all of them, with a vocabulary that grows and
with one that does not; then all of them once more with a SIGKILL at a random moment, continued, and compared with the
undisturbed result byte for byte. Stopped, the same command goes on from the file.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import processes
from captions import captions
from timing import Results

from snp_jax.data.corpus_files import write_atomically

ROOT = Path(__file__).resolve().parents[1]
_EVERY_S = 0.2  # between two looks at the processes
_FEW_NAMES = 300


def main() -> None:
    options = _parse()
    results = Results(options.json, {"captions": options.captions, "rounds": options.rounds, "seed": options.seed}, resume=True)
    results.content["pytorch"] = _has_pytorch()
    options.root.mkdir(parents=True, exist_ok=True)
    counts = {"tenth": options.captions // 10, "half": options.captions // 2, "whole": options.captions}
    files = {name: _corpus(options, count) for name, count in counts.items()}
    half, whole = files["half"], files["whole"]
    for number in range(options.rounds):
        for jobs in (1, 2) if number % 2 == 0 else (2, 1):
            _once(results, f"half, jobs {jobs}, round {number}", lambda jobs=jobs: _mine(half, jobs))
    for name in ("tenth", "whole"):
        _once(results, f"{name}, jobs 2", lambda file=files[name]: _mine(file, 2))
        few = _corpus(options, counts[name], _FEW_NAMES)
        _once(results, f"{name}, few names, jobs 2", lambda few=few: _mine(few, 2))
    _once(results, "killed", lambda: _kill_and_go_on(whole, results.content["runs"]["whole, jobs 2"]["seconds"], options.seed))
    _conclude(results, counts, files)
    print(json.dumps(results.content["summary"], indent=1))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True, help="the results")
    parser.add_argument("--captions", type=int, default=200_000, help="how many (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="of one process against two (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the captions and of the moment of the kill")
    parser.add_argument("--root", type=Path, default=Path("runs/benchmarks/words"), help="where the captions are kept")
    return parser.parse_args()


def _has_pytorch() -> bool:
    """spaCy loads PyTorch where it is installed: more memory and a slower start."""
    return not subprocess.run([sys.executable, "-c", "import torch"], capture_output=True, check=False).returncode


def _corpus(options: argparse.Namespace, count: int, names: int | None = None) -> Path:
    """A file of the first `count` captions of the seed."""
    file = options.root / f"{count}_{options.seed}{f'_{names}' if names else ''}.txt"
    if not file.exists():
        made = captions(count, options.seed, names) if names else captions(count, options.seed)
        write_atomically(file, "".join(f"{caption}\n" for caption in made).encode())
    return file


def _once(results: Results, name: str, measure: Callable[[], dict[str, object]]) -> None:
    """A row of the section "runs", if it is not there yet."""
    runs = results.content.setdefault("runs", {})
    if name not in runs:
        runs[name] = measure()
        results.write()
        print(name, runs[name], flush=True)


def _start(file: Path, jobs: int, out: Path) -> subprocess.Popen:
    command = [sys.executable, ROOT / "tools/mine_significant_words.py", "--captions", file, "--out", out, "--jobs", jobs]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    return subprocess.Popen([*map(str, command)], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _out(file: Path, purpose: str = "words") -> Path:
    return file.with_suffix(f".{purpose}.json")


def _parts(out: Path) -> Path:
    return Path(f"{out}.parts")


def _mine(file: Path, jobs: int) -> dict[str, object]:
    """One undisturbed run: seconds, CPU seconds, MiB of all processes and of the largest one at their peaks, MiB of pieces."""
    out = _out(file)
    shutil.rmtree(_parts(out), ignore_errors=True)
    before, started = os.times(), time.perf_counter()
    seen = _watch(_start(file, jobs, out), out)
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return {"seconds": time.perf_counter() - started, "cpu_seconds": cpu, **seen}


def _watch(process: subprocess.Popen, out: Path) -> dict[str, float]:
    """Waits for the end. Memory that processes share counts in each."""
    peaks = {"peak_rss_mib": 0.0, "largest_process_mib": 0.0, "pieces_mib": 0.0}
    while process.poll() is None:
        each = [processes.rss_mib([pid]) for pid in processes.process_tree(process.pid)]
        for name, value in zip(peaks, (sum(each), max(each), _pieces_mib(out)), strict=True):
            peaks[name] = max(peaks[name], value)
        time.sleep(_EVERY_S)
    if process.returncode:
        raise SystemExit(f"mining failed with status {process.returncode}")
    return peaks


def _pieces_mib(out: Path) -> float:
    """Those that are there now; they come and go while we look."""
    total = 0
    for file in _parts(out).glob("*/*"):
        with contextlib.suppress(OSError):
            total += file.stat().st_size
    return total / 2**20


def _kill_and_go_on(file: Path, usual_s: float, seed: int) -> dict[str, object]:
    """SIGKILL to the tool, not to its workers, at a random moment of the middle half of a run."""
    out = _out(file, "killed")
    out.unlink(missing_ok=True)
    shutil.rmtree(_parts(out), ignore_errors=True)
    process, moment = _start(file, 2, out), usual_s * random.Random(seed).uniform(0.25, 0.75)
    time.sleep(moment)
    workers = processes.process_tree(process.pid)[1:]
    process.send_signal(signal.SIGKILL)
    process.wait()
    killed = time.perf_counter()
    while any(Path(f"/proc/{pid}").exists() for pid in workers) and time.perf_counter() - killed < 30:
        time.sleep(0.01)
    gone = time.perf_counter() - killed
    kept, planned = len(list(_parts(out).glob("counts/*.json"))), _units(out)
    started = time.perf_counter()
    _watch(_start(file, 2, out), out)
    return {
        "killed_after_s": moment,
        "workers": len(workers),
        "workers_gone_after_s": gone,
        "units_kept": kept,
        "units": planned,
        "going_on_s": time.perf_counter() - started,
        "same_bytes": out.read_bytes() == _out(file).read_bytes(),
        "pieces_removed": not _parts(out).exists(),
    }


def _units(out: Path) -> int:
    """How many there are, 0 when the captions are not dealt out yet."""
    plan = _parts(out) / "plan.json"
    return len(json.loads(plan.read_text())["units"]) if plan.exists() else 0


def _conclude(results: Results, counts: dict[str, int], files: dict[str, Path]) -> None:
    """Medians over rounds, captions a second, growth of memory, and what 2.5 million would take at the same speed."""
    runs, rounds = results.content["runs"], range(results.content["settings"]["rounds"])

    def medians(unit: str) -> dict[str, float]:
        return {
            f"jobs {jobs}": statistics.median(runs[f"half, jobs {jobs}, round {number}"][unit] for number in rounds)
            for jobs in (1, 2)
        }

    clock, whole = medians("seconds"), runs["whole, jobs 2"]
    mined = [json.loads(_out(files[name]).read_text()) for name in ("tenth", "whole")]
    per_s = counts["whole"] / whole["seconds"]
    results.content["summary"] = {
        "captions_per_s": {
            "half, jobs 1": counts["half"] / clock["jobs 1"],
            "half, jobs 2": counts["half"] / clock["jobs 2"],
            "whole, jobs 2": per_s,
        },
        "half_cpu_seconds": medians("cpu_seconds"),
        "captions_per_cpu_s": counts["whole"] / whole["cpu_seconds"],
        "jobs_2_vs_1": clock["jobs 1"] / clock["jobs 2"],
        "peak_rss_mib": {
            name: runs[f"{name}, jobs 2"]["peak_rss_mib"] for name in ("tenth", "whole", "tenth, few names", "whole, few names")
        },
        "words": {"tenth": len(mined[0]["words"]), "whole": len(mined[1]["words"])},
        "captions": {"tenth": mined[0]["captions"], "whole": mined[1]["captions"]},
        "same_bytes_after_a_kill": runs["killed"]["same_bytes"],
        "extrapolated_2_500_000": {
            "minutes, jobs 2": 2.5e6 / per_s / 60,
            "pieces_mib": whole["pieces_mib"] * 2.5e6 / counts["whole"],
        },
    }
    results.write()


if __name__ == "__main__":
    main()
