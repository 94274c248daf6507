"""The same network and objectives in PyTorch, put together from `transformers` modules (BertModel, PvtV2Model).

What a PyTorch programmer writes: captions padded to one length, masked-word logits at every position, all pairs as one batch of
the cross branch. The un-masked caption's text pass serves stage 1 and LVWM alike. Weights come from ours by name.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import transformers
from problem import Batch
from torch import nn
from torch.nn import functional as F

from snp_jax.convert.bert import map_bert, map_word_head
from snp_jax.convert.pvt import map_pvt
from snp_jax.convert.rules import invert, linear, nest, pointwise
from snp_jax.models.snp import SNPConfig
from snp_jax.train.optim import OptimOptions

PADDING_BIAS = -10000.0


class WordHead(nn.Module):
    """Masked-word head: dense, gelu, LayerNorm, the tied table and a bias."""

    def __init__(self, width: int, vocab_size: int):
        super().__init__()
        self.dense, self.norm = nn.Linear(width, width), nn.LayerNorm(width, eps=1e-6)
        self.bias = nn.Parameter(torch.zeros(vocab_size))

    def forward(self, hidden, table):
        return F.linear(self.norm(F.gelu(self.dense(hidden))), table, self.bias)


class Peer(nn.Module):
    """SNP-PVT."""

    def __init__(self, config: SNPConfig):
        super().__init__()
        sizes, visual, width = config.bert, config.visual, config.bert.width
        self.sep_id = config.sep_id
        self.bert = transformers.BertModel(
            transformers.BertConfig(
                vocab_size=sizes.vocab_size,
                hidden_size=width,
                num_hidden_layers=sizes.layers,
                num_attention_heads=sizes.heads,
                intermediate_size=sizes.mlp_width,
                max_position_embeddings=sizes.max_positions,
                hidden_dropout_prob=0.0,
                attention_probs_dropout_prob=0.0,
            )  # fmt: skip
        )
        self.cross_pooler = nn.Linear(width, width)
        self.visual = transformers.PvtV2Model(
            transformers.PvtV2Config(
                hidden_sizes=list(visual.embed_dims),
                depths=list(visual.depths),
                num_attention_heads=list(visual.heads),
                mlp_ratios=list(visual.mlp_ratios),
                sr_ratios=list(visual.sr_ratios),
                drop_path_rate=0.0,
            )  # fmt: skip
        )
        for name, module in self.visual.named_modules():
            if name.endswith(("patch_embedding.layer_norm", "attention.layer_norm")):
                module.eps = 1e-5  # the official PVTv2's
        self.projection = nn.Conv2d(visual.width, width, 1)
        self.clip_fc = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
        self.match = nn.Sequential(nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, 1))
        self.text_words, self.cross_words = (WordHead(width, sizes.vocab_size) for _ in range(2))

    # ------------------------------------------------------------------ branches
    def clips(self, frames):
        """Frames `[B, N, 3, H, W]` -> clip tokens and unit-norm features `[B, N, D]`."""
        grid = self.projection(self.visual(frames.flatten(0, 1)).last_hidden_state)
        tokens = grid.mean(dim=(2, 3)).unflatten(0, frames.shape[:2])
        return tokens, F.normalize(self.clip_fc(tokens), dim=-1)

    def text(self, ids, mask):
        """Captions `[B, L]` -> hidden states `[B, L, D]` and unit-norm features `[B, D]`."""
        out = self.bert(input_ids=ids, attention_mask=mask)
        return out.last_hidden_state, F.normalize(out.pooler_output, dim=-1)

    def embed_clips(self, tokens):
        """Clip tokens `[B, N, D]` and [SEP] through the embedding layer, `[B, N + 1, D]`."""
        separator = self.bert.embeddings.word_embeddings.weight[self.sep_id].expand(tokens.shape[0], 1, -1)
        vectors = torch.cat([tokens, separator], dim=1)
        kind = torch.ones(vectors.shape[:2], dtype=torch.long, device=vectors.device)
        return self.bert.embeddings(inputs_embeds=vectors, token_type_ids=kind)

    def cross(self, caption, mask, clips):
        """Pairs of embedded captions `[P, L, D]` and clips `[P, N + 1, D]` -> hidden states, pooled `[P, D]`."""
        mask = F.pad(mask, (0, clips.shape[1]), value=1)
        bias = (1.0 - mask[:, None, None, :].float()) * PADDING_BIAS
        hidden = self.bert.encoder(torch.cat([caption, clips], dim=1), attention_mask=bias).last_hidden_state
        return hidden, torch.tanh(self.cross_pooler(hidden[:, 0]))

    # ------------------------------------------------------------------ objectives
    def loss(self, frames, ids, mask, masked_ids, labels, cross_ids, cross_labels, words) -> dict[str, torch.Tensor]:
        """Every term of the pre-training loss."""
        pairs, table = ids.shape[0], self.bert.embeddings.word_embeddings.weight
        tokens, features = self.clips(frames)
        raw, text_feature = self.text(ids, mask)
        read, _ = self.text(masked_ids, mask)
        videos = self.embed_clips(tokens)
        crossed, _ = self.cross(self.bert.embeddings(input_ids=cross_ids), mask, videos)

        def masked_words(head, hidden, labels):
            logits = head(hidden[:, : labels.shape[1]], table)
            return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-1)

        similarity = torch.einsum("td,vnd->tvn", text_feature, features)
        chosen = torch.take_along_dim(raw, words[..., None], dim=1)
        word_clip = torch.logsumexp(torch.einsum("tkd,vnd->tkvn", chosen, features), dim=1)
        caption = self.bert.embeddings(input_ids=masked_ids)
        every = torch.arange(pairs, device=ids.device)
        text, video = every.repeat_interleave(pairs), every.repeat(pairs)
        _, pooled = self.cross(caption[text], mask[text], videos[video])
        scores = self.match(pooled).view(pairs, pairs)
        return {
            "mlm_text": masked_words(self.text_words, read, labels),
            "mlm_cross": masked_words(self.cross_words, crossed, cross_labels),
            "gvtm_stage1": mil_nce(similarity[..., 0]),
            "gvtm_stage2": mil_nce(scores),
            "lvwm": mil_nce(word_clip[..., 0]),
        }

    def score(self, frames, ids, mask):
        """Inference: one video's clips `[1, N, 3, H, W]` and one caption -> stage-1 similarities `[N]`, matching score."""
        tokens, features = self.clips(frames)
        _, text_feature = self.text(ids, mask)
        _, pooled = self.cross(self.bert.embeddings(input_ids=ids), mask, self.embed_clips(tokens))
        return features[0] @ text_feature[0], self.match(pooled)[0, 0]


