"""Names of the SNP-S3 release (AntMMF `prj/snps3_vtp`): the shared network around a visual encoder and a BERT."""

from __future__ import annotations

import dataclasses

from snp_jax.convert.bert import map_bert, map_embeddings, map_layers, map_pooler, map_positions, map_word_head
from snp_jax.convert.pvt import map_pvt
from snp_jax.convert.resnet import map_resnet
from snp_jax.convert.rules import Rule, Rules, linear, nest, norm, pointwise
from snp_jax.convert.video_swin import map_video_swin
from snp_jax.models.pvt import PVTConfig
from snp_jax.models.resnet import ResNetConfig
from snp_jax.models.snp import SNPConfig
from snp_jax.models.video_swin import VideoSwinConfig
from snp_jax.models.visual import projection

_BACKBONES = {
    PVTConfig: (map_pvt, "model."),
    ResNetConfig: (map_resnet, "model."),
    VideoSwinConfig: (map_video_swin, "swin."),
}
"""Name map of each encoder, and what it is called below `img_encoder`."""


def map_snp(config: SNPConfig, prefix: str = "model.", word_heads: str | None = "mlm_head.") -> Rules:
    """Rules for every parameter of the network. (P3E was never released; its own embeddings and layers get the names that the
    release gives to the shared ones.)

    Args:
        prefix: what names of the network start with: "model." of a pre-training checkpoint, "" of a fine-tuned one.
        word_heads: what names of the masked-word heads start with; None leaves the heads out.
    """
    width, module = config.bert.width, f"{prefix}module"
    image = f"{module}.img_encoder"
    rules = map_bert(config.bert, f"{module}.text_encoder.")
    rules |= map_pooler(config.bert, f"{module}.cross_pooler", "cross_pooler")
    rules |= _visual(config, module)
    rules |= linear(f"{image}.img_fc.0", "clip_fc1", width, width)
    rules |= linear(f"{image}.img_fc.2", "clip_fc2", width, width)
    rules |= linear(f"{prefix}similarity_dense.0", "match_fc1", width, 2 * width)
    rules |= linear(f"{prefix}similarity_dense.2", "match_fc2", 2 * width, 1)
    if word_heads is not None:
        rules |= map_word_head(config.bert, f"{word_heads}text_encoder_mlm.cls.predictions", "text_words")
        rules |= map_word_head(config.bert, f"{word_heads}transformer_mlm.cls.predictions", "cross_words")
    if config.num_answers:
        rules |= linear(f"{prefix}clf", "answer", width, config.num_answers)
    if config.itm:
        rules |= linear("itm_head.cls.seq_relationship", "itm", width, 2)
    if config.cross_layers:
        own = dataclasses.replace(config.bert, layers=config.cross_layers)
        rules |= map_embeddings(own, f"{module}.cross_embeddings", "cross_embeddings")
        rules |= map_layers(own, f"{module}.cross_encoder", "cross_encoder")
    return rules | _temporal(config, prefix)


def _temporal(config: SNPConfig, prefix: str) -> Rules:
    """The temporal encoder (whose pooler is left over in the release: it shows up as unused) and the order classifier."""
    if config.temporal is None:
        return {}
    sizes, width = config.temporal, config.bert.width
    bert = dataclasses.replace(config.bert, layers=sizes.layers, max_positions=sizes.max_positions)
    rules: Rules = {f"{prefix}cls_token": Rule("temporal/cls", (1, 1, width))}
    rules |= map_positions(bert, f"{prefix}temporal_encoder.embeddings", "temporal/embeddings")
    rules |= map_layers(bert, f"{prefix}temporal_encoder.encoder", "temporal/encoder")
    rules |= linear("fom_output.linear_1", "order/fc1", width, 2 * width)
    rules |= norm("fom_output.LayerNorm", "order/norm", 2 * width)
    return rules | linear("fom_output.linear_2", "order/fc2", 2 * width, sizes.max_clips)


def _visual(config: SNPConfig, module: str) -> Rules:
    """The visual encoder and its map to the model width."""
    make, name = _BACKBONES[type(config.visual)]
    rules = nest(make(config.visual, f"{module}.img_encoder.{name}"), "visual")
    channels, width = config.visual.width, config.bert.width
    linear_map = projection(config.visual, width)
    if linear_map is None:
        return rules
    if linear_map.use_bias:
        return rules | pointwise(f"{module}.img_encoder.output_proj", "visual_projection", channels, width)
    return rules | {f"{module}.img_proj": Rule("visual_projection/kernel", (channels, width))}
