"""The shards of a large dataset written by Apache Beam instead of by processes of this machine.

The plan is the same one (`planning`), and so is the writer of a shard (`shards`), each in a process of its own that is replaced
when it dies (`workers`): Beam only spreads the shards over an engine. So the files are those that a plain preparation writes,
byte for byte, and one that was killed goes on in either way. The manual directory and the dataset's must lie where all
machines see them.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from snp_jax.data.sources import workers
from snp_jax.data.sources.shards import ShardTask
from snp_jax.errors import UserError

if TYPE_CHECKING:
    import apache_beam

MakePipeline = Callable[[], "apache_beam.Pipeline"]
_PLACES = "places.npz"
_NO_PLACES = np.zeros(0, np.uint64)


def pipeline(flags: Sequence[str]) -> apache_beam.Pipeline:
    """A pipeline with Beam's own flags: `--runner=FlinkRunner`, `--flink_master=...`; none: the DirectRunner.

    Raises:
        UserError: Beam is not installed, or there is no such runner.
    """
    try:
        import apache_beam
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError as error:
        raise UserError("Apache Beam is not installed; run pip install 'snp-jax[beam]'") from error
    try:
        # Without the runner's own arguments Beam would read this program's.
        return apache_beam.Pipeline(options=PipelineOptions(list(flags)))
    except (ValueError, ImportError, AttributeError) as error:
        raise UserError(f"--beam {' '.join(flags)}: {error}") from error


def write_shards(tasks: Sequence[ShardTask], scratch: Path, make_pipeline: MakePipeline, silent_s: float) -> None:
    """Writes all shards.

    Args:
        tasks: the shards.
        scratch: a directory that all machines see; gets a file that they read the places of their rows from (too many for the
            description of a pipeline).
        make_pipeline: see `pipeline`.
        silent_s: as in `workers.write_shards`.

    Raises:
        UserError: the pipeline failed; the shards that are complete stay.
    """
    import apache_beam

    if not tasks:
        return
    flow = make_pipeline()
    places = scratch / _PLACES
    np.savez(places, **{str(number): task.shard.places for number, task in enumerate(tasks)})
    bare = [dataclasses.replace(task, shard=dataclasses.replace(task.shard, places=_NO_PLACES)) for task in tasks]
    try:
        with flow:
            numbered = flow | "shards" >> apache_beam.Create(list(enumerate(bare)))
            # Without it an engine may fuse the steps and do all shards on one machine.
            spread = numbered | "spread" >> apache_beam.Reshuffle()
            _ = spread | "write" >> apache_beam.Map(functools.partial(_write, places=places, silent_s=silent_s))
    except Exception as error:  # whatever an engine raises
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
        raise UserError(f"the Beam pipeline failed ({reason}); run the same command again to go on") from error
    finally:
        places.unlink()


def _write(numbered: tuple[int, ShardTask], places: Path, silent_s: float) -> None:
    """Writes one shard, on any machine."""
    number, task = numbered
    with np.load(places) as file:
        task = dataclasses.replace(task, shard=dataclasses.replace(task.shard, places=file[str(number)]))
    workers.write_shards([task], jobs=1, silent_s=silent_s, progress=_silent)


def _silent(_count: int) -> None:
    """An engine shows its own progress."""
