"""Decoding and the input pipeline against others: `python benchmarks/input.py --json results.json [--quick]`.

Sparse sampling (16 random frames of a 10 s clip at 224 x 224) against decord, OpenCV and torchcodec, as far as they are
installed (extra `bench`), and against `ffmpeg -f null`, which decodes every frame; sequential decoding against the latter; the
whole pipeline with two workers against bare decoding in two processes and PyTorch's DataLoader; memory over 10,000 clips.
Rounds are interleaved, numbers are medians. Decoding is measured in CPU time, with one thread; loaders by the clock. Stopped,
the same command goes on from the file.
"""

from __future__ import annotations

import argparse
import functools
import statistics
from collections.abc import Callable
from pathlib import Path

import clips
import loaders
import readers
from timing import Results

_SMALL = (96, 96)  # pixels of the clips for the memory test
_SPARSE = ("ours", "decord", "opencv", "torchcodec")


def main() -> None:
    options = _parse()
    rounds = options.rounds or (1 if options.quick else 5)
    settings = {"quick": options.quick, "rounds": rounds, "source": str(options.source or "synthetic")}
    results = Results(options.json, settings, resume=True)
    root = options.root / ("synthetic" if options.source is None else options.source.stem)
    counts = {kind.name: min(kind.count, 2 if options.quick else kind.count) for kind in clips.KINDS}
    files = clips.write_clips(root, options.source, counts)
    _decoding(results, files, rounds)
    sample = _sample(root, files)
    _loading(results, sample, rounds=1 if options.quick else 3, num_clips=32 if options.quick else 192)
    _memory(results, root, num_clips=2_000 if options.quick else 10_000)
    _conclude(results)
    for name, value in results.content["ratio"].items():
        print(f"{name:32}{value:8.2f}" if value else f"{name:32}       -")
    print(f"{'peak_rss_mib':32}{results.content['peak_rss_mib']:8.0f}")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True, help="the results")
    parser.add_argument("--quick", action="store_true", help="one round of little: does it run?")
    parser.add_argument("--rounds", type=int, help="of decoding (default 5)")
    parser.add_argument("--source", type=Path, help="a video to cut the clips from (default: synthetic pictures)")
    parser.add_argument("--root", type=Path, default=Path("runs/benchmarks/input"), help="where the clips are kept")
    return parser.parse_args()


def _decoding(results: Results, files: dict[str, list[Path]], rounds: int) -> None:
    """Sections "sparse KIND" and "sequential KIND": CPU seconds per clip."""
    absent = {name: reason for name in (*_SPARSE, "ffmpeg", "torch") if (reason := readers.missing(name)) is not None}
    results.content["left_out"] = absent
    for name, reason in absent.items():
        print(f"without {name}: {reason}")
    names = [name for name in (*_SPARSE, "ours_sequential") if name not in absent]
    running = {name: readers.Reader(name) for name in names}
    failed: dict[str, str] = {}
    for kind, paths in files.items():
        cases: dict[tuple[str, str], Callable[[int], float]] = {}
        for name, reader in running.items():
            section = "sequential" if name == "ours_sequential" else "sparse"
            cases[section, name.removesuffix("_sequential")] = functools.partial(reader.cpu_s, paths)
        if "ffmpeg" not in absent:
            repeats = 1 if "1080p" in kind else 4  # starting it must not count
            cases["sequential", "ffmpeg"] = lambda _round, paths=paths, repeats=repeats: readers.ffmpeg_cpu_s(paths, repeats)
        for (section, name), measure in cases.items():
            if not results.samples(f"{section} {kind}", name):
                _attempt(measure, 0, failed, f"{name}: {kind}")  # once, uncounted
        for number in range(rounds):
            for (section, name), measure in cases.items():
                if len(results.samples(f"{section} {kind}", name)) <= number and f"{name}: {kind}" not in failed:
                    results.add(f"{section} {kind}", name, measure(number + 1))
        print(kind, {name: f"{value * 1e3:.1f} ms" for name, value in results.medians(f"sparse {kind}").items()}, flush=True)
    results.content["failed"] = {**results.content.get("failed", {}), **failed}
    peaks = {name: reader.peak_mib for name, reader in running.items() if reader.peak_mib}
    results.content["peak_rss_mib_by_reader"] = {**results.content.get("peak_rss_mib_by_reader", {}), **peaks}
    for reader in running.values():
        reader.close()


