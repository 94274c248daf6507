"""Cases of single encoders: BERT, the visual encoders, and the shared BERT's cross branch."""

from __future__ import annotations

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from snp_jax.convert.bert import map_bert, map_pooler
from snp_jax.convert.formats import VISUAL_MAPS
from snp_jax.convert.sizes import bert_sizes, pvt_sizes, resnet_sizes, video_swin_sizes
from snp_jax.models.bert import BertConfig, Embeddings, Encoder, Pooler
from snp_jax.models.layers import grid_mask
from snp_jax.models.network import Network
from snp_jax.models.pvt import PVTConfig
from snp_jax.models.snp import SNP, SNPConfig
from snp_jax.models.visual import VisualConfig, make_visual
from snp_jax.models.windows import Cut
from snp_jax.parity.compare import Account
from snp_jax.parity.golden import Golden
from snp_jax.parity.networks import (
    channels_first,
    channels_last,
    compiled,
    differentiate,
    foreign_gradients,
    intermediates,
    load_params,
    without_padding_word,
)


class Bert(nn.Module):
    """BERT's parts under the names that `map_bert` gives them; segments per token."""

    config: BertConfig

    def setup(self):
        self.embeddings, self.encoder, self.pooler = Embeddings(self.config), Encoder(self.config), Pooler(self.config)

    def embed(self, vectors: jax.Array, segment: Any) -> jax.Array:
        """Embeds given vectors."""
        return self.embeddings(vectors, segment, deterministic=True)

    def __call__(self, ids: jax.Array, segments: jax.Array, mask: jax.Array) -> dict[str, jax.Array]:
        embedded = self.embed(self.embeddings.words(ids), segments)
        sequence, importance = self.encoder(embedded, mask, deterministic=True, importance=True)
        pooled = self.pooler(sequence)
        return {
            "embeddings": embedded, "hidden_0": embedded, "sequence_output": sequence, "words_importance": importance,
            "pooled_output": pooled,
        }  # fmt: skip


def bert_case(golden: Golden, account: Account) -> None:
    """Embeddings, every layer, attention, pooler, importance and gradients."""
    state = golden.group("param/")
    config = bert_sizes(state, heads=golden.config["params"]["num_attention_heads"])
    loaded = load_params(Bert(config), map_bert(config), state)
    ids, segments, mask = golden["in/input_ids"], golden["in/token_type_ids"], golden["in/attention_mask"].astype(bool)

    def objective(params):
        outputs, extra = loaded.model.apply(
            {"params": params}, ids, segments, mask, capture_intermediates=True, mutable=["intermediates"]
        )
        value = jnp.sum(outputs["sequence_output"] * golden["in/cot_seq"])
        return value + jnp.sum(outputs["pooled_output"] * golden["in/cot_pooled"]), (outputs, intermediates(extra))

    value, (outputs, inner), gradients = differentiate(objective, loaded.params)
    for i in range(config.layers):
        outputs[f"hidden_{i + 1}"] = inner[f"encoder/layer{i}"][0]
        outputs[f"attention_{i}"] = inner[f"encoder/layer{i}/attention"][1]
    vectors = golden["in/inputs_embeds"]
    outputs["embeddings_from_vectors"] = loaded.model.apply({"params": loaded.params}, vectors, 1, method="embed")
    account.outputs("out/", outputs)
    account.loss("out/objective", value)
    account.gradients(without_padding_word(foreign_gradients(loaded.rules, gradients), golden))


# ---------------------------------------------------------------------- visual encoders
def pvt_case(golden: Golden, account: Account) -> None:
    """PVTv2 and its projection."""
    heads = tuple(golden.config["pvt"].get("num_heads", PVTConfig().heads))
    _visual_case(golden, account, "pvt", pvt_sizes(golden.group("param/"), "model.", heads), "model.")


def resnet_case(golden: Golden, account: Account) -> None:
    """ResNet with frozen BatchNorm and its projection."""
    _visual_case(golden, account, "resnet", resnet_sizes(golden.group("param/"), "model."), "model.")


def swin_case(golden: Golden, account: Account) -> None:
    """Video Swin."""
    _visual_case(golden, account, "video_swin", video_swin_sizes(golden.group("param/"), "swin."), "swin.")


def _visual_case(golden: Golden, account: Account, kind: str, config: VisualConfig, prefix: str) -> None:
    state = golden.group("param/")
    loaded = load_params(make_visual(config, jnp.float32), VISUAL_MAPS[kind](config, prefix), state)
    params = {"encoder": loaded.params}
    if "output_proj.weight" in state:
        weight = state["output_proj.weight"]
        params["projection"] = {"kernel": weight.reshape(weight.shape[:2]).T, "bias": state["output_proj.bias"]}
    frames = channels_last(golden["in/image"])

    def objective(params):
        grid, extra = loaded.model.apply(
            {"params": params["encoder"]}, frames, ~golden["in/image_mask"], deterministic=True,
            capture_intermediates=True, mutable=["intermediates"],
        )  # fmt: skip
        features = grid.grid
        if "projection" in params:
            features = features @ params["projection"]["kernel"] + params["projection"]["bias"]
        return jnp.sum(features * channels_last(golden["in/cot"])), (features, grid.mask, intermediates(extra))

    value, (features, mask, inner), gradients = differentiate(objective, params)
    recorded = golden["out/grid_mask"]
    if mask.shape != recorded.shape:  # Video Swin's clip mask has floor(H / 32) cells in the release (method.md 7, item 11)
        mask = grid_mask(~golden["in/image_mask"], recorded.shape)
    account.exact("out/grid_mask", ~np.asarray(mask))
    account.output("out/grid_feature", channels_first(features))
    account.loss("out/objective", value)
    _INTERMEDIATES[kind](golden, account, inner, config)
    ours = foreign_gradients(loaded.rules, gradients["encoder"])
    if "projection" in gradients:
        ours["output_proj.weight"] = np.asarray(gradients["projection"]["kernel"]).T[:, :, None, None]
        ours["output_proj.bias"] = np.asarray(gradients["projection"]["bias"])
    account.gradients(ours)


