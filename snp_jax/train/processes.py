"""Several processes as one run: how they find each other, wait for each other, and speak with one voice.

Every process runs the same program on its own devices; arrays, steps and checkpoints span all of them. The working directory
is on a filesystem that all share.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import traceback
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from snp_jax.errors import EXIT_USER_ERROR, UserError


def join(coordinator_address: str | None, num_processes: int | None, process_id: int | None) -> None:
    """Connects this process with the others, before anything touches a device. Alone, it does nothing.

    Args:
        coordinator_address: "host:port" of process 0; with the other two, everything is said. All None: TPU hosts (Cloud TPU
            VMs and GKE), tasks of a Slurm step and of Open MPI find each other by themselves.
        num_processes: of the run.
        process_id: this one's number, from 0.

    Raises:
        UserError: only some of the three are given, or they do not fit.
    """
    given = (coordinator_address, num_processes, process_id)
    if None not in given:
        if ":" not in coordinator_address or not 0 <= process_id < num_processes:
            raise UserError(
                f"--coordinator-address={coordinator_address} --num-processes={num_processes} --process-id={process_id}: the "
                "address is HOST:PORT, and process ids go from 0 to the number of processes - 1"
            )
        jax.distributed.initialize(*given, cluster_detection_method="deactivate")
    elif given != (None, None, None):
        raise UserError("--coordinator-address, --num-processes and --process-id belong together: give all three or none")
    elif in_cluster(os.environ):
        jax.distributed.initialize()


def in_cluster(environment: Mapping[str, str]) -> bool:
    """Whether the environment says that this process may be one of several, in a way that JAX understands."""
    if environment.get("TPU_ML_PLATFORM") == "JAX" and environment.get("JAX_PLATFORMS", "tpu") != "cpu":
        return True  # JAX sets it where it finds TPU chips
    slurm = "SLURM_STEP_NODELIST" in environment and int(environment.get("SLURM_NTASKS", "1")) > 1
    return slurm or int(environment.get("OMPI_COMM_WORLD_SIZE", "1")) > 1


def is_first() -> bool:
    """Whether this is the process that writes the run's files and talks."""
    return jax.process_index() == 0


def say(message: str) -> None:
    """Prints, once a run."""
    if is_first():
        print(message, flush=True)


@contextlib.contextmanager
def failing_at_once() -> Iterator[None]:
    """An error inside ends this process without the usual farewell, in which it would wait for the others, and they for it.

    The others end as well: with the connection to this process, or when JAX misses its heartbeats (after 100 s).
    """
    try:
        yield
    except BaseException as error:
        if not jax.distributed.is_initialized() or isinstance(error, SystemExit):
            raise
        if isinstance(error, UserError):
            print(f"error: {error}", file=sys.stderr, flush=True)
            os._exit(EXIT_USER_ERROR)
        traceback.print_exc()
        os._exit(1)


@contextlib.contextmanager
def first_before_others(name: str) -> Iterator[None]:
    """The first process does what is inside; then the others do it, and find its files."""
    several = jax.process_count() > 1
    if several and not is_first():
        multihost_utils.sync_global_devices(name)
    yield
    if several and is_first():
        multihost_utils.sync_global_devices(name)


def gather(value: Any) -> list[Any]:
    """What every process has, in order of the processes, for all of them. JSON values; all processes call it together."""
    if jax.process_count() == 1:
        return [value]
    data = np.frombuffer(json.dumps(value).encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.int32(data.size)).reshape(-1)
    padded = np.zeros(sizes.max(), np.uint8)
    padded[: data.size] = data
    rows = multihost_utils.process_allgather(padded)
    return [json.loads(row[:size].tobytes()) for row, size in zip(rows, sizes, strict=True)]
