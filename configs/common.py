"""All keys, with the paper's values. An experiment starts from `base` and changes what differs."""

import dataclasses

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from snp_jax.models.pvt import PVT_CONFIGS
from snp_jax.models.resnet import ResNetConfig
from snp_jax.models.video_swin import VIDEO_SWIN_CONFIGS
from snp_jax.train.compat import Compat


def base(task: str) -> ConfigDict:
    """A complete config of SNP-S3-PVT for `task`: "tagging", "pretrain", "retrieval", "qa" or "choice"."""
    config = ConfigDict()
    config.task = task
    config.seed = 0
    config.batch_size = 128  # pairs a step, over all devices

    config.dataset = ConfigDict()
    config.dataset.path = placeholder(object)  # output of tools/prepare.py, or a tuple of several that are mixed
    config.dataset.weights = ()  # shares of a mixture's examples, in proportion; () = by the number of videos
    config.dataset.train_split = "train"
    config.dataset.max_broken_share = 0.05  # stop when more than this share of the videos cannot be decoded

    config.clip = ConfigDict()
    config.clip.num_clips = 1  # N clips a video
    config.clip.frames_per_clip = 1  # F
    config.clip.image_size = (224, 224)  # height, width
    config.clip.fit = "stretch"  # pictures to that size, or "pad": keep their aspect ratio, mask the rest
    config.clip.buckets = ()  # with "pad": several (height, width) instead of image_size; the videos of a batch share one
    config.clip.crop_size = ()  # (height, width) cut out of it for the network; () = the network sees all
    config.clip.mask_repeats = False  # of an image only the middle clip counts; False = its N copies count
    config.clip.decode_budget_s = 30.0  # a video that takes longer counts as broken

    config.augment = ConfigDict()  # of training frames, on the device, alike for all frames of a video; default: none
    config.augment.zoom = 1.0  # up to this factor larger or smaller
    config.augment.shift = 0.0  # up to this share of the height and width, in any direction
    config.augment.flip = 0.0  # probability of a mirrored video
    config.augment.scale = 1.0  # smaller by a factor from [scale, 1], the rest padded
    config.augment.crop_area = (1.0, 1.0)  # share of the picture that a random crop_size has
    config.augment.crop_ratio = (1.0, 1.0)  # its width by its height
    config.augment.rand_ops = 0  # operations of RandAugment a video
    config.augment.rand_magnitude = 9.0  # their strength, of 30
    config.augment.light = 0.0  # contrast up to this share higher or lower; brightness alike, in quarters of the range

    config.reading = ConfigDict()
    config.reading.num_workers = 2  # processes that decode; 0 = threads of this one
    config.reading.num_threads = 2  # threads in each

    config.text = ConfigDict()
    config.text.tokenizer = placeholder(str)  # vocab.txt (WordPiece) or spm.model (SentencePiece)
    config.text.max_len = 30  # tokens, [CLS] and [SEP] included
    config.text.bucket = 8  # training batches are cut to their longest text, a multiple of this; 0 = max_len always
    config.text.pack = 8  # BERT leaves padding out; room for the tokens that are left in eighths of all; 0 = off
    config.text.words = placeholder(str)  # words.json of tools/mine_significant_words.py (pre-training)
    config.text.top_k = 3000  # significant words

    config.model = ConfigDict()
    config.model.dtype = "float32"  # of activations: "float32" or "bfloat16"; parameters and losses stay float32
    config.model.num_answers = 1500 if task == "qa" else 0
    config.model.head_dropout = 0.1
    config.model.bert = ConfigDict()  # the vocabulary size is the tokeniser's
    config.model.bert.width = 768
    config.model.bert.layers = 12
    config.model.bert.heads = 12
    config.model.bert.mlp_width = 3072
    config.model.bert.max_positions = 512
    config.model.bert.dropout = 0.1
    config.model.bert.attention_dropout = 0.1
    config.model.bert.init_std = 0.02  # of fresh weights
    config.model.bert.remat = "none"  # what the backward pass recomputes of layers: "none", "light" or "full"
    config.model.bert.scan = False  # run equal layers as one loop: compiles several times faster
    config.model.cross_layers = 0  # 0 = the cross branch shares BERT (SNP); 3 = own embeddings and 3 layers (P3E)
    config.model.temporal = ConfigDict()  # the temporal encoder; it exists where objective.weights.fom is not 0
    config.model.temporal.layers = 3
    config.model.temporal.max_positions = 512
    config.model.temporal.max_clips = 16  # classes of its order classifier
    config.model.visual = pvt("b2")  # or resnet(), or video_swin(size): each has its own keys

    config.objective = ConfigDict()
    if task == "tagging":
        config.objective.tags = "significant"  # words that the visual encoder learns to name: "significant" or "any"
    if task in ("pretrain", "retrieval"):
        config.objective.matching = ConfigDict()
        config.objective.matching.anchor = "middle"  # positive clips of stage 1 and LVWM: "middle" or "bag"
        config.objective.matching.temperature = 1.0  # of stage-1 similarities
        config.objective.matching.negatives = 0  # stage-2 negatives a text and a video; 0 = all pairs of the batch
        config.objective.matching.mining = (
            "sample"  # their choice: "sample" by stage-1 score, "nearest" to the positive's, "top_k"
        )
        config.objective.matching.draw_temperature = 0.1  # softness of "sample", in cosine similarity
        config.objective.matching.reweight = "none"  # "median": pairs that stage 1 finds easy count less in stage 2
        config.objective.matching.local_groups = 1  # stage 2 on all pairs inside each n-th of the batch (the release: 8)
        config.objective.matching.chunk = 512  # pairs a cross-branch pass
        config.objective.matching.similarity_chunk = 512  # pairs whose similarities with all are in memory at a time; 0 = all
        config.objective.moco = ConfigDict()  # in training, stage 1 contrasts with queues of momentum keys
        config.objective.moco.enabled = False
        config.objective.moco.momentum = 0.9999
        config.objective.moco.temperature = 0.05
        config.objective.moco.clip_queue = 16_384  # keys
        config.objective.moco.text_queue = 16_384
        config.objective.weights = ConfigDict()  # 0 = the term is not computed
        config.objective.weights.gvtm_stage1 = 1.0
        config.objective.weights.gvtm_stage2 = 1.0
    if task == "pretrain":
        config.objective.weights.mlm_text = 1.0
        config.objective.weights.mlm_cross = 1.0
        config.objective.weights.lvwm = 1.0
        config.objective.weights.itm = 0.0  # image-text matching
        config.objective.weights.fom = 0.0  # frame order; needs several clips
        config.objective.weights.tags = 0.0  # words of the caption from the video alone, in the cross branch; not in the paper
        config.objective.masking = ConfigDict()
        config.objective.masking.kind = "mssm"  # "mssm" (significant words) or "mlm" (any token)
        config.objective.masking.ratio = 0.15
        config.objective.masking.attentive = 0.5  # probability of attentive masking in the cross branch
        config.objective.lvwm = "after"  # word features: "after" the encoder, "before" it, or "both"
        config.objective.words_per_caption = 3  # K
        config.objective.matching_caption = "masked"  # what stage 2 reads: "masked" or "raw"
        config.objective.order_ratio = 0.15  # share of the clips that FOM moves

    config.compat = ConfigDict()  # True = as the authors' release computes it (snp_jax/train/compat.py); `antmmf` sets all
    config.compat.update({field.name: False for field in dataclasses.fields(Compat)})

    config.optim = ConfigDict()
    config.optim.name = "adamw"  # or "muon": fewer steps from fresh weights
    config.optim.learning_rate = 5e-5
    config.optim.weight_decay = 1e-3
    config.optim.beta1 = 0.9
    config.optim.beta2 = 0.98
    config.optim.clip_norm = 5.0
    config.optim.accumulate = 1  # microbatches a step, one after the other; contrastive terms compare inside each
    config.optim.freeze = ()  # parts that keep their weights: "visual", "visual_projection", "embeddings", "encoder", ...
    config.optim.warmup_steps = 2000
    config.optim.warmup_factor = 0.1
    config.optim.milestones = (110_000,)
    config.optim.milestone_factor = 0.1
    config.optim.encoder_rate = 1.0  # multiplies the rate of BERT and the visual encoder (the release's encoder_lr_decay)

    config.train = ConfigDict()
    config.train.steps = 130_000
    config.train.log_every = 50
    config.train.checkpoint_every = 1000
    config.train.keep_checkpoints = 2
    config.train.max_bad_steps = 10  # updates whose loss is not finite are skipped; so many in a row end the run
    config.train.init_from = placeholder(object)  # where to start: a run, an output of tools/convert.py, or a tuple of several

    config.mesh = ConfigDict()
    config.mesh.data = -1  # -1 = all devices that are left
    config.mesh.fsdp = 1  # parameters and optimiser state are split over this axis, the batch over data x fsdp
    config.mesh.model = 1  # attention heads, hidden units and the vocabulary of BERT are split over this axis
    config.mesh.reduce = "once"  # gradients: added up "once" a step, or where the "compiler" places it (slower; same result)
    config.mesh.kernels = True  # on TPUs: attention of Video Swin and BERT as kernels of our own (same result)

    config.evaluation = ConfigDict()
    config.evaluation.split = "test"
    config.evaluation.batch_size = 32  # videos, or captions, a pass
    config.evaluation.rerank = 0  # stage 2 scores this many candidates of stage 1 a query; 0 = all pairs
    config.evaluation.chunk = 512  # pairs a cross-branch pass
    config.evaluation.captions = "all"  # retrieval queries: "all" captions, or the "first" of each video
    config.evaluation.duplicates = "strict"  # also correct: "strict" none, "fits" videos the data says fit, "any" same caption
    config.evaluation.ties = "average"  # equal scores: their "average" position, or the first "index" wins (the release)
    return config


