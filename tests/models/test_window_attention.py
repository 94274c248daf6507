"""The kernel for TPUs, run by Pallas's interpreter, against the form in XLA's operations."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from snp_jax.models import backend, video_swin
from snp_jax.models.window_attention import attend_by_kernel, attend_by_xla, kernel_fits


def inputs(batch, windows, cells, channels, heads, labelled, dtype):
    rng = np.random.default_rng(0)
    arrays = [jnp.asarray(rng.standard_normal((batch, windows, cells, channels)), dtype) for _ in range(4)]
    bias = jnp.asarray(rng.standard_normal((heads, cells, cells)), jnp.float32)
    labels = rng.integers(0, 3, (windows, cells)).astype(np.int32) if labelled else None
    return (*arrays[:3], bias), labels, arrays[3]


def value_and_gradients(attend, arrays, labels, gradient, **options):
    out, pull = jax.vjp(lambda *arrays: attend(*arrays, labels, **options), *arrays)
    return out, *pull(gradient)


@pytest.mark.parametrize(
    ("batch", "windows", "cells", "channels", "heads", "labelled"),
    [
        (2, 4, 18, 256, 8, True),  # two registers of four heads, four windows a step
        (3, 1, 12, 128, 2, False),  # one window a video: steps of three videos
        (1, 9, 20, 96, 3, True),  # less than a register, nine windows: three a step
    ],
)
def test_values_and_gradients(batch, windows, cells, channels, heads, labelled):
    arrays, labels, gradient = inputs(batch, windows, cells, channels, heads, labelled, jnp.float32)
    wanted = value_and_gradients(attend_by_xla, arrays, labels, gradient)
    got = value_and_gradients(attend_by_kernel, arrays, labels, gradient, interpret=True)
    assert len(got) == 5
    for ours, theirs in zip(got, wanted, strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-5 * np.abs(theirs).max())


def test_half_precision():
    arrays, labels, gradient = inputs(2, 4, 18, 128, 4, True, jnp.bfloat16)
    wanted = value_and_gradients(attend_by_xla, arrays, labels, gradient)
    got = value_and_gradients(attend_by_kernel, arrays, labels, gradient, interpret=True)
    for ours, theirs in zip(got, wanted, strict=True):
        assert ours.dtype == theirs.dtype
        ours, theirs = ours.astype(jnp.float32), theirs.astype(jnp.float32)
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=0.03 * np.abs(theirs).max())


def test_sizes_of_the_published_encoders_fit():
    def fitting(size):
        config = video_swin.VIDEO_SWIN_CONFIGS[size]
        return [kernel_fits(config.embed_dim << stage, config.heads[stage]) for stage in range(4)]

    assert fitting("base") == [True] * 4
    assert fitting("small") == fitting("tiny") == [True, False, True, True]


def test_only_on_one_device_of_a_tpu():
    assert not backend.kernels_for_tpu()
    with backend.lower_for("tpu"):
        assert not backend.kernels_for_tpu()
        with backend.one_device():
            assert backend.kernels_for_tpu()
        assert not backend.kernels_for_tpu()
    with backend.one_device():
        assert not backend.kernels_for_tpu()  # here: the CPU


@pytest.mark.parametrize("remat", ["light", "full"])
@pytest.mark.parametrize("scan", [False, True])
def test_recomputed_blocks_keep_what_the_kernel_returned(scan, remat, monkeypatch):
    """Its forward pass runs once a block, its backward pass once."""
    monkeypatch.setattr(backend, "kernels_for_tpu", lambda: True)
    config = video_swin.VideoSwinConfig(
        embed_dim=64, depths=(4, 1, 1, 1), heads=(2, 2, 2, 2), window=(2, 3, 3), remat=(remat,) * 4, scan=scan
    )
    stage, x = video_swin.Stage(config, 0, (0.0,) * 4, jnp.float32), jnp.ones((2, 2, 6, 6, 64))
    params = jax.eval_shape(lambda x: stage.init(jax.random.key(0), x, True), x)
    gradient = jax.grad(lambda params, x: stage.apply(params, x, True).sum(), (0, 1))
    program = str(jax.jit(gradient).trace(params, x).jaxpr)
    assert program.count("name=window_attention\n") + program.count("name=window_attention ") == (2 if scan else 4)
    assert program.count("name=window_attention_backward") == (2 if scan else 4)


def test_a_stage_computes_the_same_with_the_kernel(draw_params, interpret_kernels):
    """Shifted windows, padding, and query, key and value projected apart."""
    config = video_swin.VideoSwinConfig(embed_dim=64, depths=(2, 1, 1, 1), heads=(2, 2, 2, 2), window=(2, 3, 3))
    stage = video_swin.Stage(config, 0, (0.0, 0.0), jnp.float32)
    x = jnp.asarray(np.random.default_rng(1).standard_normal((2, 3, 5, 4, 64)), jnp.float32)
    params = draw_params(stage, x, True)

    def gradients():
        return jax.jit(jax.value_and_grad(lambda params, x: jnp.square(stage.apply(params, x, True) - 1).mean(), (0, 1)))

    wanted = gradients()(params, x)
    calls = interpret_kernels(video_swin, attend_by_kernel)
    got = gradients()(params, x)
    assert len(calls) == 2
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(b).max() + 1e-9), got, wanted)
