"""Starts a model from one or several checkpoints: BERT from one, the visual encoder from another, or all of another run.

A part is what the first component of a parameter path names ("encoder", "visual", "match_fc1"). Parts come whole: the first
source that has a part gives it, and has to have exactly the model's parameters of it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from snp_jax.errors import UserError
from snp_jax.train.checkpoints import find_checkpoint, load_subset, saved_shapes

COPIED = {"cross_pooler": "pooler"}
"""Parts that start as a copy of another one where no source has them (SNP-S3 section III-A)."""

Shapes = Mapping[str, tuple[int, ...]]


@dataclasses.dataclass(frozen=True)
class Origins:
    """What comes from where.

    Attributes:
        source: part -> index of the source it is loaded from.
        copied: part -> the loaded part it starts as a copy of.
        fresh: parts that keep their fresh values.
        unused: for each source its parts that are not loaded.
    """

    source: dict[str, int]
    copied: dict[str, str]
    fresh: list[str]
    unused: list[list[str]]

    def describe(self, names: Sequence[str]) -> str:
        """The lines that a run prints."""
        lines = []
        for index, name in enumerate(names):
            loaded = [part for part, source in self.source.items() if source == index]
            rest = f"; not used: {', '.join(self.unused[index])}" if self.unused[index] else ""
            lines.append(f"from {name}: {', '.join(loaded)}{rest}")
        lines += [f"{part}: a copy of {other}" for part, other in self.copied.items()]
        if self.fresh:
            lines.append(f"fresh: {', '.join(self.fresh)}")
        return "\n".join(lines)


def choose_origins(sources: Mapping[str, Shapes], wanted: Shapes, *, fresh: tuple[str, ...]) -> Origins:
    """Decides which source gives which part.

    Args:
        sources: shapes by parameter path, by the source's name, best first.
        wanted: the model's.
        fresh: path prefixes that belong to one task only (the answer head): never loaded.

    Raises:
        UserError: a source's part has other parameters than the model's, or a source gives nothing.
    """
    parts = list(dict.fromkeys(path.split("/")[0] for path in wanted))
    own = [part for part in parts if f"{part}/".startswith(fresh)]
    chosen: dict[str, int] = {}
    unused = []
    for index, (name, shapes) in enumerate(sources.items()):
        held = list(dict.fromkeys(path.split("/")[0] for path in shapes))
        loaded = [part for part in held if part in parts and part not in own and part not in chosen]
        for part in loaded:
            _check_part(name, part, shapes, wanted)
            chosen[part] = index
        unused.append([part for part in held if part not in loaded])
        if not loaded:
            raise UserError(f"config.train.init_from: {name} gives nothing that the model has and no earlier source gives")
    copied = {part: other for part, other in COPIED.items() if part in parts and part not in chosen and other in chosen}
    return Origins(chosen, copied, [part for part in parts if part not in chosen and part not in copied], unused)


def _check_part(source: str, part: str, shapes: Shapes, wanted: Shapes) -> None:
    theirs = {path: tuple(shape) for path, shape in shapes.items() if path.split("/")[0] == part}
    ours = {path: tuple(shape) for path, shape in wanted.items() if path.split("/")[0] == part}
    for path in sorted(theirs.keys() & ours.keys()):
        if theirs[path] != ours[path]:
            raise UserError(
                f"config.train.init_from: {source} is of another model: parameter {path} is {theirs[path]} there and "
                f"{ours[path]} in the config; use the config it was made with (tools/convert.py --resize fits position tables)"
            )
    for names, where in ((ours.keys() - theirs.keys(), "missing from"), (theirs.keys() - ours.keys(), "only in")):
        if names:
            raise UserError(
                f"config.train.init_from: {source} is of another model: {len(names)} parameters of {part!r} are {where} it, "
                f"for example {min(names)}; use the config it was made with"
            )


def warm_start(
    paths: Sequence[Path], abstract: Any, make: Callable[[Sequence[str]], dict[str, Any]], *, fresh: tuple[str, ...]
) -> tuple[Any, str]:
    """Starts a model from checkpoints. Only what no checkpoint has is made anew.

    Args:
        paths: working directories of runs, their checkpoints, or outputs of tools/convert.py; the best first.
        abstract: the model's parameters as shapes, with the shardings they will have.
        make: parts -> fresh parameters of these parts.
        fresh: see `choose_origins`.

    Returns:
        (parameters, what came from where in a few lines).

    Raises:
        UserError: no checkpoint there, or it does not fit the model.
    """
    checkpoints = [find_checkpoint(path) for path in paths]
    shapes = flatten_dict(abstract, sep="/")
    wanted = {path: tuple(leaf.shape) for path, leaf in shapes.items()}
    sources = {str(path): saved_shapes(checkpoint) for path, checkpoint in zip(paths, checkpoints, strict=True)}
    origins = choose_origins(sources, wanted, fresh=fresh)
    started = make(origins.fresh)
    for index, checkpoint in enumerate(checkpoints):
        given = {path: leaf for path, leaf in shapes.items() if origins.source.get(path.split("/")[0]) == index}
        started |= load_subset(checkpoint, unflatten_dict(given, sep="/"))
    for part, other in origins.copied.items():
        started[part] = jax.tree.map(jnp.copy, started[other])
    return started, origins.describe(list(sources))
