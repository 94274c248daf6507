"""Names of torchvision's ResNets (`conv1.weight`, `layer1.0.bn1.running_mean`, ...), BatchNorm statistics
included."""

from __future__ import annotations

from snp_jax.convert.rules import Rule, Rules, conv2d
from snp_jax.models.resnet import EXPANSION, ResNetConfig


def map_resnet(config: ResNetConfig, prefix: str = "") -> Rules:
    """Rules for the backbone. `fc` and `num_batches_tracked` are not part of it, so they show up as unused.

    Args:
        prefix: what foreign names start with, e.g. "model.".
    """
    rules = conv2d(f"{prefix}conv1", "conv1", 3, config.stem_width, 7, bias=False)
    rules |= _batch_norm(f"{prefix}bn1", "bn1", config.stem_width)
    inputs = config.stem_width
    for stage, planes in enumerate(config.planes):
        for i in range(config.depths[stage]):
            theirs, ours = f"{prefix}layer{stage + 1}.{i}", f"stage{stage + 1}/block{i}"
            rules |= _block(theirs, ours, inputs, planes, project=i == 0)
            inputs = EXPANSION * planes
    return rules


def _block(theirs: str, ours: str, inputs: int, planes: int, project: bool) -> Rules:
    width = EXPANSION * planes
    rules: Rules = {}
    for number, (a, b, size) in enumerate([(inputs, planes, 1), (planes, planes, 3), (planes, width, 1)], 1):
        rules |= conv2d(f"{theirs}.conv{number}", f"{ours}/conv{number}", a, b, size, bias=False)
        rules |= _batch_norm(f"{theirs}.bn{number}", f"{ours}/bn{number}", b)
    if project:
        rules |= conv2d(f"{theirs}.downsample.0", f"{ours}/shortcut_conv", inputs, width, 1, bias=False)
        rules |= _batch_norm(f"{theirs}.downsample.1", f"{ours}/shortcut_bn", width)
    return rules


def _batch_norm(theirs: str, ours: str, width: int) -> Rules:
    names = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "var"}
    return {f"{theirs}.{name}": Rule(f"{ours}/{own}", (width,)) for name, own in names.items()}
