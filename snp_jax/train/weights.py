"""Foreign weights as checkpoints of ours, and back: what tools/convert.py does.

Reading and naming is `snp_jax/convert`; here a config's model is compared with what was read, and the result is written in one
step, so that an error leaves nothing behind. A converted checkpoint is a folder `params/` (as in a run's checkpoints) with
`convert.json` (where it came from) and, where the file had arrays that no model of ours needs, `leftovers.safetensors`: with
them an export gives the file back bit for bit.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from snp_jax.convert import antmmf
from snp_jax.convert.files import State, read_state, write_state
from snp_jax.convert.formats import FORMATS, Imported, load
from snp_jax.convert.resize import RELATIVE, fit_to
from snp_jax.convert.rules import invert
from snp_jax.errors import UserError
from snp_jax.models.video_swin import VideoSwinConfig
from snp_jax.train import build, inputs
from snp_jax.train.checkpoints import DIRECTORY, find_checkpoint, load_arrays, save_params
from snp_jax.train.config import load_config, of_this_version
from snp_jax.train.loop import CONFIG
from snp_jax.train.state import init_params

ORIGIN, LEFTOVERS = "convert.json", "leftovers.safetensors"
WORD_POSITIONS = "embeddings/position/embedding"
BERT_SEP = 102
"""[SEP] in BERT's uncased vocabulary; no shape depends on it."""


class Vocabulary(NamedTuple):
    """All that a model's shapes need of a tokeniser."""

    vocab_size: int
    sep_id: int = BERT_SEP


def import_weights(
    kind: str, source: Path, destination: Path, *, config: ConfigDict | None, resize: bool, partial: bool
) -> Imported:
    """Converts a foreign file to a checkpoint.

    Args:
        kind: a key of `convert.formats.FORMATS`.
        destination: a folder that does not exist yet.
        config: the experiment that the weights are for: each converted part has to fit its model.
        resize: fit position tables and relative-position tables of other lengths to `config`.
        partial: accept a file that lacks some arrays.

    Raises:
        UserError: unreadable or unfit file, or `destination` exists. Nothing is left there.
    """
    if destination.exists():
        raise UserError(f"{destination} exists: name a new folder for the checkpoint")
    imported = load(kind, source, partial=partial)
    if config is not None:
        imported = _fit(imported, config, resize=resize)
    destination.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=destination.parent, prefix=f".{destination.name}."))
    try:
        ready = temporary / destination.name
        save_params(ready, imported.params)
        if imported.unused:
            write_state(ready / LEFTOVERS, imported.unused, {})
        origin = {"format": kind, "source": source.name, "sizes": imported.sizes, "missing": imported.missing}
        (ready / ORIGIN).write_text(json.dumps(origin, indent=2) + "\n")
        ready.rename(destination)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return imported


def _fit(imported: Imported, config: ConfigDict, *, resize: bool) -> Imported:
    flat = flatten_dict(imported.params, sep="/")
    words = flat.get("embeddings/word/embedding")
    shapes = model_shapes(config, Vocabulary(2 * BERT_SEP if words is None else len(words)))
    visual = build.build_visual(config)
    window = visual.window if isinstance(visual, VideoSwinConfig) else None
    params, resized = fit_to(imported.params, shapes, window, allow=resize)
    sizes = dict(imported.sizes)
    if any(change.path == WORD_POSITIONS for change in resized):
        sizes["bert"] = sizes["bert"] | {"max_positions": config.model.bert.max_positions}
    if any(change.path.endswith(RELATIVE) for change in resized):
        sizes["visual"] = sizes["visual"] | {"window": window}
    return dataclasses.replace(imported, params=params, sizes=sizes, resized=tuple(resized))


def model_shapes(config: ConfigDict, vocabulary: Vocabulary) -> dict[str, tuple[int, ...]]:
    """Shape by path of the parameters of a config's model, without memory."""
    model = build.build_model(config, vocabulary)
    shapes = jax.eval_shape(lambda: init_params(model, jax.random.key(0), spec=inputs.clip_spec(config)))
    return {path: tuple(leaf.shape) for path, leaf in flatten_dict(shapes, sep="/").items()}


def export_weights(source: Path, destination: Path) -> State:
    """Writes a checkpoint as a safetensors file with foreign names.

    A run's checkpoint gets the names of the SNP-S3 release; a converted one those of the file it came from, leftovers included.

    Raises:
        UserError: no checkpoint there, `destination` exists, or a parameter that the names need is not there.
    """
    if destination.exists():
        raise UserError(f"{destination} exists: name a new file")
    checkpoint = find_checkpoint(source)
    params = load_arrays(checkpoint)
    state = _converted_state(checkpoint, params) if (checkpoint / ORIGIN).is_file() else _run_state(checkpoint, params)
    destination.parent.mkdir(parents=True, exist_ok=True)
    write_state(destination, state, {"format": "pt"})
    return state


def _converted_state(checkpoint: Path, params: Any) -> State:
    """The file that a converted checkpoint came from."""
    origin = json.loads((checkpoint / ORIGIN).read_text())
    rules, missing = FORMATS[origin["format"]].rules(origin["sizes"]), set(origin["missing"])
    state = invert({name: rule for name, rule in rules.items() if name not in missing}, params)
    if (checkpoint / LEFTOVERS).is_file():
        state |= read_state(checkpoint / LEFTOVERS)
    return antmmf.expand(state) if origin["format"] == "antmmf" else state


def _run_state(checkpoint: Path, params: Any) -> State:
    """What the release would have saved of a run trained here."""
    workdir = checkpoint.parent.parent if checkpoint.parent.name == DIRECTORY else checkpoint.parent
    config = load_config(workdir / CONFIG)
    words = np.shape(params["embeddings"]["word"]["embedding"])[0]
    with of_this_version(workdir / CONFIG):
        model = build.build_model(config, Vocabulary(words))
    pretraining = config.task == "pretrain"
    release = antmmf.Release(model.config, "model." if pretraining else "", pretraining, config.task != "qa")
    state = invert(antmmf.map_release(release), params)
    return antmmf.expand(state | antmmf.unlearnt(release))


def describe(imported: Imported) -> str:
    """Everything that a reader of the import should know, a line each."""
    sizes: dict[str, int] = {}
    for path, array in flatten_dict(imported.params, sep="/").items():
        part = path.split("/")[0]
        sizes[part] = sizes.get(part, 0) + array.size
    lines = [f"{part}: {size:,} parameters" for part, size in sizes.items()]
    lines += imported.notes
    lines += [f"resized {r.path}: {r.before} -> {r.after}, {r.how}" for r in imported.resized]
    lines += [f"unused: {name} {tuple(array.shape)}" for name, array in sorted(imported.unused.items())]
    lines += [f"missing: {name}" for name in imported.missing]
    return "\n".join(lines)
