"""Quickstart pre-training: every objective of SNP-S3 on the embedded corpus.

    python -m snp_jax.train --config configs/toy/pretrain.py --workdir runs/quickstart/pretrain
"""

from configs.toy.common import tiny


def get_config(arg=None):
    config = tiny("pretrain")
    config.objective.matching.anchor = "bag"
    config.objective.matching.temperature = 0.1
    config.objective.matching.negatives = 2
    config.objective.matching_caption = "raw"
    config.objective.masking.ratio = 0.3
    config.train.steps = 1500
    config.optim.milestones = (1000, 1300)
    config.optim.milestone_factor = 0.3
    if arg == "quick":
        config.train.steps = 20
    return config
