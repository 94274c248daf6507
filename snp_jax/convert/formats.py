"""The foreign kinds of weights that can be imported, and what each needs besides its name map: cleaning, sizes, checks.

`load` gives parameters in our layout with a report; files are read in `files`, our checkpoints written in `train/checkpoints`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from snp_jax.convert import antmmf
from snp_jax.convert.bert import map_bert
from snp_jax.convert.files import State, find_weights, read_state
from snp_jax.convert.pvt import map_pvt
from snp_jax.convert.resize import Resized
from snp_jax.convert.resnet import map_resnet
from snp_jax.convert.rules import Rules, apply, nest
from snp_jax.convert.sizes import VISUAL_SIZES, bert_from_json, bert_sizes, to_json, visual_from_json
from snp_jax.convert.video_swin import inflate, map_video_swin
from snp_jax.errors import UserError

HALF = (np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16), np.dtype(np.float64))
"""Number types that are stored as float32 here."""


@dataclasses.dataclass(frozen=True)
class Foreign:
    """A cleaned file of one kind, ready for its rules.

    Attributes:
        rules: name map, with our paths.
        state: arrays under the names of `rules`.
        sizes: what `rules` was made from, so that export can make it again.
        notes: what the cleaning did, one line each.
        optional: foreign names that such files often lack.
    """

    rules: Rules
    state: State
    sizes: dict[str, Any]
    notes: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Imported:
    """Converted weights.

    Attributes:
        params: nested float32 parameters, whole parts of the model.
        sizes: `Foreign.sizes`.
        unused: arrays of the file that no parameter needs, by name.
        missing: names that the file lacks although its model has them.
        notes: what was done to the names and numbers.
        resized: tables that were fitted to a config.
    """

    params: dict[str, Any]
    sizes: dict[str, Any]
    unused: State
    missing: list[str]
    notes: tuple[str, ...]
    resized: tuple[Resized, ...] = ()


def load(kind: str, source: Path, *, partial: bool = False) -> Imported:
    """Reads a foreign file.

    Args:
        kind: a key of `FORMATS`.
        source: the file, or the folder that `transformers` saved.
        partial: accept a file that lacks some arrays of its model.

    Raises:
        UserError: unreadable, not of this kind, wrong shapes, or arrays are missing and `partial` is not set.
    """
    state, halves = read_state(source), []
    for name, array in state.items():
        if array.dtype in HALF:
            halves.append(str(array.dtype))
            state[name] = array.astype(np.float32)
    try:
        foreign = FORMATS[kind].read(state, source)
        applied = apply(foreign.rules, foreign.state, source=str(source))
    except UserError as error:
        message = str(error)
        raise UserError(message if str(source) in message else f"{source}, read as {kind}: {message}") from None
    lacking = [name for name in applied.missing if name not in foreign.optional]
    if lacking and not partial:
        shown = ", ".join(lacking[:5]) + (", ..." if len(lacking) > 5 else "")
        raise UserError(
            f"{source}, read as {kind}: lacks {len(lacking)} of {len(foreign.rules)} arrays ({shown}): damaged, renamed "
            "or of another kind; --partial imports what is there"
        )
    if halves:
        foreign = dataclasses.replace(foreign, notes=(*foreign.notes, f"{len(halves)} {halves[0]} arrays stored as float32"))
    unused = {name: foreign.state[name] for name in applied.unused}
    return Imported(applied.params, foreign.sizes, unused, applied.missing, foreign.notes)


# ---------------------------------------------------------------------- kinds
@dataclasses.dataclass(frozen=True)
class Format:
    """How files of one kind are read, and how the rules are made again from the sizes."""

    read: Callable[[State, Path], Foreign]
    rules: Callable[[Mapping[str, Any]], Rules]


def anchored(state: State, ending: str) -> str:
    """What precedes `ending` in the one name that ends with it: the prefix of all names of that network.

    Raises:
        UserError: no name ends so, or several do.
    """
    prefixes = sorted(name.removesuffix(ending) for name in state if name.endswith(ending))
    if len(prefixes) != 1:
        first = ", ".join(sorted(state)[:3])
        raise UserError(f"{len(prefixes)} names end in {ending!r}, expected one; the file's names start with {first}")
    return prefixes[0]


def _read_bert(state: State, source: Path) -> Foreign:
    """A BERT of `transformers`, alone or inside a model with heads; old files call scale and offset gamma and beta."""
    old = [name for name in state if name.endswith(("LayerNorm.gamma", "LayerNorm.beta"))]
    notes = (f"{len(old)} names with gamma or beta read as weight and bias",) if old else ()
    state = {_modern(name): array for name, array in state.items()}
    prefix = anchored(state, "embeddings.word_embeddings.weight")
    if prefix not in ("", "bert."):
        raise UserError(f"the names start with {prefix!r}: not a BERT but a relative of it, whose numbers mean other things")
    heads = _check_settings(find_weights(source).with_name("config.json"))
    config = bert_sizes(state, prefix, heads or 1)
    optional = tuple(f"{prefix}pooler.dense.{part}" for part in ("weight", "bias"))
    return Foreign(map_bert(config, prefix), state, {"prefix": prefix, "bert": to_json(config)}, notes, optional)


def _modern(name: str) -> str:
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")


def _check_settings(file: Path) -> int | None:
    """The heads in the config.json beside a file of `transformers`; None without one.

    Raises:
        UserError: it describes another computation than ours.
    """
    if not file.is_file():
        return None
    try:
        settings = json.loads(file.read_text())
    except ValueError as error:
        raise UserError(f"{file}: {error}") from None
    expected = {"model_type": "bert", "hidden_act": "gelu", "position_embedding_type": "absolute", "layer_norm_eps": 1e-12}
    for key, value in expected.items():
        if settings.get(key) not in (None, value):
            raise UserError(f"{file}: {key} is {settings[key]!r}, only {value!r} is implemented")
    return settings.get("num_attention_heads")


def _visual(kind: str, ending: str) -> Format:
    """A visual encoder alone; `ending` is a name that each such file has once, after its prefix."""
    make_rules = VISUAL_MAPS[kind]

    def read(state: State, source: Path) -> Foreign:
        prefix, notes = anchored(state, ending), ()
        if kind == "video_swin" and state[prefix + ending].ndim == 4:
            state, notes = inflate(state), ("a Swin of pictures: kernel and bias tables repeated along time",)
        config = VISUAL_SIZES[kind](state, prefix)
        return Foreign(nest(make_rules(config, prefix), "visual"), state, {"prefix": prefix, "visual": to_json(config)}, notes)

    def rules(sizes: Mapping[str, Any]) -> Rules:
        return nest(make_rules(visual_from_json(sizes["visual"]), sizes["prefix"]), "visual")

    return Format(read, rules)


def _read_antmmf(state: State, source: Path) -> Foreign:
    state, shared = antmmf.canonical(state)
    release = antmmf.recognise(state)
    notes = (f"{shared} further names of shared arrays",) if shared else ()
    return Foreign(antmmf.map_release(release), state, antmmf.to_json(release), notes)


VISUAL_MAPS: dict[str, Callable[..., Rules]] = {"pvt": map_pvt, "resnet": map_resnet, "video_swin": map_video_swin}
FORMATS = {
    "hf-bert": Format(_read_bert, lambda sizes: map_bert(bert_from_json(sizes["bert"]), sizes["prefix"])),
    "torchvision-resnet50": _visual("resnet", "layer1.0.conv1.weight"),
    "pvt": _visual("pvt", "patch_embed1.proj.weight"),
    "video-swin": _visual("video_swin", "patch_embed.proj.weight"),
    "antmmf": Format(_read_antmmf, lambda sizes: antmmf.map_release(antmmf.from_json(sizes))),
}
"""By the name on the command line."""
