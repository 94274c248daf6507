"""What a name map is made of, and how to apply one in either direction. Pure NumPy; files are read elsewhere.

A map is a dict from a foreign array name to a `Rule`: our parameter path, the foreign shape, and the
permutation of axes between the two layouts. One such dict serves import and export, so a round trip is exact
by construction.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from snp_jax.errors import UserError

SAME = None
"""Axes of an array that both sides store alike."""
LINEAR = (1, 0)
"""PyTorch `[out, in]` -> flax `[in, out]`."""
CONV2D = (2, 3, 1, 0)
"""PyTorch `[out, in, h, w]` -> flax `[h, w, in, out]`."""
CONV3D = (2, 3, 4, 1, 0)
"""PyTorch `[out, in, t, h, w]` -> flax `[t, h, w, in, out]`."""


@dataclasses.dataclass(frozen=True)
class Rule:
    """One array.

    Attributes:
        path: our parameter path, parts joined by "/".
        shape: shape on the foreign side.
        axes: `numpy.transpose` argument from the foreign layout to ours, or `SAME`.
        ones: how many trailing axes of size 1 the foreign array has that ours lacks; `axes` leaves them out.
    """

    path: str
    shape: tuple[int, ...]
    axes: tuple[int, ...] | None = SAME
    ones: int = 0

    def to_ours(self, array: np.ndarray) -> np.ndarray:
        """Foreign layout -> ours."""
        array = array.reshape(array.shape[: array.ndim - self.ones])
        return array if self.axes is None else np.ascontiguousarray(np.transpose(array, self.axes))

    def to_theirs(self, array: np.ndarray) -> np.ndarray:
        """Our layout -> foreign."""
        if self.axes is not None:
            array = np.ascontiguousarray(np.transpose(array, np.argsort(self.axes)))
        return array.reshape(array.shape + (1,) * self.ones)


Rules = dict[str, Rule]


@dataclasses.dataclass(frozen=True)
class Applied:
    """Result of `apply`.

    Attributes:
        params: nested dict of arrays in our layout, with every array that was found.
        unused: foreign names that no rule wants, sorted.
        missing: foreign names that a rule wants and that were not there, sorted.
    """

    params: dict[str, Any]
    unused: list[str]
    missing: list[str]


def apply(rules: Rules, state: Mapping[str, np.ndarray], source: str = "checkpoint") -> Applied:
    """Translates a foreign state dict to a parameter tree.

    Args:
        source: what the arrays came from, for error messages.

    Raises:
        UserError: an array has another shape than the configuration asks for.
    """
    params: dict[str, Any] = {}
    for name, rule in rules.items():
        if name not in state:
            continue
        array = state[name]
        if tuple(array.shape) != rule.shape:
            raise UserError(
                f"{source}: {name} has shape {tuple(array.shape)}, but the configured model needs "
                f"{rule.shape}; choose the configuration that this checkpoint was made with"
            )
        _insert(params, rule.path, rule.to_ours(np.asarray(array)))
    return Applied(params, sorted(set(state) - set(rules)), sorted(set(rules) - set(state)))


def invert(rules: Rules, params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Translates a parameter tree back to a foreign state dict.

    Raises:
        UserError: the tree lacks a parameter, or has one of another shape than the configuration asks for.
    """
    state = {}
    for name, rule in rules.items():
        array = rule.to_theirs(_find(params, rule.path))
        if array.shape != rule.shape:
            raise UserError(
                f"parameter {rule.path}: would be exported as {name} with shape {array.shape}, expected "
                f"{rule.shape}; export with the configuration the model was trained with"
            )
        state[name] = array
    return state


def nest(rules: Rules, prefix: str) -> Rules:
    """The same map with our paths below `prefix`, e.g. "visual"."""
    return {name: dataclasses.replace(rule, path=f"{prefix}/{rule.path}") for name, rule in rules.items()}


def linear(theirs: str, ours: str, inputs: int, outputs: int, bias: bool = True) -> Rules:
    """Rules of a fully connected layer."""
    rules = {f"{theirs}.weight": Rule(f"{ours}/kernel", (outputs, inputs), LINEAR)}
    if bias:
        rules[f"{theirs}.bias"] = Rule(f"{ours}/bias", (outputs,))
    return rules


def conv2d(theirs: str, ours: str, inputs: int, outputs: int, size: int, bias: bool = True) -> Rules:
    """Rules of a square convolution; `inputs` is the number per group (1 for a depthwise one)."""
    rules = {f"{theirs}.weight": Rule(f"{ours}/kernel", (outputs, inputs, size, size), CONV2D)}
    if bias:
        rules[f"{theirs}.bias"] = Rule(f"{ours}/bias", (outputs,))
    return rules


def pointwise(theirs: str, ours: str, inputs: int, outputs: int) -> Rules:
    """Rules of a fully connected layer that the foreign side stores as a 1 x 1 convolution."""
    return {
        f"{theirs}.weight": Rule(f"{ours}/kernel", (outputs, inputs, 1, 1), LINEAR, ones=2),
        f"{theirs}.bias": Rule(f"{ours}/bias", (outputs,)),
    }


def norm(theirs: str, ours: str, width: int) -> Rules:
    """Rules of a LayerNorm."""
    return {
        f"{theirs}.weight": Rule(f"{ours}/scale", (width,)),
        f"{theirs}.bias": Rule(f"{ours}/bias", (width,)),
    }


def _insert(tree: dict[str, Any], path: str, array: np.ndarray) -> None:
    *parents, leaf = path.split("/")
    for part in parents:
        tree = tree.setdefault(part, {})
    tree[leaf] = array


def _find(tree: Mapping[str, Any], path: str) -> np.ndarray:
    node: Any = tree
    for part in path.split("/"):
        if not isinstance(node, Mapping) or part not in node:
            raise UserError(f"parameter {path}: not in the model, which has no {part!r} there; check the configuration")
        node = node[part]
    return np.asarray(node)
