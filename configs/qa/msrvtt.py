"""Open-ended question answering on MSRVTT-QA, a choice among the 1500 most frequent answers.

    python -m snp_jax.train --config configs/qa/msrvtt.py --workdir runs/qa_msrvtt
    python tools/eval.py --config configs/qa/msrvtt.py --checkpoint runs/qa_msrvtt

Paper: 25k steps at batch 32; accuracy: VST 43.1, PVT 42.0 (Table I).
"""

from configs import published


def get_config(arg=None):
    config = published.fine_tuning("qa", arg)
    config.dataset.path = "data/msrvtt_qa"
    config.model.num_answers = 1500
    config.train.steps = 25_000
    config.optim.milestones = (15_000,)
    return published.finish(config, arg)
