"""Quickstart fine-tuning: retrieval on the embedded corpus, from the pre-trained model.

python -m snp_jax.train --config configs/toy/retrieval.py --workdir runs/quickstart/retrieval
"""

from configs.toy.common import ROOT, tiny


def get_config(arg=None):
    config = tiny("retrieval")
    config.train.init_from = f"{ROOT}/pretrain"
    config.train.steps = 30
    config.optim.learning_rate = 1e-3  # a higher one undoes what pre-training has learnt of matching
    config.optim.warmup_steps = 10
    config.optim.milestones = (18, 25)
    if arg == "quick":
        config.train.steps = 10
    return config
