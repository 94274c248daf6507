"""Quickstart, first stage: the visual encoder learns which significant words of its caption a frame shows.

    python -m snp_jax.train --config configs/toy/tagging.py --workdir runs/quickstart/tagging

It takes the place of ImageNet weights, which the published recipes start from. Single frames in large batches: what counts is
how many different objects a step sees.
"""

from configs.toy.common import tiny


def get_config(arg=None):
    config = tiny("tagging")
    config.batch_size = 64
    config.clip.num_clips = 1
    config.text.top_k = 22  # the most frequent words: colours, shapes and sizes, which a single frame shows
    config.train.steps = 1000
    config.optim.learning_rate = 1.2e-2
    config.optim.milestones = (500, 700, 850, 950)
    if arg == "quick":
        config.train.steps = 20
    return config
