"""Runs on mixtures, with padded frames, in several sizes and with crops: from the files to the numbers."""

from __future__ import annotations

import numpy as np
import pytest

from snp_jax.eval.evaluate import evaluate
from snp_jax.train import loop
from snp_jax.train.metrics import read_metrics
from snp_jax.train.restore import open_run


def trained(config, workdir):
    """Losses of a run that stops in the middle and goes on, and what it is evaluated to."""
    steps, config.train.steps = config.train.steps, config.train.steps // 2
    assert loop.run(config, workdir)
    config.train.steps = steps
    assert loop.run(config, workdir)
    losses = [line["loss"] for line in read_metrics(workdir / "metrics.jsonl")]
    assert len(losses) == steps and np.isfinite(losses).all()
    return losses


@pytest.mark.slow
def test_a_mixture_with_padded_frames(tiny_config, prepared_dataset, tmp_path):
    config = tiny_config("retrieval", steps=2, checkpoint_every=1)
    config.dataset.update(path=(str(prepared_dataset),) * 2, weights=(1, 3))
    config.clip.update(fit="pad", image_size=(32, 64), mask_repeats=True)
    config.augment.update(scale=0.5, flip=0.5)
    trained(config, tmp_path / "run")
    config.dataset.path = str(prepared_dataset)
    results = evaluate(open_run(tmp_path / "run"), config).results
    assert results["retrieval"]["gallery"] == 4 and not results["broken"]


@pytest.mark.slow
def test_buckets_crops_and_rand_augment(tiny_config, prepared_dataset, tmp_path):
    config = tiny_config("pretrain", steps=6, checkpoint_every=2)
    config.clip.update(fit="pad", buckets=((32, 48), (48, 48)), crop_size=(32, 32))
    config.augment.update(crop_area=(0.3, 1.0), crop_ratio=(0.75, 4 / 3), flip=0.5, rand_ops=2)
    losses = trained(config, tmp_path / "run")
    assert loop.run(config.copy_and_resolve_references(), tmp_path / "straight")
    straight = [line["loss"] for line in read_metrics(tmp_path / "straight" / "metrics.jsonl")]
    assert losses == pytest.approx(straight, rel=1e-5)
    assert evaluate(open_run(tmp_path / "run"), config).results["retrieval"]["gallery"] == 4