def _attempt(measure: Callable[[int], float], number: int, failed: dict[str, str], what: str) -> None:
    try:
        measure(number)
    except RuntimeError as error:
        failed[what] = str(error)
        print(f"{what} failed: {error}")


def _sample(root: Path, files: dict[str, list[Path]]) -> loaders.Sample:
    """The small clips of the mix, as a prepared dataset and bare."""
    chosen = [path for kind, paths in files.items() if "240p" in kind for path in paths]
    return loaders.Sample(loaders.prepared_folder(root, "mix", chosen), tuple(map(str, chosen)))


def _loading(results: Results, sample: loaders.Sample, rounds: int, num_clips: int) -> None:
    """Sections "loading, clock" and "loading, CPU": seconds per clip."""
    names = ["bare", "pipeline"]
    if not {"decord", "torch"} & set(results.content["left_out"]):
        names += ["torch_decord", "torch_ours"]
    for number in range(rounds):
        for name in names:
            if len(results.samples("loading, CPU", name)) <= number:
                by_clock, by_cpu = loaders.throughput(name, sample, num_clips)
                results.add("loading, clock", name, 1 / by_clock)
                results.add("loading, CPU", name, 1 / by_cpu)
        clock = results.medians("loading, clock")
        print(f"loading, round {number + 1}", {name: f"{1 / value:.1f} clips/s" for name, value in clock.items()}, flush=True)


def _memory(results: Results, root: Path, num_clips: int) -> None:
    """Memory of the pipeline and its workers on small clips: any leak per clip shows."""
    if "memory" in results.content:
        return
    paths = []
    for number in range(40):
        path = root / "small" / f"{number}.mp4"
        if not path.exists():
            pictures = clips.pictures(_SMALL, seed=number, num_frames=16 + number)
            clips.write_clip(path, pictures, "libx264", _SMALL, {"preset": "veryfast", "threads": "1"})
        paths.append(path)
    sample = loaders.Sample(loaders.prepared_folder(root, "small_mix", paths), tuple(map(str, paths)), side=64, num_frames=4)
    seen = loaders.memory(sample, num_clips)
    results.content["memory"] = {"clips": num_clips, "rss_mib": seen}
    results.write()
    print(f"memory over {num_clips} clips:", [round(value) for value in seen], "MiB", flush=True)


def _conclude(results: Results) -> None:
    """Clips per second, ratios (above 1: ours is faster) and memory."""
    content = results.content
    sections = list(content["samples"])
    content["clips_per_s"] = {
        section: {name: 1 / seconds for name, seconds in results.medians(section).items()} for section in sections
    }
    by_kind = {
        f"{section}_vs_{peer}": {
            kind.name: ratio
            for kind in clips.KINDS
            if (ratio := _ratio(results.medians(f"{section} {kind.name}"), peer)) is not None
        }
        for section, peers in (("sparse", (*_SPARSE[1:], "ffmpeg")), ("sequential", ("ffmpeg",)))
        for peer in peers
    }
    for kind in clips.KINDS:  # ffmpeg decodes everything, whatever is wanted
        full = results.medians(f"sequential {kind.name}").get("ffmpeg")
        if full:
            by_kind["sparse_vs_ffmpeg"][kind.name] = full / results.medians(f"sparse {kind.name}")["ours"]
    clock, cpu = results.medians("loading, clock"), results.medians("loading, CPU")
    content["ratio_by_kind"] = by_kind
    content["ratio"] = {
        **{name: statistics.geometric_mean(values.values()) if values else None for name, values in by_kind.items()},
        "pipeline_vs_decode": clock["bare"] / clock["pipeline"],
        "pipeline_vs_decode_cpu": cpu["bare"] / cpu["pipeline"],
        "pipeline_vs_torch_dataloader": _ratio(clock, "torch_decord", ours="pipeline"),
        "pipeline_vs_torch_dataloader_cpu": _ratio(cpu, "torch_decord", ours="pipeline"),
        "pipeline_vs_torch_dataloader_with_our_decoder": _ratio(clock, "torch_ours", ours="pipeline"),
    }
    seen = content["memory"]["rss_mib"]
    content["memory"]["growth"] = statistics.median(seen[-3:]) / statistics.median(seen[1:4]) - 1
    content["peak_rss_mib"] = content["peak_rss_mib_by_reader"]["ours"]
    results.write()


def _ratio(seconds: dict[str, float], peer: str, ours: str = "ours") -> float | None:
    return seconds[peer] / seconds[ours] if peer in seconds and ours in seconds else None


if __name__ == "__main__":
    main()
