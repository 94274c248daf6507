"""Names of Hugging Face BERT checkpoints (`embeddings.word_embeddings.weight`,
`encoder.layer.0.attention.self.query.weight`)."""

from __future__ import annotations

from snp_jax.convert.rules import Rule, Rules, linear, norm
from snp_jax.models.bert import BertConfig


def map_bert(config: BertConfig, prefix: str = "") -> Rules:
    """Rules for embeddings, encoder and pooler. Masked-word and next-sentence heads are not part of it.

    Args:
        prefix: what foreign names start with, e.g. "bert.".
    """
    rules = map_embeddings(config, f"{prefix}embeddings", "embeddings") | map_layers(config, f"{prefix}encoder", "encoder")
    return rules | map_pooler(config, f"{prefix}pooler", "pooler")


def map_embeddings(config: BertConfig, theirs: str, ours: str) -> Rules:
    """Rules for one embedding layer, words included."""
    words = Rule(f"{ours}/word/embedding", (config.vocab_size, config.width))
    return {f"{theirs}.word_embeddings.weight": words} | map_positions(config, theirs, ours)


def map_positions(config: BertConfig, theirs: str, ours: str) -> Rules:
    """Rules for an embedding layer without a word table."""
    rules: Rules = {}
    tables = {
        "position_embeddings": ("position", config.max_positions),
        "token_type_embeddings": ("segment", config.segments),
    }
    for name, (own, rows) in tables.items():
        rules[f"{theirs}.{name}.weight"] = Rule(f"{ours}/{own}/embedding", (rows, config.width))
    return rules | norm(f"{theirs}.LayerNorm", f"{ours}/norm", config.width)


def map_layers(config: BertConfig, theirs: str, ours: str) -> Rules:
    """Rules for a stack of layers."""
    rules: Rules = {}
    for i in range(config.layers):
        rules |= _layer(config, f"{theirs}.layer.{i}", f"{ours}/layer{i}")
    return rules


def map_pooler(config: BertConfig, theirs: str, ours: str) -> Rules:
    """Rules for one pooler."""
    return linear(f"{theirs}.dense", f"{ours}/dense", config.width, config.width)


def map_word_head(config: BertConfig, theirs: str, ours: str) -> Rules:
    """Rules for one masked-word head; its word table is the embeddings' (`decoder.weight` shows up as unused).

    Args:
        theirs: e.g. "cls.predictions".
    """
    rules = {f"{theirs}.bias": Rule(f"{ours}/bias", (config.vocab_size,))}
    rules |= linear(f"{theirs}.transform.dense", f"{ours}/dense", config.width, config.width)
    return rules | norm(f"{theirs}.transform.LayerNorm", f"{ours}/norm", config.width)


def _layer(config: BertConfig, theirs: str, ours: str) -> Rules:
    width, hidden = config.width, config.mlp_width
    rules: Rules = {}
    for name in ("query", "key", "value"):
        rules |= linear(f"{theirs}.attention.self.{name}", f"{ours}/attention/{name}", width, width)
    rules |= linear(f"{theirs}.attention.output.dense", f"{ours}/attention/out", width, width)
    rules |= norm(f"{theirs}.attention.output.LayerNorm", f"{ours}/attention_norm", width)
    rules |= linear(f"{theirs}.intermediate.dense", f"{ours}/mlp_in", width, hidden)
    rules |= linear(f"{theirs}.output.dense", f"{ours}/mlp_out", hidden, width)
    return rules | norm(f"{theirs}.output.LayerNorm", f"{ours}/mlp_norm", width)