def _first_image(golden: Golden, array: jax.Array) -> np.ndarray:
    """`[B * T, ...]` -> `[B, ...]` of the first image of each video, which is what was recorded."""
    batch, time = golden["in/image"].shape[:2]
    return np.asarray(array).reshape(batch, time, *array.shape[1:])[:, 0]


def _pvt_intermediates(golden: Golden, account: Account, inner: dict[str, jax.Array], config: VisualConfig) -> None:
    for name in golden.group("out/"):
        found = re.fullmatch(r"(patch_embed|norm|block)(\d+)(?:_(\d+))?", name)
        if found:
            part = found[1] if found[1] != "block" else f"block{found[3]}"
            tokens = _first_image(golden, inner[f"stage{found[2]}/{part}"])
            account.output(f"out/{name}", tokens.reshape(len(tokens), -1, tokens.shape[-1]))


def _resnet_intermediates(golden: Golden, account: Account, inner: dict[str, jax.Array], config: VisualConfig) -> None:
    if "out/maxpool" in golden:
        stem = nn.max_pool(jax.nn.relu(inner["bn1"]), (3, 3), (2, 2), ((1, 1), (1, 1)))
        account.output("out/maxpool", channels_first(_first_image(golden, stem)))
    for name in golden.group("out/"):
        if found := re.fullmatch(r"layer(\d+)", name):
            account.output(f"out/{name}", channels_first(_first_image(golden, inner[f"stage{found[1]}"])))


def _swin_intermediates(golden: Golden, account: Account, inner: dict[str, jax.Array], config: VisualConfig) -> None:
    for name in golden.group("out/"):
        if name == "patch_embed":
            account.output("out/patch_embed", np.moveaxis(np.asarray(inner["patch_embed"]), -1, 1))
        elif found := re.fullmatch(r"layer_(\d+)_block_(\d+)", name):
            cut = Cut.of(golden[f"out/{name}"].shape[1:4], config.window)
            account.output(f"out/{name}", cut.merge(inner[f"stage{int(found[1]) + 1}/block{found[2]}"]))
        elif found := re.fullmatch(r"layer_(\d+)", name):
            account.output(f"out/{name}", np.moveaxis(np.asarray(inner[f"stage{int(found[1]) + 1}"]), -1, 1))


_INTERMEDIATES = {"pvt": _pvt_intermediates, "resnet": _resnet_intermediates, "video_swin": _swin_intermediates}


# ---------------------------------------------------------------------- cross branch
def cross_case(golden: Golden, account: Account) -> None:
    """The cross branch on captions and clip tokens, and with every caption repeated for each of its clips."""
    state, heads = golden.group("param/"), golden.config["text_encoder"]["params"]["num_attention_heads"]
    config = bert_sizes(state, "text_encoder.", heads)
    model = SNP(SNPConfig(config, PVTConfig(), sep_id=102))
    rules = map_bert(config, "text_encoder.") | map_pooler(config, "cross_pooler", "cross_pooler")
    loaded = load_params(model, rules, state)
    ids, mask = golden["in/input_ids"], golden["in/attention_mask"].astype(bool)

    def crossed(params, ids, mask, tokens, clip_mask):
        net = Network(model, params)
        captions, clips = net.caption_inputs(ids, mask), net.clip_inputs(tokens, clip_mask)
        cross = net.cross(captions, clips)
        return {
            "text_embed": captions.embedded, "visual_embed": clips.embedded, "visual_attention_mask": clips.mask,
            "cap_seq_output": cross.sequence, "visual_seq_output": cross.clips, "pooled_output": cross.pooled,
        }  # fmt: skip

    def objective(params):
        outputs = crossed(params, ids, mask, golden["in/visual_embed"], ~golden["in/visual_mask"])
        pairs = {"cot_text": "cap_seq_output", "cot_visual": "visual_seq_output", "cot_pooled": "pooled_output"}
        return sum(jnp.sum(outputs[name] * golden[f"in/{cotangent}"]) for cotangent, name in pairs.items()), outputs

    value, outputs, gradients = differentiate(objective, loaded.params)
    account.exact("out/visual_attention_mask", np.asarray(outputs.pop("visual_attention_mask")).astype(np.int32))
    account.outputs("out/", outputs)
    account.loss("out/objective", value)
    account.gradients(without_padding_word(foreign_gradients(rules, gradients), golden))
    if "in/visual_embed_rep" in golden:
        tokens = golden["in/visual_embed_rep"]
        copies = len(tokens) // len(ids)
        rows = np.repeat(ids, copies, axis=0), np.repeat(mask, copies, axis=0)
        again = compiled(crossed)(loaded.params, *rows, tokens, np.ones(tokens.shape[:2], bool))
        account.outputs("out/rep_", again)
