"""Flags that XLA reads once, when JAX first runs. Imports no JAX."""

from __future__ import annotations

from collections.abc import Mapping

DEVICES = "--xla_force_host_platform_device_count"
IN_ORDER = "--xla_cpu_enable_concurrency_optimized_scheduler=false"
"""Without it, several virtual CPU devices can enter different collectives of one program and wait for each other for ever."""


def with_virtual_devices(environment: Mapping[str, str], devices: int) -> dict[str, str]:
    """An environment in which JAX sees this many CPU devices and nothing else."""
    flags = f"{environment.get('XLA_FLAGS', '')} {DEVICES}={devices}".strip()
    return with_collectives_in_order({**environment, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags})


def with_collectives_in_order(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment with `IN_ORDER` where XLA is asked for virtual devices, unless it says itself how it schedules."""
    flags = environment.get("XLA_FLAGS", "")
    if DEVICES not in flags or IN_ORDER.split("=")[0] in flags:
        return dict(environment)
    return {**environment, "XLA_FLAGS": f"{flags} {IN_ORDER}"}
