"""The published recipes against the recipe table of the paper and its scripts (SNP-S3 section IV-A)."""

from pathlib import Path

import pytest

from snp_jax.train import build
from snp_jax.train.config import parse_config

ROOT = Path(__file__).parent.parent
#        config                            batch  rate  decay  steps    milestones  clips size encoder
RECIPES = {
    "configs/pretrain/resnet50.py":        (128, 5e-5, 1e-3, 400_000, (150_000,), 1, 768, "resnet"),
    "configs/pretrain/pvt.py":             (128, 5e-5, 1e-3, 130_000, (110_000,), 1, 768, "pvt"),
    "configs/pretrain/vst_images.py":      (128, 5e-5, 1e-3, 130_000, (110_000,), 1, 224, "video_swin"),
    "configs/pretrain/vst_webvid.py":      (128, 5e-5, 1e-3, 195_310, (97_655,), 4, 224, "video_swin"),
    "configs/retrieval/msrvtt.py":         (32, 1e-5, 1e-4, 25_000, (15_000,), 16, 224, "video_swin"),
    "configs/retrieval/msrvtt.py:pvt":     (32, 1e-5, 1e-4, 25_000, (15_000,), 16, 448, "pvt"),
    "configs/retrieval/msvd.py":           (32, 1e-6, 1e-4, 16_000, (8_000,), 16, 224, "video_swin"),
    "configs/retrieval/msvd.py:r50":       (32, 1e-6, 1e-4, 16_000, (8_000,), 16, 448, "resnet"),
    "configs/retrieval/didemo.py":         (128, 1e-5, 1e-4, 25_000, (15_000,), 4, 224, "video_swin"),
    "configs/retrieval/didemo.py:pvt":     (32, 1e-5, 1e-4, 25_000, (15_000,), 4, 448, "pvt"),
    "configs/qa/msrvtt.py":                (32, 1e-5, 1e-4, 25_000, (15_000,), 16, 224, "video_swin"),
    "configs/qa/msvd.py":                  (32, 1e-5, 1e-4, 18_000, (10_000,), 16, 224, "video_swin"),
}  # fmt: skip


def load(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    return parse_config(path, [])


@pytest.mark.parametrize("path", RECIPES)
def test_recipe_is_the_published_one(path, monkeypatch):
    config = load(path, monkeypatch)
    batch, rate, decay, steps, milestones, clips, size, encoder = RECIPES[path]
    optim = build.build_optim(config)
    assert (config.batch_size, config.train.steps, config.clip.num_clips) == (batch, steps, clips)
    assert (optim.learning_rate, optim.weight_decay, optim.milestones) == (rate, decay, milestones)
    assert (optim.name, optim.beta1, optim.beta2, optim.clip_norm) == ("adamw", 0.9, 0.98, 5.0)
    assert (optim.milestone_factor, optim.warmup_factor) == (0.1, 0.1)
    assert optim.warmup_steps == (2000 if config.task == "pretrain" else 0)
    assert config.clip.image_size == (size, size)
    assert config.clip.frames_per_clip == 1 and config.text.max_len == 30
    assert config.model.visual.kind == encoder and config.model.bert.layers == 12
    assert config.model.dtype == ("bfloat16" if config.task == "pretrain" else "float32")
    assert all(not on for on in config.compat.to_dict().values())
    if config.task in ("pretrain", "retrieval"):
        assert config.objective.matching.local_groups == 8 and not config.objective.moco.enabled
        active = {name for name, weight in config.objective.weights.items() if weight}
        assert active >= {"gvtm_stage1", "gvtm_stage2"} and all(
            weight in (0, 1) for weight in config.objective.weights.values()
        )
        assert ("mlm_text" in active and "lvwm" in active) == (config.task == "pretrain")


def test_answers_and_options(monkeypatch):
    assert load("configs/qa/msrvtt.py", monkeypatch).model.num_answers == 1500
    assert load("configs/qa/msvd.py", monkeypatch).model.num_answers == 1000
    assert load("configs/choice/msrvtt.py", monkeypatch).train.steps == 0


def test_pod_keeps_the_group_that_a_pair_is_compared_in(monkeypatch):
    for path in ("configs/pretrain/vst_webvid.py", "configs/retrieval/msrvtt.py"):
        published, pod = load(path, monkeypatch), load(f"{path}:pod", monkeypatch)
        assert pod.batch_size == (4096 if published.task == "pretrain" else 1024)
        groups = [config.batch_size // config.objective.matching.local_groups for config in (published, pod)]
        assert groups[0] == groups[1]
        assert pod.optim.learning_rate == pytest.approx(published.optim.learning_rate * 32**0.5)
        with pod.unlocked(), published.unlocked():
            for config in (published, pod):
                config.batch_size, config.optim.learning_rate, config.objective.matching.local_groups = 0, 0.0, 0
        assert pod.to_dict() == published.to_dict()


def test_an_unknown_variant_is_refused(monkeypatch):
    from snp_jax.errors import UserError

    with pytest.raises(UserError, match="swin"):
        load("configs/retrieval/msrvtt.py:swin", monkeypatch)
