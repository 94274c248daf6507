"""Names of the SNP-S3 release (AntMMF `prj/snps3_vtp`): the shared network around a PVTv2 and a BERT."""

from __future__ import annotations

from snp_jax.convert.bert import map_bert, map_pooler, map_word_head
from snp_jax.convert.pvt import map_pvt
from snp_jax.convert.rules import Rules, linear, nest, pointwise
from snp_jax.models.snp import SNPConfig


def map_snp(config: SNPConfig, prefix: str = "model.", word_heads: str | None = "mlm_head.") -> Rules:
    """Rules for the network. The release's ITM and frame-order heads are not part of it, so they show up as unused.

    Args:
        prefix: what names of the network start with: "model." of a pre-training checkpoint, "" of a retrieval one.
        word_heads: what names of the masked-word heads start with; None leaves the heads out.
    """
    width, module = config.bert.width, f"{prefix}module"
    image = f"{module}.img_encoder"
    rules = map_bert(config.bert, f"{module}.text_encoder.")
    rules |= map_pooler(config.bert, f"{module}.cross_pooler", "cross_pooler")
    rules |= nest(map_pvt(config.visual, f"{image}.model."), "visual")
    rules |= pointwise(f"{image}.output_proj", "visual_projection", config.visual.embed_dims[-1], width)
    rules |= linear(f"{image}.img_fc.0", "clip_fc1", width, width)
    rules |= linear(f"{image}.img_fc.2", "clip_fc2", width, width)
    rules |= linear(f"{prefix}similarity_dense.0", "match_fc1", width, 2 * width)
    rules |= linear(f"{prefix}similarity_dense.2", "match_fc2", 2 * width, 1)
    if word_heads is not None:
        rules |= map_word_head(config.bert, f"{word_heads}text_encoder_mlm.cls.predictions", "text_words")
        rules |= map_word_head(config.bert, f"{word_heads}transformer_mlm.cls.predictions", "cross_words")
    return rules
