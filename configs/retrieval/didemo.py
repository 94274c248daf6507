"""Paragraph-to-video retrieval on DiDeMo, four clips a video. Paragraphs are cut at 30 tokens, as published.

    python -m snp_jax.train --config configs/retrieval/didemo.py --workdir runs/retrieval_didemo
    python tools/eval.py --config configs/retrieval/didemo.py --checkpoint runs/retrieval_didemo

Paper: 25k steps at batch 128 (VST) or 32; t2v R@1/5/10 of stage 2: VST 34.2 / 64.2 / 75.9, PVT 26.6 / 57.3 / 69.1 (Table I).
`--config.text.max_len=64` or more reads whole paragraphs.
"""

from configs import published


def get_config(arg=None):
    config = published.fine_tuning("retrieval", arg)
    config.dataset.path = "data/didemo_paragraph"
    config.clip.num_clips = 4
    if config.model.visual.kind == "video_swin":
        config.batch_size = 128
    config.train.steps = 25_000
    config.optim.milestones = (15_000,)
    return published.finish(config, arg)
