"""The tiny model of the quickstart, for the embedded corpus on two CPU cores. Paths are those of `make quickstart`."""

from ml_collections import ConfigDict

from configs import common

ROOT = "runs/quickstart"


def tiny(task: str) -> ConfigDict:
    """Sizes and data of every toy experiment."""
    config = common.base(task)
    config.batch_size = 32
    config.dataset.path = f"{ROOT}/tfds"
    config.text.tokenizer = f"{ROOT}/tokenizer.model"
    config.text.words = f"{ROOT}/words.json"
    config.text.max_len = 20  # 97 of 100 captions fit
    config.text.bucket = config.text.pack = 0  # large batches nearly always hold a long caption; one compilation

    config.clip.num_clips = 4  # eight learn no more and cost half as much again
    config.clip.image_size = (64, 64)
    config.reading.num_workers = 1
    config.reading.num_threads = 1  # small frames: two would wait for each other

    config.model.head_dropout = 0.0
    config.model.bert.width = 96
    config.model.bert.layers = 3
    config.model.bert.heads = 4
    config.model.bert.mlp_width = 192
    config.model.bert.max_positions = 32
    config.model.bert.init_std = 0.1  # 1 / sqrt(width): 0.02 is made for 768
    config.model.bert.dropout = 0.0
    config.model.bert.attention_dropout = 0.0
    config.model.visual.embed_dims = (32, 32, 64, 128)
    config.model.visual.depths = (1, 1, 1, 1)
    config.model.visual.heads = (1, 1, 2, 4)
    config.model.visual.mlp_ratios = (2, 2, 2, 2)
    config.model.visual.sr_ratios = (4, 2, 1, 1)  # keys on a 4 x 4 grid: 2 x 2 would blur an object with what is around it

    if task != "tagging":
        config.optim.freeze = ("visual", "visual_projection")  # tagging has trained them; a step takes half the time without
    if task in ("pretrain", "retrieval"):
        config.objective.matching.anchor = "bag"  # every clip shows the object, the middle one is nothing special
        config.objective.matching.temperature = 0.1
        config.objective.matching.negatives = 2  # all pairs of a batch would take most of the time

    config.augment.zoom = 1.15
    config.augment.shift = 0.08
    config.augment.light = 0.1

    config.optim.name = "muon"
    config.optim.learning_rate = 6e-3
    config.optim.weight_decay = 0.01
    config.optim.clip_norm = 1.0
    config.optim.warmup_steps = 40
    config.optim.milestone_factor = 0.4

    config.train.log_every = 20
    config.train.checkpoint_every = 500
    config.evaluation.batch_size = 50
    config.evaluation.rerank = 50
    config.evaluation.chunk = 1000
    config.evaluation.captions = "first"
    config.evaluation.duplicates = "fits"
    return config
