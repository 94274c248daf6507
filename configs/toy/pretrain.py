"""Quickstart pre-training, second stage: every objective of SNP-S3 on clips of the embedded corpus.

python -m snp_jax.train --config configs/toy/pretrain.py --workdir runs/quickstart/pretrain
"""

from configs.toy.common import ROOT, tiny


def get_config(arg=None):
    config = tiny("pretrain")
    config.train.init_from = f"{ROOT}/pretrain_frames"
    config.objective.matching.draw_temperature = 10.0  # uniform: hard negatives keep stage 2 at chance this early
    config.objective.matching_caption = "raw"
    config.objective.masking.ratio = 0.3
    config.train.steps = 440
    config.optim.warmup_steps = 50
    config.optim.milestones = (330, 400)
    config.optim.milestone_factor = 0.3
    if arg == "quick":
        config.train.steps = 20
    return config
