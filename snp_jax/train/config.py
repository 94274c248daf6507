"""Reads an experiment's config file and its `--config.key=value` overrides, and stores the resolved result.

A config is a Python file with `get_config(arg=None) -> ml_collections.ConfigDict`; `path.py:quick` passes "quick" as `arg`.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import ml_collections
from absl import flags
from ml_collections import config_flags

from snp_jax.data.corpus_files import write_atomically
from snp_jax.errors import UserError


def parse_config(path: str, overrides: Sequence[str]) -> ml_collections.ConfigDict:
    """Resolves a config file and its overrides.

    Args:
        path: `configs/toy/pretrain.py`, or `configs/toy/pretrain.py:quick`.
        overrides: `["--config.optim.learning_rate=1e-3", ...]`.

    Raises:
        UserError: the file does not exist, a key is not in it (with the nearest that is), or a value has the wrong type.
    """
    file = Path(path.split(":", 1)[0])
    if not file.is_file():
        raise UserError(f"config file {file} does not exist")
    holder = flags.FlagValues()
    arguments = ["snp_jax", f"--config={path}", *overrides]
    config_flags.DEFINE_config_file("config", flag_values=holder, sys_argv=arguments)
    try:
        rest = holder(arguments)
    except (flags.Error, TypeError, ValueError, KeyError, AttributeError) as error:
        raise UserError(f"{file}: {' '.join(str(error).split())}") from error
    if rest[1:]:
        raise UserError(f"unknown argument {rest[1]!r}: overrides are written --config.<key>=<value>")
    return holder["config"].value


def save_config(config: ml_collections.ConfigDict, path: Path) -> None:
    """Writes the resolved config as JSON, all of it or nothing."""
    write_atomically(path, (json.dumps(config.to_dict(), indent=2, sort_keys=True) + "\n").encode())


def load_config(path: Path) -> ml_collections.ConfigDict:
    """Reads what `save_config` wrote.

    Raises:
        UserError: the file is missing or is no JSON.
    """
    try:
        config = ml_collections.ConfigDict(json.loads(path.read_text()))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: {path.parent} is not the working directory of a run") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: {error}; the file is damaged") from None
    config.lock()
    return config


@contextlib.contextmanager
def of_this_version(file: Path) -> Iterator[None]:
    """Says in one sentence that a run's config lacks a key that the code inside reads, or has one that it does not know."""
    try:
        yield
    except (AttributeError, KeyError, TypeError) as error:
        key = re.findall(r"'(\w+)'", str(error))
        raise UserError(
            f"{file} was written by another version of snp-jax: it and this version differ in the key "
            f"{key[-1] if key else error!r}; use the version that trained the run, or train it again"
        ) from error
    except UserError as error:
        raise UserError(f"{file}: {error}; if another version of snp-jax wrote it, use that version, or train again") from error
