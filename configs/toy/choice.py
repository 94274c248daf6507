"""Quickstart fine-tuning: choice on the embedded corpus, from the pre-trained model.

python -m snp_jax.train --config configs/toy/choice.py --workdir runs/quickstart/choice
"""

from configs.toy.common import ROOT, tiny


def get_config(arg=None):
    config = tiny("choice")
    config.train.init_from = f"{ROOT}/pretrain"
    config.train.steps = 60
    config.optim.learning_rate = 1e-3  # a higher one undoes what pre-training has learnt of matching
    config.optim.warmup_steps = 10
    config.optim.milestones = (40, 52)
    if arg == "quick":
        config.train.steps = 10
    return config
