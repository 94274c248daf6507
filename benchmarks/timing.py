"""Interleaved timing with medians, and a results file that a stopped benchmark goes on from."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from snp_jax.data.corpus_files import write_atomically


class Results:
    """A JSON file of sections, written whole after every sample."""

    def __init__(self, file: Path, settings: Mapping[str, Any], *, resume: bool):
        """With `resume`, samples of the same settings are kept; others are refused."""
        self._file = file
        self.content: dict[str, Any] = {"settings": dict(settings), "machine": machine(), "samples": {}}
        if resume and file.exists():
            before = json.loads(file.read_text())
            if before["settings"] != self.content["settings"]:
                raise SystemExit(f"{file} holds results of other settings ({before['settings']}): choose another --json")
            self.content = before

    def samples(self, section: str, name: str) -> list[float]:
        """The seconds measured so far of one competitor; append through `add`."""
        return self.content["samples"].setdefault(section, {}).setdefault(name, [])

    def add(self, section: str, name: str, seconds: float) -> None:
        """One more sample."""
        self.samples(section, name).append(seconds)
        self.write()

    def medians(self, section: str) -> dict[str, float]:
        """Median seconds of each competitor."""
        return {name: statistics.median(values) for name, values in self.content["samples"].get(section, {}).items() if values}

    def summarise(self, ratios: Mapping[str, tuple[str, str, str]]) -> None:
        """Medians of all that was measured, and ratios of them (above 1: ours faster); printed and written.

        Args:
            ratios: name -> (section, the other, ours); one that was not measured is left out.
        """
        median = {section: self.medians(section) for section in self.content["samples"]}
        self.content["median_s"] = median
        self.content["ratio"] = {
            name: median[section][theirs] / median[section][mine]
            for name, (section, theirs, mine) in ratios.items()
            if {theirs, mine} <= median.get(section, {}).keys()
        }
        self.write()
        for name, ratio in self.content["ratio"].items():
            print(f"{name:40} {ratio:.2f}")

    def write(self) -> None:
        """Replaces the file in one go."""
        write_atomically(self._file, (json.dumps(self.content, indent=1) + "\n").encode())


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    model = platform.processor()
    if (info := Path("/proc/cpuinfo")).exists():
        model = next((line.split(":")[1].strip() for line in info.read_text().splitlines() if "model name" in line), model)
    return {"cpu": model, "cores": len(os.sched_getaffinity(0)), "load_at_start": os.getloadavg()[0]}


def turns(results: Results, section: str, names: Iterable[str], rounds: int) -> Iterator[tuple[int, str]]:
    """(round, name) of every sample that the file does not have yet: each name once a round, in an order that turns."""
    names = list(names)
    for number in range(rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            if len(results.samples(section, name)) <= number:
                yield number, name


def interleave(results: Results, section: str, competitors: Mapping[str, Callable[[], Any]], rounds: int) -> None:
    """Times every competitor in its `turns`.

    A competitor must have run before (compilation is not measured) and must return only when its result is there.
    """
    for number, name in turns(results, section, competitors, rounds):
        start = time.perf_counter()
        competitors[name]()
        seconds = time.perf_counter() - start
        results.add(section, name, seconds)
        print(f"{section} round {number + 1}/{rounds}: {name} {seconds:.3f} s", flush=True)


def timed(what: str, function: Callable[[], Any]) -> Any:
    """The function's result; says how long it took."""
    start = time.perf_counter()
    result = function()
    print(f"{what}: {time.perf_counter() - start:.1f} s", flush=True)
    return result
