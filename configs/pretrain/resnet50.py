"""SNP-S3-R50: image-text pre-training of the ResNet-50 model on COCO captions and Visual Genome (5.6M pairs).

    python -m snp_jax.train --config configs/pretrain/resnet50.py --workdir runs/pretrain_resnet50 \
        --config.train.init_from="('weights/bert','weights/resnet50')"

Paper: 8 GPUs, 400k steps at batch 128; fine-tuned on MSRVTT 7k it retrieves at R@1 23.7 (Table III, B4).
"""

from configs import published


def get_config(arg=None):
    config = published.pretraining("r50")
    config.dataset.path = "data/coco_vg"
    config.text.words = "data/coco_vg/words.json"
    config.train.steps = 400_000
    config.optim.milestones = (150_000,)
    return published.finish(config, arg)
