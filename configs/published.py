"""What the published recipes share (SNP-S3 section IV-A and the authors' scripts). The paper trained on 8 GPUs.

Every recipe takes words after a colon, as `configs/retrieval/msrvtt.py:pvt,pod`:

- `quick`: 10 steps, to see that everything is in place;
- `pod`: a global batch for TPU pods (4096 pairs in pre-training, 1024 in fine-tuning) instead of the published one, the
  learning rate multiplied by the square root of the growth. Not in the paper: check results before long runs;
- `pvt`, `r50` or `vst` (fine-tuning; default `vst`): which pre-trained model.

Paths of data, tokeniser and words are those of the commands in docs/data.md; override them on the command line.
"""

import functools

from ml_collections import ConfigDict

from configs import common

GPUS = 8
"""Of the published runs. Stage 2 compares all pairs inside each GPU's share of the batch: 16 pairs of 128, 4 of 32."""
ENCODERS = {
    "r50": common.resnet,
    "pvt": functools.partial(common.pvt, "b2"),
    "vst": functools.partial(common.video_swin, "base"),
}
POD = {"pretrain": 4096, "retrieval": 1024, "qa": 1024, "choice": 1024}
PRETRAINED = {
    "r50": "runs/pretrain_resnet50",
    "pvt": "runs/pretrain_pvt",
    "vst": "runs/pretrain_vst_webvid",
}


def pretraining(encoder: str) -> ConfigDict:
    """What the four pre-training recipes share: every objective of the paper, AdamW, warm-up, mixed precision."""
    # Video Swin's one or four frames of 224 pixels leave room to keep more; the others' have up to 768.
    config = _published("pretrain", encoder, image_size=768, remat="light" if encoder == "vst" else "full")
    config.batch_size = 128
    config.model.dtype = "bfloat16"
    config.objective.matching.local_groups = GPUS
    config.optim.learning_rate = 5e-5
    config.optim.weight_decay = 1e-3
    config.optim.warmup_steps = 2000
    config.train.checkpoint_every = 2000
    return config


def fine_tuning(task: str, arg: str | None) -> ConfigDict:
    """What the fine-tuning recipes share: the encoder that `arg` names, no warm-up, batch 32, middle frames in evaluation."""
    encoder = next((word for word in words_of(arg) if word in PRETRAINED), "vst")
    config = _published(task, encoder, image_size=448)
    config.batch_size = 32
    config.clip.num_clips = 16
    if task == "retrieval":
        config.objective.matching.local_groups = GPUS
    config.optim.learning_rate = 1e-5
    config.optim.weight_decay = 1e-4
    config.optim.warmup_steps = 0
    config.train.init_from = PRETRAINED[encoder]
    return config


def finish(config: ConfigDict, arg: str | None) -> ConfigDict:
    """Applies the words after the colon that change the size of a run."""
    words = words_of(arg)
    if "pod" in words:
        resize(config, POD[config.task])
    if "quick" in words:
        config.train.steps = min(config.train.steps, 10)
    return config


def resize(config: ConfigDict, batch_size: int) -> None:
    """Another global batch: groups of stage 2 keep their size, the rate grows with the square root."""
    growth = batch_size // config.batch_size
    config.optim.learning_rate *= growth**0.5
    config.batch_size = batch_size
    if config.task in ("pretrain", "retrieval"):
        config.objective.matching.local_groups *= growth


def words_of(arg: str | None) -> list[str]:
    """The words after the colon."""
    words = arg.split(",") if arg else []
    unknown = set(words) - {"quick", "pod", *PRETRAINED}
    if unknown:
        raise ValueError(f"unknown variant {', '.join(sorted(unknown))}: choose among quick, pod, {', '.join(PRETRAINED)}")
    return words


def _published(task: str, encoder: str, image_size: int, remat: str = "full") -> ConfigDict:
    """The encoder, and frames of its size: Video Swin reads 224, the others up to `image_size` on the longer side."""
    config = common.base(task)
    config.text.tokenizer = "data/bert/vocab.txt"
    config.model.visual = ENCODERS[encoder]()
    size = 224 if encoder == "vst" else image_size
    config.clip.image_size = (size, size)
    config.model.visual.remat = (remat,) * 4
    config.model.bert.remat = remat
    config.model.visual.scan = config.model.bert.scan = True
    return config
