"""Quickstart, first stages: the visual encoder learns which words of its caption a frame shows, then a video.

    python -m snp_jax.train --config configs/toy/tagging.py --workdir runs/quickstart/tagging_frames
    python -m snp_jax.train --config configs/toy/tagging.py:clips --workdir runs/quickstart/tagging

It takes the place of ImageNet weights, which the published recipes start from. Single frames in large batches: what counts is
how many different objects a step sees.
"""

from configs.toy.common import ROOT, tiny


def get_config(arg=None):
    config = tiny("tagging")
    if arg == "clips":  # motion: what all clips show in their order
        config.objective.tags = "any"  # "up" and "down" are not significant to the tagger of parts of speech
        config.train.init_from = f"{ROOT}/tagging_frames"
        config.train.steps = 250
        config.optim.learning_rate = 8e-3
        config.optim.milestones = (130, 190, 230)
        return config
    config.batch_size = 64
    config.clip.num_clips = 1
    config.text.top_k = 22  # the most frequent words: colours, shapes and sizes, which a single frame shows
    config.train.steps = 850
    config.optim.learning_rate = 1.2e-2
    config.optim.milestones = (425, 595, 722, 807)
    if arg == "quick":
        config.train.steps = 20
    return config
