"""Quickstart fine-tuning: qa on the embedded corpus, from the pre-trained model.

python -m snp_jax.train --config configs/toy/qa.py --workdir runs/quickstart/qa
"""

from configs.toy.common import ROOT, tiny


def get_config(arg=None):
    config = tiny("qa")
    config.train.init_from = f"{ROOT}/pretrain"
    config.train.steps = 75
    config.optim.learning_rate = 6e-3
    config.optim.warmup_steps = 20
    config.optim.milestones = (48, 66)
    if arg == "quick":
        config.train.steps = 10
    return config
