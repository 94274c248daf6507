"""What the backward pass computes a second time instead of keeping it: policies for layers, and marks on what they keep.

Of a layer that is recomputed its input is always kept, and so are results of attention kernels (`kernel_parts.py`), each as
large as the input and costly. "light" keeps the residual sum inside of the layer too: what led to it need not be recomputed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name

POLICIES = ("none", "light", "full")
"""Values of the configs' `remat`; "none" keeps all activations."""
_KERNEL, _SUM = "attention kernel", "residual sum"
_KEPT = {
    "light": jax.checkpoint_policies.save_only_these_names(_KERNEL, _SUM),
    "full": jax.checkpoint_policies.save_only_these_names(_KERNEL),
}


def keep_kernel_result(result: jax.Array) -> jax.Array:
    """Marks the result of an attention kernel."""
    return checkpoint_name(result, _KERNEL)


def keep_sum(x: jax.Array) -> jax.Array:
    """Marks a residual sum of a layer."""
    return checkpoint_name(x, _SUM)


def check_policies(owner: str, *policies: Any) -> None:
    """Raises `ValueError` for a value that is none of `POLICIES`."""
    for each in policies:
        if each not in POLICIES:
            raise ValueError(f"{owner}: remat is one of {', '.join(POLICIES)}, not {each!r}")


def recompute_round(function: Callable, policy: str) -> Callable:
    """A round of a loop over layers that follows a policy."""
    return function if policy == "none" else jax.checkpoint(function, prevent_cse=False, policy=_KEPT[policy])


def recompute_layer(layer: type[nn.Module], policy: str, **options: Any) -> type[nn.Module]:
    """A layer class that follows a policy; `options` are those of `nn.remat`."""
    return layer if policy == "none" else nn.remat(layer, policy=_KEPT[policy], **options)
