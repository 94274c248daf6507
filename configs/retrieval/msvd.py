"""Text-to-video retrieval on MSVD.

    python -m snp_jax.train --config configs/retrieval/msvd.py --workdir runs/retrieval_msvd
    python tools/eval.py --config configs/retrieval/msvd.py --checkpoint runs/retrieval_msvd

Paper: 16k steps at batch 32; t2v R@1/5/10 of stage 2: VST 35.1 / 70.3 / 80.9, PVT 33.1 / 64.5 / 73.7 (Table I).
"""

from configs import published


def get_config(arg=None):
    config = published.fine_tuning("retrieval", arg)
    config.dataset.path = "data/msvd"
    config.optim.learning_rate = 1e-6
    config.train.steps = 16_000
    config.optim.milestones = (8_000,)
    return published.finish(config, arg)
