"""Quickstart pre-training, after tagging: every objective of SNP-S3 on clips of the embedded corpus.

python -m snp_jax.train --config configs/toy/pretrain.py --workdir runs/quickstart/pretrain
"""

from configs.toy.common import ROOT, tiny


def get_config(arg=None):
    config = tiny("pretrain")
    config.train.init_from = f"{ROOT}/tagging"
    config.objective.matching_caption = "raw"
    config.objective.weights.mlm_text = 0.0
    config.objective.weights.mlm_cross = 2.0
    config.objective.weights.tags = 4.0
    config.objective.masking.kind = "mlm"  # the tagger does not find "up" and "down" significant
    config.objective.masking.ratio = 0.6  # often both of two motions: if one can be read, the other is known without its order
    config.objective.masking.attentive = 0.0
    config.objective.lvwm = "both"
    config.train.steps = 620
    config.optim.learning_rate = 5e-3
    config.optim.milestones = (400, 520, 585)
    if arg == "quick":
        config.train.steps = 20
    return config
