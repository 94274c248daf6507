"""SNP-S3-VST, stage 1: pre-training of the Video Swin model on the images of CC3M, one frame a pair.

    python -m snp_jax.train --config configs/pretrain/vst_images.py --workdir runs/pretrain_vst_images \
        --config.train.init_from="('weights/bert','weights/video_swin_base')"

Paper: 8 GPUs, 130k steps at batch 128. Stage 2 is configs/pretrain/vst_webvid.py. The authors' release has the small encoder:
`common.video_swin("small")`.
"""

from configs import published


def get_config(arg=None):
    config = published.pretraining("vst")
    config.dataset.path = "data/cc3m"
    config.text.words = "data/cc3m/words.json"
    config.train.steps = 130_000
    config.optim.milestones = (110_000,)
    return published.finish(config, arg)
