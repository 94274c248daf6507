"""Our networks with a golden case's sizes and weights, and what the cases share: gradients, intermediates, inputs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict

from snp_jax.convert import antmmf
from snp_jax.convert.rules import Rules, apply, invert
from snp_jax.errors import UserError
from snp_jax.models.pvt import PVTConfig
from snp_jax.models.snp import SNP
from snp_jax.parity.golden import Golden

WORDS = "word_embeddings.weight"
PADDING_WORD = 0
"""PyTorch's embedding layer stops the gradient of this word; here it has one where the output at padding is used."""


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A network with its weights.

    Attributes:
        model: the module.
        params: its parameters.
        rules: name map between `params` and the recorded names.
        unused: recorded names that no parameter of ours stands for.
    """

    model: Any
    params: dict[str, Any]
    rules: Rules
    unused: list[str]


def load_params(model: Any, rules: Rules, state: Mapping[str, np.ndarray]) -> Loaded:
    """Gives a model recorded weights; `UserError` when some are missing."""
    applied = apply(rules, state, source="the recorded weights")
    if applied.missing:
        raise UserError(f"the recorded weights lack {', '.join(applied.missing)}")
    return Loaded(model, applied.params, rules, applied.unused)


def load_snp(golden: Golden, prefix: str = "param/") -> Loaded:
    """The whole network; sizes come from the shapes of the weights, attention heads from the config."""
    state, _ = antmmf.canonical(golden.group(prefix))
    visual = golden.config["image_encoder"].get("params", {}).get("pvt", {})
    heads = tuple(visual.get("num_heads", PVTConfig().heads))
    bert = golden.config["text_encoder"]["params"]["num_attention_heads"]
    release = antmmf.recognise(state, bert, heads)
    return load_params(SNP(release.config), antmmf.map_release(release), state)


def channels_last(images: np.ndarray) -> np.ndarray:
    """`[..., 3, H, W]` -> `[..., H, W, 3]`."""
    return np.moveaxis(images, -3, -1)


def channels_first(images: Any) -> np.ndarray:
    """`[..., H, W, C]` -> `[..., C, H, W]`."""
    return np.moveaxis(np.asarray(images), -1, -3)


def differentiate(objective: Callable[..., tuple[jax.Array, Any]], *arguments: Any) -> tuple[Any, Any, Any]:
    """(value, what else the objective returns, gradient to the first argument), compiled."""
    (value, shown), gradients = jax.jit(jax.value_and_grad(objective, has_aux=True))(*arguments)
    return value, shown, gradients


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, compiled at its first call."""
    return jax.jit(function)


def foreign_gradients(rules: Rules, gradients: Any) -> dict[str, np.ndarray]:
    """Gradients under the recorded names."""
    return invert(rules, gradients)


def without_padding_word(got: Mapping[str, np.ndarray], golden: Golden) -> dict[str, np.ndarray]:
    """Gradients whose row of the padding word is the recorded one: only there do the two frameworks differ by design."""
    changed = dict(got)
    for name, array in got.items():
        if name.endswith(WORDS) and f"grad/{name}" in golden:
            changed[name] = np.array(array)
            changed[name][PADDING_WORD] = golden[f"grad/{name}"][PADDING_WORD]
    return changed


def intermediates(state: Mapping[str, Any]) -> dict[str, Any]:
    """Outputs of submodules by path ("stage1/block0"), from a call with `capture_intermediates=True`."""
    flat = flatten_dict(state["intermediates"], sep="/")
    return {path.removesuffix("/__call__"): values[0] for path, values in flat.items() if path.endswith("/__call__")}
