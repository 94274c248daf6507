"""Runs a training command as several processes on this machine, each with several virtual CPU devices.

    python tools/launch_local.py --processes 2 --devices 4 -- python -m snp_jax.train --config C --workdir W

What a TPU slice or a cluster does, for trying it out: the same program, collectives between processes, checkpoints of all.
Ctrl-C and SIGTERM reach every process. The exit code is that of the first process that fails.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys

from snp_jax.children import run_together
from snp_jax.errors import UserError, run_cli

SCHEDULER = "--xla_cpu_enable_concurrency_optimized_scheduler=false"
"""Without it, XLA's CPU backend can start the collectives of several devices in different orders, and deadlock."""


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
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={options.devices} {SCHEDULER}"
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags.strip()}
    if options.processes == 1:
        return run_together([command], environment)
    joint = ["--coordinator-address", f"localhost:{free_port()}", "--num-processes", str(options.processes)]
    return run_together([[*command, *joint, "--process-id", str(i)] for i in range(options.processes)], environment)


if __name__ == "__main__":
    run_cli(main)
