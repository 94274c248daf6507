"""The shared network: parity with the authors' PyTorch code down to losses and gradients, and its size."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import common
from snp_jax.convert.bert import map_bert, map_pooler
from snp_jax.convert.rules import apply, invert
from snp_jax.convert.snp import map_snp
from snp_jax.models.bert import BertConfig
from snp_jax.models.network import Network
from snp_jax.models.pvt import PVTConfig
from snp_jax.models.snp import SNP, SNPConfig
from snp_jax.train.build import build_visual

GOLDENS = Path(__file__).parents[1] / "goldens"
CONFIG = SNPConfig(
    bert=BertConfig(vocab_size=200, width=32, layers=2, heads=2, mlp_width=64, max_positions=40),
    visual=PVTConfig((8, 16, 20, 32), (1, 1, 1, 1), (1, 2, 5, 8), (2, 2, 2, 2)),
    sep_id=102,
)
MODEL = SNP(CONFIG)


def load(name, rules):
    """(arrays, parameters, names of the state that no rule wants) of a golden."""
    golden = dict(np.load(GOLDENS / f"{name}.npz"))
    state = {key[6:]: golden[key] for key in golden if key.startswith("param/")}
    applied = apply(rules, state)
    assert not applied.missing
    return golden, applied.params, applied.unused


def close(got, wanted, tolerance=1e-4):
    assert got.shape == wanted.shape
    np.testing.assert_allclose(got, wanted, rtol=0, atol=tolerance * np.abs(wanted).max())


def check_gradients(rules, gradients, golden, without=()):
    ours = invert(rules, gradients)
    recorded = [key[5:] for key in golden if key.startswith("grad/") and key[5:] not in without]
    assert len(recorded) >= 9
    for name in recorded:
        # PyTorch stops the gradient of the padding word (id 0); ours has one where a padded output is used.
        skip = int(name.endswith("word_embeddings.weight"))
        close(ours[name][skip:], golden[f"grad/{name}"][skip:], 1e-3)


def encode_video(params, golden):
    frames = golden["in/image_data"].transpose(0, 1, 3, 4, 2)
    return MODEL.apply(
        {"params": params}, frames, np.ones(frames.shape[:2], bool), num_clips=int(golden["in/n_clips"]),
        pixel_mask=~golden["in/image_pad_mask"], deterministic=True, method="encode_video",
    )  # fmt: skip


def test_cross_branch():
    bert = map_bert(CONFIG.bert, "text_encoder.") | map_pooler(CONFIG.bert, "cross_pooler", "cross_pooler")
    golden, params, unused = load("cross_encoder", bert)
    assert not unused
    mask, clip_mask = golden["in/attention_mask"].astype(bool), ~golden["in/visual_mask"]

    def run(params, ids, mask, tokens, clip_mask):
        net = Network(MODEL, params)
        captions, clips = net.caption_inputs(ids, mask), net.clip_inputs(tokens, clip_mask)
        return captions, clips, net.cross(captions, clips)

    def objective(params):
        outputs = run(params, golden["in/input_ids"], mask, golden["in/visual_embed"], clip_mask)
        parts = zip(outputs[2], ("text", "visual", "pooled"), strict=True)
        return sum(jnp.sum(part * golden[f"in/cot_{name}"]) for part, name in parts), outputs

    (value, (captions, clips, cross)), gradients = jax.jit(jax.value_and_grad(objective, has_aux=True))(params)
    close(captions.embedded, golden["out/text_embed"])
    close(clips.embedded, golden["out/visual_embed"])
    np.testing.assert_array_equal(clips.mask, golden["out/visual_attention_mask"])
    names = ("cap_seq_output", "visual_seq_output", "pooled_output")
    for part, name in zip(cross, names, strict=True):
        close(part, golden[f"out/{name}"])
    np.testing.assert_allclose(value, golden["out/objective"], rtol=1e-4)
    check_gradients(bert, gradients, golden)

    # A caption with each of its clips alone: the release repeats the caption.
    twice = np.repeat(golden["in/input_ids"], 2, axis=0), np.repeat(mask, 2, axis=0)
    tokens = golden["in/visual_embed_rep"]
    repeated = run(params, *twice, tokens, np.ones(tokens.shape[:2], bool))[2]
    for part, name in zip(repeated, names, strict=True):
        close(part, golden[f"out/rep_{name}"])


@pytest.fixture(scope="module")
def paper_shapes():
    """Parameter shapes of the config's model with BERT's vocabulary; no memory is taken."""
    config = common.base("pretrain")
    bert = BertConfig(vocab_size=30522, **config.model.bert.to_dict())
    snp = SNP(SNPConfig(bert, build_visual(config), sep_id=102))
    frames = jax.ShapeDtypeStruct((1, 1, 224, 224, 3), jnp.float32)
    ids = jax.ShapeDtypeStruct((1, 30), jnp.int32)
    masks = jax.ShapeDtypeStruct((1, 1), bool), jax.ShapeDtypeStruct((1, 30), bool)
    init = lambda *inputs: snp.init(jax.random.key(0), *inputs, num_clips=1)["params"]  # noqa: E731
    return snp.config, jax.eval_shape(init, frames, masks[0], ids, masks[1])


def test_size_of_the_published_model(paper_shapes):
    _, shapes = paper_shapes
    size = {name: sum(leaf.size for leaf in jax.tree.leaves(part)) for name, part in shapes.items()}
    assert size["embeddings"] + size["encoder"] + size["pooler"] == 109_482_240  # BERT-base
    # PVTv2-B2 is 25,362,856 with its 1000-way head, which we do not have.
    assert size["visual"] == 25_362_856 - (512 * 1000 + 1000)
    assert size["visual_projection"] == 512 * 768 + 768
    assert size["clip_fc1"] == size["clip_fc2"] == size["cross_pooler"] == 768 * 768 + 768
    assert size["text_words"] == size["cross_words"] == 768 * 768 + 768 + 2 * 768 + 30522
    assert size["match_fc1"] + size["match_fc2"] == 768 * 1536 + 1536 + 1536 + 1
    # What the paper's 161,101,087 count besides: the 1000-way head, the ITM head and the temporal encoder.
    itm = 768 * 2 + 2
    head = 512 * 1000 + 1000
    layer = 4 * (768 * 768 + 768) + 2 * (2 * 768) + 2 * 768 * 3072 + 3072 + 768
    rest = 161_101_087 - sum(size.values()) - itm - head
    assert 0 < rest - 3 * layer < 1_000_000  # three layers, and the temporal encoder's own embeddings


def test_release_names_cover_every_parameter_once(paper_shapes):
    config, shapes = paper_shapes
    leaves = jax.tree_util.tree_leaves_with_path(shapes)
    ours = sorted(jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves)
    assert sorted(rule.path for rule in map_snp(config).values()) == ours
