"""Prepares a dataset: plan, shards, and the directory under its name once it is complete.

Everything is written beside the final place, in `.NAME.part`, and renamed at the end, so a directory with that name
is always whole. A preparation that was killed goes on with the shards that are missing; what comes out does not
depend on how often that happened, nor on the number of processes.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import tensorflow_datasets as tfds
from tqdm import tqdm

from snp_jax.data.decode import Limits
from snp_jax.data.sources import beam, shards, workers
from snp_jax.data.sources.picture_sizes import sizes_content, sizes_file
from snp_jax.data.sources.planning import Plan, make_plan
from snp_jax.data.sources.prepared import (
    BROKEN_FILE,
    MISSING_FILE,
    PREPARED_FILE,
    SplitSummary,
    prepared_fingerprint,
)
from snp_jax.data.sources.reencode import Encoding
from snp_jax.data.sources.rows import Reading
from snp_jax.errors import UserError

_DATA = "data"
_FINGERPRINT = "fingerprint"
_LOCK = "lock"
_GRACE_S = 60.0  # for reading a file from a slow disk, on top of what decoding may take
_ENCODING_BUDGETS = 20  # decoding budgets that encoding a video may take


@dataclasses.dataclass(frozen=True)
class Options:
    """How a dataset is prepared.

    Attributes:
        jobs: worker processes.
        beam: makes the Apache Beam pipeline that writes the shards; None: the worker processes do.
        allow_missing: go on when files or annotations are missing.
        reencode: store small files that seek fast (see `reencode`); None: the original bytes.
        limits: what one file may cost; beyond that it is stored and counted as broken.
    """

    jobs: int = 2
    beam: beam.MakePipeline | None = None
    allow_missing: bool = False
    reencode: Encoding | None = None
    limits: Limits = Limits()

    @property
    def settings(self) -> str:
        """What of this decides the result."""
        return self.reencode.settings if self.reencode else ""


def prepare(reading: Reading, builder: tfds.core.DatasetBuilder, out: str | Path, options: Options) -> bool:
    """Prepares a dataset, all or nothing, or goes on with a preparation that was killed.

    Args:
        reading: the dataset.
        builder: lends its name and its metadata; its own directories are not used.
        out: a directory that does not exist yet, or holds this dataset already.
        options: see there.

    Returns:
        False if the dataset was there already.

    Raises:
        UserError: `out` holds something else, cannot be written, or another process is preparing it; or the dataset is not
        complete.
    """
    out = Path(out).absolute()
    scratch = out.with_name(f".{out.name}.part")
    there = prepared_fingerprint(out)
    with _errors_of(out), _locked(scratch):
        try:
            plan = _plan(reading, scratch, options)
            if there is None:
                build(plan, reading, builder, _resumed(scratch, plan), options)
                if out.is_dir():
                    out.rmdir()
                os.rename(scratch / _DATA, out)
        except UserError:
            if not (scratch / _DATA).exists():
                shutil.rmtree(scratch)  # nothing that a later attempt could go on from
            raise
        if there not in (None, plan.fingerprint):
            shutil.rmtree(scratch)
            raise UserError(f"{out}: holds a dataset made from other data; delete it or choose another --out")
        shutil.rmtree(scratch)
    return there is None


def build(plan: Plan, reading: Reading, builder: tfds.core.DatasetBuilder, directory: Path, options: Options) -> None:
    """Writes the shards that `directory` lacks, then the files that describe the dataset."""
    tasks = {split: _tasks(plan, split, builder, directory, options) for split in plan.shards}
    for part in directory.glob(f"*{shards.PART_SUFFIX}"):
        part.unlink()
    everything = [task for split_tasks in tasks.values() for task in split_tasks]
    missing = [task for task in everything if shards.counts_of(task.path) is None]
    done = plan.examples - sum(map(len, missing))
    silent_s = options.limits.budget_s * (_ENCODING_BUDGETS + 1 if options.reencode else 1) + _GRACE_S
    if options.beam is not None:
        beam.write_shards(missing, plan.rows_file.parent, options.beam, silent_s)
    else:
        with tqdm(total=plan.examples, initial=done, desc="storing", unit="file") as bar:
            workers.write_shards(missing, jobs=options.jobs, silent_s=silent_s, progress=bar.update)
    counts = {split: [_required(task.path) for task in split_tasks] for split, split_tasks in tasks.items()}
    _describe(plan, reading, builder, directory, counts)
    for task in everything:
        task.path.with_name(task.path.name + shards.COUNTS_SUFFIX).unlink()


def _plan(reading: Reading, scratch: Path, options: Options) -> Plan:
    with tqdm(desc="reading annotations", unit="example") as bar:
        return make_plan(reading, scratch, allow_missing=options.allow_missing, settings=options.settings, progress=bar.update)


def _resumed(scratch: Path, plan: Plan) -> Path:
    """The directory for the data; what is in there from an attempt with other data is removed."""
    data, mark = scratch / _DATA, scratch / _FINGERPRINT
    if data.exists() and not (mark.exists() and mark.read_text() == plan.fingerprint):
        shutil.rmtree(data)
    if not data.exists():
        mark.write_text(plan.fingerprint)
        data.mkdir()
    return data


def _tasks(
    plan: Plan, split: str, builder: tfds.core.DatasetBuilder, directory: Path, options: Options
) -> list[shards.ShardTask]:
    template = _template(builder, split, directory)
    return [
        shards.ShardTask(
            shard=shard,
            rows_file=plan.rows_file,
            path=Path(template.sharded_filepath(shard_index=shard.index, num_shards=shard.count)),
            limits=options.limits,
            encoding=options.reencode,
            encode_budget_s=options.limits.budget_s * _ENCODING_BUDGETS,
        )
        for shard in plan.shards[split]
    ]


def _template(builder: tfds.core.DatasetBuilder, split: str, directory: Path) -> tfds.core.ShardedFileTemplate:
    return tfds.core.ShardedFileTemplate(
        data_dir=directory, dataset_name=builder.name, split=split, filetype_suffix="array_record"
    )


def _required(path: Path) -> shards.ShardCounts:
    counts = shards.counts_of(path)
    if counts is None:
        raise UserError(f"{path}: has vanished while the dataset was prepared; run the same command again")
    return counts


def _describe(
    plan: Plan,
    reading: Reading,
    builder: tfds.core.DatasetBuilder,
    directory: Path,
    counts: dict[str, list[shards.ShardCounts]],
) -> None:
    """Writes TFDS's metadata and the project's own files."""
    builder.info.set_splits(
        tfds.core.SplitDict(
            [
                tfds.core.SplitInfo(
                    name=split,
                    shard_lengths=[count.videos for count in split_counts],
                    num_bytes=sum(count.file_bytes for count in split_counts),
                    filename_template=_template(builder, split, directory),
                )
                for split, split_counts in counts.items()
            ]
        )
    )
    builder.info.write_to_directory(directory)
    absent = collections.Counter(entry.split for entry in plan.absent)
    prepared = {
        "name": reading.name,
        "fingerprint": plan.fingerprint,
        "splits": {split: dataclasses.asdict(_summary(split_counts, absent[split])) for split, split_counts in counts.items()},
        "notes": list(plan.notes),
    }
    _write_lines(directory / MISSING_FILE, [dataclasses.asdict(entry) for entry in plan.absent])
    broken = [
        {"split": split, "video_id": video_id, "reason": reason}
        for split, split_counts in counts.items()
        for count in split_counts
        for video_id, reason in count.broken
    ]
    _write_lines(directory / BROKEN_FILE, broken)
    for split, split_counts in counts.items():
        sizes = [size for count in split_counts for size in count.sizes]
        sizes_file(directory, split).write_bytes(sizes_content(sizes))
    for name, content in reading.files.items():
        (directory / name).write_bytes(content)
    (directory / PREPARED_FILE).write_text(json.dumps(prepared, indent=2) + "\n", encoding="utf-8")


def _summary(counts: list[shards.ShardCounts], absent: int) -> SplitSummary:
    def total(name: str) -> int:
        return sum(getattr(count, name) for count in counts)

    reasons = collections.Counter(reason.partition(":")[0] for count in counts for _, reason in count.broken)
    added = ("videos", "captions", "questions", "choices", "with_captions", "with_questions", "bytes", "images", "seconds")
    return SplitSummary(
        **{name: total(name) for name in added},
        unreadable=sum(reasons.values()),
        missing=absent,
        broken=dict(sorted(reasons.items())),
    )


def _write_lines(path: Path, entries: list[dict[str, str]]) -> None:
    if entries:
        path.write_text("".join(json.dumps(entry) + "\n" for entry in entries), encoding="utf-8")


@contextlib.contextmanager
def _errors_of(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror if error.filename is None else f"{error.strerror}: {error.filename}"
        raise UserError(
            f"{out}: the dataset cannot be prepared ({reason}); mend that and run the same command again"
        ) from error


@contextlib.contextmanager
def _locked(scratch: Path) -> Iterator[None]:
    """Makes the scratch directory and keeps other preparations out of it."""
    scratch.mkdir(parents=True, exist_ok=True)
    with (scratch / _LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{scratch}: another process is preparing this dataset; wait for it, or end it") from None
        yield
