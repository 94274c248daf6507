"""The loaders that `input.py` compares: the project's pipeline, bare decoding, PyTorch's DataLoader; two workers each.

Every measurement runs in a fresh process, so that none meets what another one left, and leaves out the start.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import processes
import readers

from snp_jax.data import pipeline
from snp_jax.data.records import Annotation

NUM_WORKERS, BATCH, WARM_BATCHES = 2, 8, 3


@dataclasses.dataclass(frozen=True)
class Sample:
    """What is read: a prepared dataset, and the same files bare."""

    dataset: str
    files: tuple[str, ...]
    side: int = readers.SIDE
    num_frames: int = readers.NUM_FRAMES


class NoText:
    """Captions are not what is measured."""

    needs = "captions"

    def __call__(self, annotation: Annotation, rng: np.random.Generator) -> dict[str, np.ndarray]:
        return {}


def our_batches(sample: Sample, batch: int = BATCH) -> Iterator[object]:
    source = pipeline.open_source(sample.dataset, "train")
    spec = pipeline.ClipSpec(num_clips=sample.num_frames, image_size=(sample.side, sample.side))
    reading = pipeline.Reading(num_workers=NUM_WORKERS, num_threads=1, buffer=8)
    return pipeline.train_batches(source, spec=spec, text=NoText(), batch_size=batch, seed=0, reading=reading)


class Files:
    """A map-style dataset for PyTorch: an item is one decoded clip."""

    def __init__(self, files: tuple[str, ...], read: Callable[[str, int], np.ndarray]):
        self._files, self._read = files, read

    def __len__(self) -> int:
        return 1 << 30

    def __getitem__(self, index: int) -> np.ndarray:
        return self._read(self._files[index % len(self._files)], index)


def torch_batches(sample: Sample, read: Callable[[str, int], np.ndarray]) -> Iterator[object]:
    import torch

    torch.set_num_threads(1)
    return iter(torch.utils.data.DataLoader(Files(sample.files, read), batch_size=BATCH, num_workers=NUM_WORKERS))


def torch_decord_batches(sample: Sample) -> Iterator[object]:
    return torch_batches(sample, readers.with_decord)


def torch_ours_batches(sample: Sample) -> Iterator[object]:
    return torch_batches(sample, readers.ours)


LOADERS = {"pipeline": our_batches, "torch_decord": torch_decord_batches, "torch_ours": torch_ours_batches}


def throughput(name: str, sample: Sample, num_clips: int) -> tuple[float, float]:
    """(clips per second of wall clock, clips per second of CPU time) of a loader, or of "bare" decoding in two processes."""
    return _in_a_process(_measure_bare if name == "bare" else _measure_loader, name, sample, num_clips)


def memory(sample: Sample, num_clips: int, points: int = 10) -> list[float]:
    """MiB of the pipeline and its workers after each tenth of so many clips."""
    return _in_a_process(_measure_memory, sample, num_clips, points)


def _in_a_process(function: Callable, *arguments):
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_answer, args=(there, function, *arguments))  # not a daemon: it has workers
    process.start()
    there.close()
    try:
        return here.recv()
    except EOFError:
        raise RuntimeError(f"{function.__name__}{arguments[:1]}: its process ended with {process.exitcode}") from None
    finally:
        process.join()


def _answer(connection: Connection, function: Callable, *arguments) -> None:
    connection.send(function(*arguments))
    connection.close()
    os._exit(0)  # without waiting for workers that are still reading ahead; they end when they notice


def _measure_loader(name: str, sample: Sample, num_clips: int) -> tuple[float, float]:
    batches = LOADERS[name](sample)
    for _ in range(WARM_BATCHES):
        next(batches)
    pids = processes.process_tree(os.getpid())
    cpu, wall = processes.cpu_seconds(pids), time.perf_counter()
    for _ in range(num_clips // BATCH):
        next(batches)
    wall, cpu = time.perf_counter() - wall, processes.cpu_seconds(pids) - cpu
    return num_clips / wall, num_clips / cpu


def _measure_bare(_name: str, sample: Sample, num_clips: int) -> tuple[float, float]:
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(NUM_WORKERS), context.SimpleQueue()
    share = num_clips // NUM_WORKERS
    arguments = (sample, share, barrier, results)
    processes = [context.Process(target=_decode_all, args=(k, *arguments)) for k in range(NUM_WORKERS)]
    for process in processes:
        process.start()
    spans = [results.get() for _ in processes]
    for process in processes:
        process.join()
    wall = max(end for _, end, _ in spans) - min(start for start, _, _ in spans)
    return NUM_WORKERS * share / wall, NUM_WORKERS * share / sum(cpu for *_, cpu in spans)


def _decode_all(worker: int, sample: Sample, share: int, barrier, results) -> None:
    for number in range(4):
        readers.ours(sample.files[number % len(sample.files)], number)
    barrier.wait()
    started, cpu = time.monotonic(), time.process_time()
    for number in range(share):
        index = worker + NUM_WORKERS * number
        readers.ours(sample.files[index % len(sample.files)], index)
    results.put((started, time.monotonic(), time.process_time() - cpu))


def _measure_memory(sample: Sample, num_clips: int, points: int) -> list[float]:
    batch = 32
    batches = our_batches(sample, batch)
    seen = []
    for point in range(points):
        for _ in range(num_clips * (point + 1) // points // batch - num_clips * point // points // batch):
            next(batches)
        pids = processes.process_tree(os.getpid())
        seen.append(processes.rss_mib(pids))
    return seen


def prepared_folder(root: Path, name: str, files: list[Path]) -> str:
    """A dataset of these files, prepared as a user would."""
    import json
    import subprocess
    import sys

    out = root / f"{name}_tfds"
    folder = root / name
    (folder / "videos").mkdir(parents=True, exist_ok=True)
    for file in files:
        link = folder / "videos" / file.name
        if not link.exists():
            os.link(file, link)
    lines = [json.dumps({"video": file.name, "captions": [file.stem]}) + "\n" for file in files]
    (folder / "train.jsonl").write_text("".join(lines))
    tool = Path(__file__).resolve().parents[1] / "tools" / "prepare.py"
    command = [sys.executable, str(tool), "folder", "--data", str(folder), "--out", str(out), "--allow-unused"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return str(out)
