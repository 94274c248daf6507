"""The visual encoders behind one interface: which there are, and how each reaches the model width.

Every encoder is a linen module `(frames [B, T, H, W, 3], pixel_mask) -> VisualGrid` whose config has `width`, the channels C of
its grid, and takes rematerialisation per stage and drop path.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from flax import linen as nn

from snp_jax.models.pvt import PVT, PVTConfig
from snp_jax.models.resnet import ResNet, ResNetConfig
from snp_jax.models.video_swin import VideoSwin, VideoSwinConfig

VisualConfig = PVTConfig | ResNetConfig | VideoSwinConfig
VISUAL_CONFIGS = {"pvt": PVTConfig, "resnet": ResNetConfig, "video_swin": VideoSwinConfig}
"""The config class of each kind, by the name that experiment configs use."""
_MODULES = {PVTConfig: PVT, ResNetConfig: ResNet, VideoSwinConfig: VideoSwin}


@dataclasses.dataclass(frozen=True)
class Projection:
    """The linear map C -> D after an encoder."""

    use_bias: bool


def make_visual(config: VisualConfig, dtype: Any) -> nn.Module:
    """The encoder of a config; activations have `dtype`."""
    return _MODULES[type(config)](config, dtype=dtype)


def projection(config: VisualConfig, width: int) -> Projection | None:
    """How an encoder's C channels become the model's D = `width`.

    ResNet-50 and PVTv2 always have a 1x1 convolution with bias (also where C == D); Video Swin has a matrix without bias, and
    nothing where C == D (SNP-S3 section IV-A, the authors' release).
    """
    if isinstance(config, VideoSwinConfig):
        return None if config.width == width else Projection(use_bias=False)
    return Projection(use_bias=True)