def mil_nce(scores):
    """MIL-NCE with one clip a video: `[B_text, B_video]`, positives on the diagonal."""
    own = torch.diagonal(scores)
    others = scores.masked_fill(torch.eye(len(scores), dtype=torch.bool, device=scores.device), -1e12)
    return (torch.logsumexp(torch.cat([scores.T, others], dim=1), dim=1) - own).mean()


# ---------------------------------------------------------------------- from our side
def load_weights(peer: Peer, config: SNPConfig, params: Any) -> None:
    """Gives the peer our parameters."""
    sizes, width = config.bert, config.bert.width
    rules = map_bert(sizes, "bert.") | linear("cross_pooler", "cross_pooler/dense", width, width)
    rules |= pointwise("projection", "visual_projection", config.visual.width, width)
    rules |= linear("clip_fc.0", "clip_fc1", width, width) | linear("clip_fc.2", "clip_fc2", width, width)
    rules |= linear("match.0", "match_fc1", width, 2 * width) | linear("match.2", "match_fc2", 2 * width, 1)
    for name in ("text_words", "cross_words"):
        head = map_word_head(sizes, name, name)
        rules |= {theirs.replace("transform.", "").replace("LayerNorm", "norm"): rule for theirs, rule in head.items()}
    state = invert(rules, params)
    state |= _pvt_names(invert(nest(map_pvt(config.visual), "visual"), params))
    tensors = {name: torch.from_numpy(np.array(array)) for name, array in state.items()}
    missing, unexpected = peer.load_state_dict(tensors, strict=False)
    missing = [name for name in missing if not name.endswith(("position_ids", "token_type_ids"))]
    if missing or unexpected:
        raise ValueError(f"the peer lacks weights for {missing}, and has no place for {unexpected}")


def _pvt_names(official: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The official PVTv2 names as `transformers` has them; keys and values are two layers there."""
    parts = {
        "norm1": "layer_norm_1", "norm2": "layer_norm_2", "attn.q": "attention.query", "attn.proj": "attention.proj",
        "attn.sr": "attention.spatial_reduction", "attn.norm": "attention.layer_norm", "mlp.fc1": "mlp.dense1",
        "mlp.dwconv.dwconv": "mlp.dwconv.dwconv", "mlp.fc2": "mlp.dense2",
    }  # fmt: skip
    renamed = {}
    for name, array in official.items():
        place, _, kind = name.rpartition(".")
        first, _, rest = place.partition(".")
        stage = f"visual.encoder.layers.{int(first[-1]) - 1}"
        if first.startswith("patch_embed"):
            renamed[f"{stage}.patch_embedding.{rest.replace('norm', 'layer_norm')}.{kind}"] = array
        elif first.startswith("norm"):
            renamed[f"{stage}.layer_norm.{kind}"] = array
        else:
            block, _, part = rest.partition(".")
            if part == "attn.kv":
                for half, target in zip(np.split(array, 2), ("key", "value"), strict=True):
                    renamed[f"{stage}.blocks.{block}.attention.{target}.{kind}"] = half
            else:
                renamed[f"{stage}.blocks.{block}.{parts[part]}.{kind}"] = array
    return renamed


def tensors_of(batch: Batch) -> tuple[torch.Tensor, ...]:
    """The arguments of `Peer.loss`."""
    attended = batch.attended_ids is not None
    cross = (batch.attended_ids, batch.attended_labels) if attended else (batch.masked_ids, batch.labels)
    frames = np.ascontiguousarray(np.moveaxis(batch.frames, -1, 2))
    whole = (batch.ids, batch.mask, batch.masked_ids, batch.labels, *cross, batch.words)
    return torch.from_numpy(frames), *(torch.from_numpy(array.astype(np.int64)) for array in whole)


def make_optimizer(peer: Peer, options: OptimOptions) -> torch.optim.Optimizer:
    """AdamW with the recipe's decay groups, fused into one pass over each parameter (PyTorch's fastest here)."""
    decays = {True: [], False: []}
    norms = {id(p) for m in peer.modules() if isinstance(m, nn.LayerNorm) for p in m.parameters()}
    for name, parameter in peer.named_parameters():
        table = "position_embeddings" in name or "token_type_embeddings" in name
        decays[not (table or id(parameter) in norms or name.endswith("bias"))].append(parameter)
    rates = {True: options.weight_decay, False: 0.0}
    groups = [{"params": parameters, "weight_decay": rates[decayed]} for decayed, parameters in decays.items()]
    return torch.optim.AdamW(groups, lr=options.learning_rate, betas=(options.beta1, options.beta2), fused=True)
