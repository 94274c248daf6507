"""SNP-S3-VST, stage 2: pre-training of the Video Swin model on WebVid-2M, four clips of one frame a video.

    python -m snp_jax.train --config configs/pretrain/vst_webvid.py --workdir runs/pretrain_vst_webvid

Paper: 8 GPUs, 10 epochs at batch 128, the rate x0.1 after 5; fine-tuned on MSRVTT 7k it retrieves at R@1 31.5 (Table III, B10).
"""

from configs import published

EPOCH = 2_500_000 // 128
"""Steps; the paper counts epochs."""


def get_config(arg=None):
    config = published.pretraining("vst")
    config.dataset.path = "data/webvid_2m"
    config.text.words = "data/webvid_2m/words.json"
    config.clip.num_clips = 4
    config.train.init_from = "runs/pretrain_vst_images"
    config.train.steps = 10 * EPOCH
    config.optim.milestones = (5 * EPOCH,)
    return published.finish(config, arg)
