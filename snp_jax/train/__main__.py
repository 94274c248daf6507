"""`python -m snp_jax.train --config configs/....py --workdir DIR [--config.key=value ...]`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from snp_jax.errors import run_cli
from snp_jax.xla_flags import with_collectives_in_order


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m snp_jax.train", description="Trains one experiment.", allow_abbrev=False)
    parser.add_argument("--config", required=True, help="configs/<experiment>.py; --config.key=value overrides a key")
    parser.add_argument("--workdir", type=Path, required=True, help="checkpoints, metrics and config go here")
    arguments, overrides = parser.parse_known_args()

    os.environ.update(with_collectives_in_order(os.environ))
    from snp_jax.train.config import parse_config  # after the arguments are known to be good: jax takes a second
    from snp_jax.train.loop import run

    run(parse_config(arguments.config, overrides), arguments.workdir)


if __name__ == "__main__":
    run_cli(main)
