"""The same numbers as implementations that anyone can install: `transformers` on PyTorch's CPU build.

Models with random weights are saved by `transformers`, converted by us, and run on both sides.
"""

from __future__ import annotations

import jax
import numpy as np
import pytest

from snp_jax.convert.files import write_state
from snp_jax.convert.formats import load
from snp_jax.convert.sizes import bert_from_json, visual_from_json
from snp_jax.models.bert import Embeddings, Encoder, Pooler
from snp_jax.models.pvt import PVT

REASON = "PyTorch and transformers are not installed (pip install '.[parity]')"
torch = pytest.importorskip("torch", reason=REASON)
transformers = pytest.importorskip("transformers", reason=REASON)

SIZES = {
    "tiny": dict(hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=40, max_position_embeddings=33),
    "deep": dict(hidden_size=64, num_hidden_layers=6, num_attention_heads=4, intermediate_size=128, max_position_embeddings=64),
}


def randomise(model):
    """Weights far from their initialisation, norms included; every part shows in the numbers."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + 0.2 * noise if parameter.ndim == 1 and name.endswith("weight") else 0.2 * noise)
    return model.eval()


def run_bert(params, sizes, ids, mask):
    """Hidden states after each layer's stack, and the pooled output."""
    config = bert_from_json(sizes)
    embeddings = Embeddings(config)
    at = {"params": params["embeddings"]}
    vectors = embeddings.apply(at, ids, method="words")
    x = embeddings.apply(at, vectors, 0, deterministic=True)
    hidden, _ = Encoder(config).apply({"params": params["encoder"]}, x, mask, deterministic=True)
    return x, hidden, Pooler(config).apply({"params": params["pooler"]}, hidden)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("saved_as", ["safetensors", "bin", "with heads"])
def test_bert(size, saved_as, tmp_path):
    config = transformers.BertConfig(vocab_size=99, **SIZES[size])
    make = transformers.BertForPreTraining if saved_as == "with heads" else transformers.BertModel
    model = randomise(make(config))
    if saved_as == "bin":
        config.save_pretrained(tmp_path)
        torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    else:
        model.save_pretrained(tmp_path)
    imported = load("hf-bert", tmp_path)
    assert not imported.missing
    assert all(name.startswith("cls.") for name in imported.unused)

    rng = np.random.default_rng(0)
    ids, length = rng.integers(1, 99, (3, 12)), np.array([12, 7, 3])
    mask = np.arange(12) < length[:, None]
    encoder = model.bert if saved_as == "with heads" else model
    with torch.no_grad():
        wanted = encoder(torch.tensor(ids), attention_mask=torch.tensor(mask), output_hidden_states=True)
    embedded, hidden, pooled = run_bert(imported.params, imported.sizes["bert"], ids.astype(np.int32), mask)
    np.testing.assert_allclose(embedded, wanted.hidden_states[0].numpy(), atol=1e-4)
    np.testing.assert_allclose(np.asarray(hidden)[mask], wanted.last_hidden_state.numpy()[mask], atol=1e-4)
    np.testing.assert_allclose(pooled, wanted.pooler_output.numpy(), atol=1e-4)


def official_names(state):
    """A PVTv2 of `transformers` under the names of the official checkpoints."""
    rules = {
        "patch_embedding.proj": "patch_embed{}.proj", "patch_embedding.layer_norm": "patch_embed{}.norm",
        "layer_norm": "norm{}", "layer_norm_1": "norm1", "layer_norm_2": "norm2", "attention.query": "attn.q",
        "attention.proj": "attn.proj",
        "attention.spatial_reduction": "attn.sr", "attention.layer_norm": "attn.norm", "mlp.dense1": "mlp.fc1",
        "mlp.dwconv.dwconv": "mlp.dwconv.dwconv", "mlp.dense2": "mlp.fc2",
    }  # fmt: skip
    official = {}
    for name, tensor in state.items():
        stage, rest = name.removeprefix("encoder.layers.").split(".", 1)
        number, (place, _, part) = int(stage) + 1, rest.rpartition(".")
        block = ""
        if place.startswith("blocks."):
            _, index, place = place.split(".", 2)
            block = f"block{number}.{index}."
        if place in ("attention.key", "attention.value"):
            if place.endswith("key"):
                value = state[name.replace(".key.", ".value.")]
                official[f"{block}attn.kv.{part}"] = torch.cat([tensor, value]).numpy()
            continue
        official[f"{block}{rules[place].format(number)}.{part}"] = tensor.numpy()
    return official


@pytest.mark.parametrize("linear", [False, True], ids=["b2", "b2_li"])
def test_pvt(linear, tmp_path):
    config = transformers.PvtV2Config(
        image_size=64, hidden_sizes=[16, 32, 40, 64], depths=[2, 1, 2, 1], num_attention_heads=[1, 2, 5, 8],
        mlp_ratios=[4, 4, 2, 2], linear_attention=linear, drop_path_rate=0.0,
    )  # fmt: skip
    model = randomise(transformers.PvtV2Model(config))
    write_state(tmp_path / "pvt.safetensors", official_names(model.state_dict()), {})
    imported = load("pvt", tmp_path / "pvt.safetensors")
    assert not imported.unused and not imported.missing
    sizes = visual_from_json(imported.sizes["visual"] | {"heads": config.num_attention_heads})
    assert sizes.linear == linear

    frames = np.random.default_rng(0).standard_normal((2, 3, 64, 96, 3)).astype(np.float32)
    with torch.no_grad():
        wanted = model(torch.tensor(frames.reshape(6, 64, 96, 3).transpose(0, 3, 1, 2))).last_hidden_state.numpy()
    run = jax.jit(lambda params, frames: PVT(sizes).apply({"params": params}, frames, deterministic=True).grid)
    grid = run(imported.params["visual"], frames)
    got = np.asarray(grid).reshape(6, *grid.shape[2:]).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-4 * np.abs(wanted).max())
