"""What a compiled step needs and costs: one JSON-able dictionary, and the same as text.

`fits` is False, with a sentence in `why_not`, when the memory does not suffice; `failures` lists that and broken budgets.
"""

from __future__ import annotations

import importlib.metadata
from typing import Any

import jax

from snp_jax.aot import hlo
from snp_jax.aot.budgets import MIB, check_budgets
from snp_jax.aot.chips import GIB, QUICK, Topology
from snp_jax.aot.collectives import Collective, find_collectives
from snp_jax.aot.compiling import QUICK_MARGIN, Compiled, TooLarge, is_quick
from snp_jax.aot.costs import COPIES, Operation, operations
from snp_jax.aot.flops import count_flops, count_recomputed, live
from snp_jax.aot.kernels import count_cycles, kernels_in
from snp_jax.aot.program import Program
from snp_jax.train.optim import parameter_path

LARGE = 1 * MIB  # parameters that are worth naming when every device has them whole
LARGE_COPY = 16 * MIB
SHOWN = 8
Report = dict[str, Any]


def make_report(program: Program, outcome: Compiled | TooLarge, topology: Topology) -> Report:
    """Everything about one compilation; keys as in docs/scaling.md."""
    devices = program.mesh.size
    jaxpr = live(program.traced.jaxpr)
    total, again = (count(jaxpr) / devices for count in (count_flops, count_recomputed))
    report: Report = {
        "topology": topology.name,
        "devices": devices,
        "mesh": dict(program.mesh.shape),
        "step": program.name,
        "global_batch": program.examples,
        "batch_per_device": program.examples / devices,
        "optimization_level": QUICK if is_quick() else "default",
        "versions": {name: importlib.metadata.version(name) for name in ("jax", "libtpu")},
        "compile_s": outcome.seconds,
        "flops_per_device": total,
        "recomputed_flops_per_device": again,
        "replicated": _replicated(program.state),
    }
    limit = topology.chip.hbm_bytes / GIB
    if isinstance(outcome, TooLarge):
        sentence = (
            f"global batch {program.examples} does not fit {topology.name}: {program.examples / devices:g} a device need "
            f"{_gib(outcome.needed_gib)} of the {limit:g} GiB of a chip"
        )
        hbm = {"arguments": None, "temp": None, "output": None, "total": outcome.needed_gib, "limit": limit}
        return report | {"fits": False, "why_not": sentence, "compiler": outcome.message, "hbm_gib": hbm, "budgets": []}
    module = hlo.parse(outcome.text)
    found = find_collectives(module, topology.chip, devices)
    report |= {"hbm_gib": outcome.hbm_gib | {"limit": limit}, "collectives": [_collective(each) for each in found]}
    done = operations(module, topology.chip, count_cycles(kernels_in(module), topology.name))
    report |= _time(program, done, found, topology, total - again)
    report |= {"copies": _copies(module), "loops_of_unknown_length": module.unknown_loops()}
    report |= {"budgets": check_budgets(program, found)}
    sentence = _memory_sentence(report)
    return report | {"fits": sentence is None, "why_not": sentence}


def failures(report: Report) -> list[str]:
    """Sentences for everything that is wrong: memory, and budgets that are not kept."""
    return [sentence for sentence in (report["why_not"], *(each["sentence"] for each in report["budgets"])) if sentence]


def _gib(size: float | None) -> str:
    return "more than all" if size is None else f"{size:.1f} GiB"


def _memory_sentence(report: Report) -> str | None:
    """Says that a quick compilation is too near the limit; a full one that exceeds it is refused by the compiler."""
    total, limit = report["hbm_gib"]["total"], report["hbm_gib"]["limit"]
    usable = limit * (1 - QUICK_MARGIN) if report["optimization_level"] == QUICK else limit
    if total <= usable:
        return None
    return (
        f"global batch {report['global_batch']} does not fit {report['topology']} safely: {total:.2f} GiB of {limit:g} GiB, "
        f"and a compilation at level {QUICK} may show {QUICK_MARGIN:.0%} less than a full one"
    )


def _collective(each: Collective) -> dict[str, Any]:
    return {
        "kind": each.kind, "dtype": each.dtype, "group": each.group, "count": each.count, "bytes": each.bytes * each.count,
        "bytes_each": each.bytes, "source": each.source,
    }  # fmt: skip


def _replicated(state: Any) -> list[dict[str, Any]]:
    """Parameters of at least `LARGE` bytes that every device has whole, largest first."""
    leaves = jax.tree_util.tree_leaves_with_path(state)
    whole = [
        {"path": parameter_path(path), "bytes": leaf.size * leaf.dtype.itemsize}
        for path, leaf in leaves
        if leaf.sharding.is_fully_replicated and leaf.size * leaf.dtype.itemsize >= LARGE
    ]
    return sorted(whole, key=lambda each: -each["bytes"])


def _copies(module: hlo.Module) -> list[dict[str, Any]]:
    """Copies and transpositions of large arrays in HBM, costliest first."""
    found = [
        {"bytes": each.bytes * count, "count": count, "shape": [*each.shapes[0].dims], "source": each.source}
        for _, each, count in module.executed()
        if each.opcode in COPIES and each.bytes >= LARGE_COPY
    ]
    return sorted(found, key=lambda copy: -copy["bytes"])


