"""Quickstart pre-training, first stage: single frames in large batches, as the paper's VST model starts on images.

    python -m snp_jax.train --config configs/toy/pretrain_frames.py --workdir runs/quickstart/pretrain_frames

Colours, shapes and sizes are learnt here, many videos a step; motion is left to `pretrain.py`. Stage 2 of GVTM and the text
branch's masked words are left to it too.
"""

from configs.toy.common import tiny


def get_config(arg=None):
    config = tiny("pretrain")
    config.batch_size = 64
    config.clip.num_clips = 1
    config.text.top_k = 22  # the most frequent words: colours, shapes and sizes, which a single frame shows
    config.objective.weights.gvtm_stage2 = 0.0
    config.objective.weights.mlm_text = 0.0
    config.objective.weights.mlm_cross = 3.0
    config.objective.masking.ratio = 0.3
    config.objective.masking.attentive = 0.0
    config.objective.lvwm = "both"
    config.train.steps = 640
    config.optim.milestones = (400, 520, 600)
    if arg == "quick":
        config.train.steps = 20
    return config