def antmmf(config: ConfigDict) -> ConfigDict:
    """Turns every quirk of the authors' release on, for runs that must match theirs. Changes and returns `config`."""
    for name in config.compat:
        config.compat[name] = True
    if config.task in ("pretrain", "retrieval"):
        config.objective.moco.enabled = True
        config.objective.matching.local_groups = 8  # devices of the published runs
    if config.task == "pretrain":
        config.objective.weights.itm = 1.0
    config.evaluation.update(duplicates="any", ties="index")
    return config


def pvt(size: str) -> ConfigDict:
    """`config.model.visual` of a PVTv2: "b0" to "b5" or "b2_li" (the paper's is "b2"). Keys: `models.pvt.PVTConfig`."""
    return _visual("pvt", PVT_CONFIGS[size])


def resnet() -> ConfigDict:
    """`config.model.visual` of a ResNet-50 with frozen BatchNorm. Keys: `models.resnet.ResNetConfig`."""
    return _visual("resnet", ResNetConfig())


def video_swin(size: str) -> ConfigDict:
    """`config.model.visual` of a Video Swin: "tiny", "small" (the release's) or "base" (the paper's).

    Keys: `models.video_swin.VideoSwinConfig`.
    """
    return _visual("video_swin", VIDEO_SWIN_CONFIGS[size])


def _visual(kind: str, sizes) -> ConfigDict:
    return ConfigDict({"kind": kind, **dataclasses.asdict(sizes)})
