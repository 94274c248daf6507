"""`python -m snp_jax.train --config configs/....py --workdir DIR [--config.key=value ...]`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from snp_jax.errors import EXIT_STOPPED, run_cli
from snp_jax.host_memory import keep_freed_memory
from snp_jax.xla_flags import with_collectives_in_order


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m snp_jax.train", description="Trains one experiment.", allow_abbrev=False)
    parser.add_argument("--config", required=True, help="configs/<experiment>.py; --config.key=value overrides a key")
    parser.add_argument("--workdir", type=Path, required=True, help="checkpoints, metrics and config go here")
    parser.add_argument("--profile-steps", metavar="FIRST:END", help="trace from FIRST to END updates into <workdir>/profile")
    several = parser.add_argument_group("several processes (found automatically on TPU slices, in Slurm steps and Open MPI)")
    several.add_argument("--coordinator-address", metavar="HOST:PORT", help="of process 0")
    several.add_argument("--num-processes", type=int)
    several.add_argument("--process-id", type=int)
    arguments, overrides = parser.parse_known_args()

    keep_freed_memory()
    os.environ.update(with_collectives_in_order(os.environ))
    from snp_jax.train import processes  # after the arguments are known to be good: jax takes a second
    from snp_jax.train.config import parse_config
    from snp_jax.train.loop import run
    from snp_jax.train.profiling import ProfileSteps

    profile = ProfileSteps.parse(arguments.profile_steps) if arguments.profile_steps else None
    processes.join(arguments.coordinator_address, arguments.num_processes, arguments.process_id)

    with processes.failing_at_once():
        return 0 if run(parse_config(arguments.config, overrides), arguments.workdir, profile) else EXIT_STOPPED


if __name__ == "__main__":
    run_cli(main)