def _time(program: Program, done: list[Operation], found: list[Collective], topology: Topology, model_flops: float) -> Report:
    """Estimates: operation by operation the larger of arithmetic and HBM traffic at the chip's peaks, and the collectives as
    if nothing ran beside them. After a full compilation the compiler's own cycles replace the former where it gives them.
    Neither is less than all HBM traffic takes, of which transfers beside other operations are a part."""
    chip = topology.chip
    traffic = sum(each.count * each.bytes for each in done)
    moving, after_another = traffic / chip.hbm_bandwidth, [each for each in done if not each.beside]
    roofline = max(sum(each.count * each.seconds for each in after_another), moving)
    computing = sum(each.count * each.seconds for each in after_another if each.compute_bound)
    sending = sum(each.count * each.seconds for each in found)
    by_compiler = None
    if not is_quick():
        cycles = (each.count * (each.cycles / chip.clock if each.cycles else each.seconds) for each in after_another)
        by_compiler = max(sum(cycles), moving)
    step = (roofline if by_compiler is None else by_compiler) + sending
    slowest = sorted(after_another, key=lambda each: -each.count * each.seconds)[:SHOWN]
    return {
        "estimated_step_s": step,
        "estimate": {
            "from": "roofline of each operation" if by_compiler is None else "the compiler's cycles of each operation",
            "roofline_s": roofline,
            "compiler_s": by_compiler,
            "compute_bound_s": computing,
            "memory_bound_s": roofline - computing,
            "collectives_s": sending,
            "flops_at_peak_s": sum(each.count * each.flops for each in done) / chip.flops,
            "hbm_bytes": traffic,
            "hlo_flops": sum(each.count * each.flops for each in done),
        },
        "examples_per_s": program.examples / step,
        "mfu": model_flops / chip.flops / step,
        "slowest": [
            {
                "seconds": each.count * each.seconds, "count": each.count, "flops": each.flops, "bytes": each.bytes,
                "source": each.source or each.name,
            }
            for each in slowest
        ],
    }  # fmt: skip


def format_report(report: Report) -> str:
    """The report as text for a person."""
    mesh = " x ".join(f"{axis} {size}" for axis, size in report["mesh"].items())
    lines = [
        f"{report['step']} step, global batch {report['global_batch']} ({report['batch_per_device']:g} a device), "
        f"{report['topology']}: {report['devices']} chips as {mesh}; compiled in {report['compile_s']:.0f} s at level "
        f"{report['optimization_level']}",
    ]
    memory = report["hbm_gib"]
    if memory["arguments"] is not None:
        lines.append(
            f"HBM      {memory['total']:.2f} of {memory['limit']:g} GiB (arguments {memory['arguments']:.2f}, temporaries "
            f"{memory['temp']:.2f}, output {memory['output']:.2f})"
        )
    if "tried" in report:
        lines.append("tried    " + ", ".join(f"{each['global_batch']} ({_outcome(each)})" for each in report["tried"]))
    again = report["recomputed_flops_per_device"] / report["flops_per_device"]
    lines.append(f"flops    {report['flops_per_device']:.3g} a device, {again:.0%} of them computed a second time")
    if "estimate" in report:
        lines += _format_time(report)
    whole = sum(each["bytes"] for each in report["replicated"])
    lines.append(f"whole    {len(report['replicated'])} arrays of state, {whole / MIB:.0f} MiB, are on every device")
    for budget in report["budgets"]:
        lines.append(f"budget   {budget['name']}: {budget['found_mib']:.1f} of {budget['limit_mib']:.1f} MiB")
    return "\n".join(lines)


def _outcome(tried: dict[str, Any]) -> str:
    return f"{tried['examples_per_s']:.0f} examples a second" if tried["fits"] else "does not fit"


def _format_time(report: Report) -> list[str]:
    estimate = report["estimate"]
    lines = [
        f"estimate {report['estimated_step_s']:.4f} s a step ({estimate['from']}; no measurement), "
        f"{report['examples_per_s']:.0f} examples a second, MFU {report['mfu']:.1%}",
        f"         bound by arithmetic {estimate['compute_bound_s']:.4f} s, by HBM {estimate['memory_bound_s']:.4f} s, "
        f"collectives {estimate['collectives_s']:.4f} s",
    ]
    for each in report["collectives"][:SHOWN]:
        lines.append(
            f"  {each['kind']:<18} x{each['count']:<5} {each['bytes'] / MIB:9.1f} MiB {each['dtype']} over {each['group']} "
            f"{each['source'][-60:]}"
        )
    for each in report["copies"][:SHOWN]:
        lines.append(f"  copy               x{each['count']:<5} {each['bytes'] / MIB:9.1f} MiB {each['source'][-60:]}")
    for each in report["slowest"]:
        lines.append(f"  {each['seconds'] * 1e3:8.3f} ms x{each['count']:<5} {each['source'][-80:]}")
    return lines
