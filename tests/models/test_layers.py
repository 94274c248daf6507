"""Forms of small layers for one platform against those for the others."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from snp_jax.models import backend
from snp_jax.models.layers import linear


@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 1e-6), (jnp.bfloat16, 1e-2)])
def test_a_linear_layer_for_tpus(dtype, tolerance):
    """Its gradient to the bias is a product, which adds up in float32."""
    rng = np.random.default_rng(0)
    x, kernel, bias = (jnp.asarray(rng.uniform(0, 1, shape), dtype) for shape in ((30, 20, 8), (8, 5), (5,)))

    def run():
        out, pull = jax.vjp(linear, x, kernel, bias)
        return [out, *pull(jnp.sin(out))]

    wanted = run()
    with backend.lower_for("tpu"):
        program = str(jax.make_jaxpr(run)())
        got = run()
    assert program.count("dot_general") == 4
    wanted[-1] = np.sin(wanted[0].astype(jnp.float32)).sum(axis=(0, 1)).astype(dtype)  # XLA adds up bfloat16 in bfloat16 here
    for ours, theirs in zip(got, wanted, strict=True):
        assert ours.dtype == theirs.dtype == dtype
        ours, theirs = (np.asarray(each, np.float32) for each in (ours, theirs))
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * np.abs(theirs).max())
