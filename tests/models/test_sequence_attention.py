"""The kernel for TPUs, run by Pallas's interpreter, against BERT's attention in XLA's operations."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from snp_jax.models import backend, bert, sequence_attention
from snp_jax.models.dropout import draw_kept, numbered_rows, row_seeds
from snp_jax.models.sequence_attention import attend_by_kernel, grid_of, kernel_fits

KEY, ROWS = jax.random.key(1), jnp.arange(3, 99, dtype=jnp.uint32)


def attend(query, key, value, bias, heads, rate):
    """The same with logits of every sequence and head."""
    count, length = bias.shape
    query, key, value = (x.astype(jnp.float32).reshape(count, length, heads, -1) for x in (query, key, value))
    logits = jnp.einsum("bqhd,bkhd->bhqk", query, key) / np.sqrt(query.shape[-1]) + bias[:, None, None, :]
    weights = jax.nn.softmax(logits, axis=-1)
    with numbered_rows(ROWS[:count]):
        kept = draw_kept(KEY, rate, weights.shape)
    weights = jnp.where(kept, weights / (1 - rate), 0)
    return jnp.einsum("bhqk,bkhd->bqhd", weights, value).reshape(count * length, -1)


def value_and_gradients(attend, arrays, gradient):
    out, pull = jax.vjp(attend, *arrays)
    return out, *pull(gradient.astype(out.dtype))


@pytest.mark.parametrize(
    ("count", "length", "heads", "channels"),
    [
        (32, 35, 2, 128),  # three sequences a window, the last of 32 alone with another
        (16, 7, 8, 256),  # a window of sixteen, two parts of the channels
        (32, 16, 1, 128),  # windows that start with a sequence
        (16, 70, 4, 128),  # one sequence, in windows that begin before it and end after it
        (32, 80, 4, 256),  # two steps in float32, two parts of the channels
        (48, 87, 2, 128),  # three
    ],
)
@pytest.mark.parametrize("rate", [0.0, 0.3])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_values_and_gradients(count, length, heads, channels, rate, dtype):
    rng = np.random.default_rng(0)
    *arrays, gradient = (jnp.asarray(rng.standard_normal((count * length, channels)), dtype) for _ in range(4))
    bias = jnp.where(jnp.asarray(rng.random((count, length)) < 0.7), 0.0, bert.PADDING_BIAS)
    seeds = row_seeds(KEY, ROWS[:count])
    kernel = functools.partial(attend_by_kernel, bias=bias, heads=heads, rate=rate, seeds=seeds, interpret=True)
    plain = functools.partial(attend, bias=bias, heads=heads, rate=rate)
    wanted, got = value_and_gradients(plain, arrays, gradient), value_and_gradients(kernel, arrays, gradient)
    for ours, theirs in zip(got, wanted, strict=True):
        assert ours.dtype == dtype
        difference = np.abs(ours.astype(jnp.float32) - theirs.astype(jnp.float32)).max()
        assert difference < (2e-6 if dtype == "float32" else 0.02) * np.abs(theirs.astype(jnp.float32)).max()


def test_grids():
    """Every sequence is whole in one window, and windows stay inside the rows of a step."""
    cases = [(480, 35, "bfloat16"), (480, 35, "float32"), (32, 35, "float32"), (48, 16, "bfloat16"), (16, 170, "bfloat16")]
    for count, length, dtype in cases:
        grid = grid_of(count, length, 768, dtype)
        assert grid.parts == 6 and grid.steps * grid.sequences == count
        sizes = sequence_attention.KernelSizes(length, 64, 0.1, grid)
        seen = []
        for window in range(grid.windows):
            first = sizes.first_row(window)
            assert first % 16 == 0 and 0 <= first <= grid.sequences * length - grid.rows
            for sequence in range(window * grid.group, min((window + 1) * grid.group, grid.sequences)):
                assert first <= sequence * length and (sequence + 1) * length <= first + grid.rows
                seen.append(sequence)
        assert seen == list(range(grid.sequences))
    assert grid_of(480, 35, 768, "bfloat16").group == 3
    assert grid_of(48, 87, 128, "float32").steps == 3 and grid_of(32, 80, 256, "float32").steps == 2


def test_what_fits():
    assert kernel_fits(480, 35, 768, 12, jnp.bfloat16) and kernel_fits(16, 180, 768, 12, jnp.bfloat16)
    assert not kernel_fits(24, 35, 768, 12, jnp.bfloat16)  # sequences
    assert not kernel_fits(32, 190, 768, 12, jnp.bfloat16)  # length
    assert not kernel_fits(32, 100, 768, 12, jnp.float32)
    assert not kernel_fits(32, 35, 768, 8, jnp.bfloat16)  # heads of 96
    assert not kernel_fits(32, 35, 96, 3, jnp.bfloat16)  # less than a register


@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize("first_only", [False, True])
def test_the_encoder_computes_and_drops_the_same_with_the_kernel(scan, first_only, interpret_kernels):
    config = bert.BertConfig(
        width=128, layers=3, heads=2, mlp_width=64, init_std=0.3, scan=scan, remat="full", attention_dropout=0.3
    )
    encoder, rng = bert.Encoder(config), np.random.default_rng(2)
    x = jnp.asarray(rng.standard_normal((16, 9, 128)), jnp.float32)
    mask = jnp.asarray(np.arange(9) < rng.integers(3, 10, (16, 1)))
    params = encoder.init(jax.random.key(0), x, mask, deterministic=True)

    def gradients():
        def loss(params, x):
            options = {"deterministic": False, "rngs": {"dropout": KEY}, "first_only": first_only}
            with numbered_rows(ROWS[:16]):
                out, importance = encoder.apply(params, x, mask, **options)
            assert importance is None
            return (jnp.square(out - 1) * (1 if first_only else mask[..., None])).sum()

        return jax.jit(jax.value_and_grad(loss, (0, 1)))(params, x)

    wanted = gradients()
    calls = interpret_kernels(bert, attend_by_kernel)
    got = gradients()
    assert calls
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=2e-5 * np.abs(b).max() + 2e-3), got, wanted)


def test_no_kernel_where_importance_is_wanted(monkeypatch):
    """The kernel keeps attention weights to itself."""
    monkeypatch.setattr(backend, "kernels_for_tpu", lambda: True)
    encoder = bert.Encoder(bert.BertConfig(width=128, layers=1, heads=2, mlp_width=64))
    x, mask = jnp.ones((16, 4, 128)), jnp.ones((16, 4), bool)
    params = encoder.init(jax.random.key(0), x, mask, deterministic=True, importance=True)
    importance = encoder.apply(params, x, mask, deterministic=True, importance=True)[1]
    np.testing.assert_allclose(importance, 1, rtol=1e-5)


@pytest.mark.parametrize("remat", ["light", "full"])
@pytest.mark.parametrize(("scan", "count"), [(False, 2), (True, 1)])
def test_recomputed_layers_keep_what_the_kernel_returned(scan, count, remat, monkeypatch):
    """Its forward pass runs once a layer, its backward pass once."""
    monkeypatch.setattr(backend, "kernels_for_tpu", lambda: True)
    x, mask = jnp.ones((16, 4, 128)), jnp.ones((16, 4), bool)
    encoder = bert.Encoder(bert.BertConfig(width=128, layers=2, heads=2, mlp_width=64, scan=scan, remat=remat))
    params = jax.eval_shape(functools.partial(encoder.init, deterministic=True), KEY, x, mask)
    gradient = jax.grad(lambda params, x: encoder.apply(params, x, mask, deterministic=True)[0].sum(), (0, 1))
    program = str(jax.jit(gradient).trace(params, x).jaxpr)
    assert program.count("name=sequence_attention_of_4_in_2") == count
    assert program.count("name=sequence_attention_backward_of_4_in_2") == count
