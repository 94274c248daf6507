"""Runs a training command as several processes on this machine, each with several virtual CPU devices.

    python tools/launch_local.py --processes 2 --devices 4 -- python -m snp_jax.train --config C --workdir W

What a TPU slice or a cluster does, for trying it out: the same program, collectives between processes, checkpoints of all.
The first process compiles for all: half the work on one machine, and nobody waits in vain (XLA's CPU collectives give up after
30 s). Ctrl-C and SIGTERM reach every process. The exit code is that of the first process that fails.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
import tempfile

from snp_jax.children import run_together
from snp_jax.errors import UserError, run_cli
from snp_jax.xla_flags import with_virtual_devices


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, required=True, metavar="N")
    parser.add_argument("--devices", type=int, default=1, metavar="M", help="virtual devices in each process")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="-- python -m snp_jax.train ...")
    options = parser.parse_args()
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not command:
        raise UserError("no command: write it after --, for example -- python -m snp_jax.train --config C --workdir W")
    if min(options.processes, options.devices) < 1:
        raise UserError("--processes and --devices must be at least 1")
    if command[0] == "python":
        command[0] = sys.executable
    environment = with_virtual_devices(os.environ, options.devices)
    if options.processes == 1:
        return run_together([command], environment)
    joint = ["--coordinator-address", f"localhost:{free_port()}", "--num-processes", str(options.processes)]
    with tempfile.TemporaryDirectory() as cache:  # one compiles for all, which works through a cache
        environment = {"JAX_COMPILATION_CACHE_DIR": cache, **environment, "JAX_SHARE_BINARY_BETWEEN_HOSTS": "true"}
        return run_together([[*command, *joint, "--process-id", str(i)] for i in range(options.processes)], environment)


if __name__ == "__main__":
    run_cli(main)
