"""Text-to-video retrieval on MSRVTT (7k training videos, 1k-A test), both stages of GVTM.

    python -m snp_jax.train --config configs/retrieval/msrvtt.py --workdir runs/retrieval_msrvtt
    python tools/eval.py --config configs/retrieval/msrvtt.py --checkpoint runs/retrieval_msrvtt

Paper: 25k steps at batch 32; t2v R@1/5/10 of stage 2: VST 31.5 / 61.3 / 73.2, PVT 26.6 / 55.5 / 67.7 (Table I). With
`--config.dataset.path=data/msrvtt_9k_1ka`: VST 33.6 / 65.8 / 75.1.
"""

from configs import published


def get_config(arg=None):
    config = published.fine_tuning("retrieval", arg)
    config.dataset.path = "data/msrvtt_7k_1ka"
    config.train.steps = 25_000
    config.optim.milestones = (15_000,)
    return published.finish(config, arg)
