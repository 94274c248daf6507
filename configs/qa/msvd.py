"""Open-ended question answering on MSVD-QA, a choice among the 1000 most frequent answers.

    python -m snp_jax.train --config configs/qa/msvd.py --workdir runs/qa_msvd
    python tools/eval.py --config configs/qa/msvd.py --checkpoint runs/qa_msvd

Paper: 18k steps at batch 32; accuracy: VST 47.1, PVT 46.2 (Table I).
"""

from configs import published


def get_config(arg=None):
    config = published.fine_tuning("qa", arg)
    config.dataset.path = "data/msvd_qa"
    config.model.num_answers = 1000
    config.train.steps = 18_000
    config.optim.milestones = (10_000,)
    return published.finish(config, arg)
