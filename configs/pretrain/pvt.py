"""SNP-S3-PVT: image-text pre-training of the PVTv2-B2 model on COCO captions and Visual Genome (5.6M pairs).

    python -m snp_jax.train --config configs/pretrain/pvt.py --workdir runs/pretrain_pvt \
        --config.train.init_from="('weights/bert','weights/pvt_v2_b2')"

Paper: 8 GPUs, 130k steps at batch 128; fine-tuned on MSRVTT 7k it retrieves at R@1 26.6 (Table III, B8).
"""

from configs import published


def get_config(arg=None):
    config = published.pretraining("pvt")
    config.dataset.path = "data/coco_vg"
    config.text.words = "data/coco_vg/words.json"
    config.train.steps = 130_000
    config.optim.milestones = (110_000,)
    return published.finish(config, arg)
