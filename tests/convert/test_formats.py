"""Importing each kind of weights: sizes from the file alone, cleaning, what is refused."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from snp_jax.convert import antmmf
from snp_jax.convert.bert import map_bert
from snp_jax.convert.files import write_state
from snp_jax.convert.formats import FORMATS, load
from snp_jax.convert.pvt import map_pvt
from snp_jax.convert.resize import fit_positions, fit_relative, fit_to
from snp_jax.convert.resnet import map_resnet
from snp_jax.convert.sizes import bert_from_json, to_json, visual_from_json, window_of_table
from snp_jax.convert.video_swin import inflate, map_video_swin
from snp_jax.errors import UserError
from snp_jax.models.bert import BertConfig
from snp_jax.models.pvt import PVTConfig
from snp_jax.models.resnet import ResNetConfig
from snp_jax.models.snp import SNPConfig
from snp_jax.models.temporal import TemporalConfig
from snp_jax.models.video_swin import VideoSwinConfig

BERT = BertConfig(vocab_size=11, width=4, layers=2, heads=1, mlp_width=6, max_positions=9)
PVT = PVTConfig((4, 4, 8, 8), (1, 2, 1, 1), (1, 1, 1, 1), (2, 2, 2, 3), (4, 2, 2, 1))
RESNET = ResNetConfig((1, 2, 1, 1), (2, 2, 4, 4), 3)
SWIN = VideoSwinConfig(4, (1, 2, 1, 1), (1, 2, 1, 2), (3, 2, 2))
VISUAL = {
    "pvt": (PVT, map_pvt), "torchvision-resnet50": (RESNET, map_resnet), "video-swin": (SWIN, map_video_swin),
}  # fmt: skip


def random_state(rules, seed=0):
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(rule.shape).astype(np.float32) for name, rule in rules.items()}


@pytest.fixture
def save(tmp_path):
    def save(state, name="weights.bin"):
        write_state(tmp_path / name, state, {})
        return tmp_path / name

    return save


# ---------------------------------------------------------------------- kinds
@pytest.mark.parametrize("kind", VISUAL)
@pytest.mark.parametrize("prefix", ["", "backbone."])
def test_visual_encoders_from_the_file_alone(kind, prefix, save):
    config, make_rules = VISUAL[kind]
    state = random_state(make_rules(config, prefix))
    imported = load(kind, save({**state, "fc.weight": np.zeros((2, 3), np.float32)}))
    assert not imported.missing and list(imported.unused) == ["fc.weight"]
    assert list(imported.params) == ["visual"]
    found = visual_from_json(json.loads(json.dumps(imported.sizes["visual"])))
    for field in dataclasses.fields(config):
        assert getattr(found, field.name) == getattr(config, field.name), field.name
    assert FORMATS[kind].rules(imported.sizes).keys() == make_rules(config, prefix).keys()


def test_linear_pvt_is_recognised(save):
    config = dataclasses.replace(PVT, linear=True, sr_ratios=PVTConfig().sr_ratios)
    imported = load("pvt", save(random_state(map_pvt(config))))
    assert visual_from_json(imported.sizes["visual"]) == config


def test_bert_with_heads_and_old_names(save):
    state = random_state(map_bert(BERT, "bert."))
    old = {
        n.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): a
        for n, a in state.items()
    }
    imported = load("hf-bert", save({**old, "cls.predictions.bias": np.zeros(11, np.float32)}))
    assert list(imported.unused) == ["cls.predictions.bias"] and not imported.missing
    assert list(imported.params) == ["embeddings", "encoder", "pooler"]
    assert bert_from_json(imported.sizes["bert"]) == BERT
    np.testing.assert_array_equal(imported.params["embeddings"]["norm"]["scale"], state["bert.embeddings.LayerNorm.weight"])
    assert any("gamma" in note for note in imported.notes)


def test_bert_may_lack_its_pooler(save):
    state = random_state(map_bert(BERT))
    path = save({name: array for name, array in state.items() if "pooler" not in name})
    assert load("hf-bert", path).missing == ["pooler.dense.bias", "pooler.dense.weight"]


def test_half_precision_becomes_float32(save):
    state = {name: array.astype(np.float16) for name, array in random_state(map_bert(BERT)).items()}
    imported = load("hf-bert", save(state))
    assert imported.params["pooler"]["dense"]["kernel"].dtype == np.float32
    assert any("stored as float32" in note for note in imported.notes)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model_type": "roberta"}, "model_type is 'roberta'"),
        ({"hidden_act": "relu"}, "hidden_act is 'relu'"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type is 'relative_key'"),
    ],
)
def test_a_relative_of_bert_is_refused(settings, message, save, tmp_path):
    save(random_state(map_bert(BERT)), "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"num_attention_heads": 2}))
    assert load("hf-bert", tmp_path).sizes["bert"]["heads"] == 2
    (tmp_path / "config.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match=message):
        load("hf-bert", tmp_path)
    with pytest.raises(UserError, match="a relative of it"):
        load("hf-bert", save(random_state(map_bert(BERT, "roberta.")), "other.bin"))


@pytest.mark.parametrize("visual", [PVT, RESNET, SWIN], ids=["pvt", "resnet", "video_swin"])
@pytest.mark.parametrize(("prefix", "answers"), [("model.", 0), ("", 0), ("", 5)], ids=["pretrain", "retrieval", "qa"])
def test_a_checkpoint_of_the_release(visual, prefix, answers, save):
    """Under every name that its modules have, and wrapped by DistributedDataParallel."""
    temporal = TemporalConfig(layers=1, max_positions=5, max_clips=3) if prefix else None
    config = SNPConfig(BERT, visual, sep_id=102, num_answers=answers, itm=bool(prefix), temporal=temporal)
    release = antmmf.Release(config, prefix, word_heads=bool(prefix), matching=not answers)
    state = random_state(antmmf.map_release(release))
    full = antmmf.expand(state)
    assert len(full) > len(state)
    imported = load("antmmf", save({f"module.{name}": array for name, array in full.items()} if prefix else full))
    assert not imported.unused and not imported.missing
    assert antmmf.from_json(json.loads(json.dumps(imported.sizes))) == release
    assert ("match_fc1" in imported.params) == (answers == 0) and ("answer" in imported.params) == (answers > 0)


def test_arrays_that_should_be_one_are_compared(save):
    release = antmmf.Release(SNPConfig(BERT, PVT, sep_id=102), "model.", word_heads=True, matching=True)
    full = antmmf.expand(random_state(antmmf.map_release(release)))
    full["model.module.cross_embeddings.LayerNorm.bias"] = np.full(4, 9, np.float32)
    with pytest.raises(UserError, match="cross_embeddings.LayerNorm.bias and .* are one array in the release, but differ"):
        load("antmmf", save(full))


def test_index_of_relative_positions_is_written():
    release = antmmf.Release(SNPConfig(BERT, SWIN, sep_id=102), "model.", word_heads=True, matching=True)
    index = antmmf.unlearnt(release)["model.module.img_encoder.swin.layers.1.blocks.1.attn.relative_position_index"]
    assert index.shape == (12, 12) and index.dtype == np.int64
    assert index.min() == 0 and index.max() == 5 * 3 * 3 - 1
    assert (index.diagonal() == (5 * 3 * 3) // 2).all()


# ---------------------------------------------------------------------- what is refused
def test_another_kind_of_file(save):
    path = save(random_state(map_resnet(RESNET)))
    for kind, message in (("hf-bert", "0 names end in"), ("pvt", "0 names end in"), ("antmmf", "not a checkpoint of the SNP")):
        with pytest.raises(UserError, match=rf"weights.bin, read as {kind}: .*{message}"):
            load(kind, path)


def test_missing_renamed_and_wrong_arrays(save):
    state = random_state(map_pvt(PVT))
    lacking = {name: array for name, array in state.items() if "block3.0.attn" not in name}
    with pytest.raises(UserError, match=r"lacks 6 of \d+ arrays \(block3.0.attn.kv.bias, .*, \.\.\.\)"):
        load("pvt", save(lacking))
    assert len(load("pvt", save(lacking), partial=True).missing) == 6
    renamed = {name.replace("norm4", "last_norm"): array for name, array in state.items()}
    with pytest.raises(UserError, match=r"lacks 2 of .* \(norm4.bias, norm4.weight\)"):
        load("pvt", save(renamed))
    with pytest.raises(UserError, match=r"norm3.weight has shape \(7,\), but the configured model needs \(8,\)"):
        load("pvt", save({**state, "norm3.weight": np.zeros(7, np.float32)}))
    with pytest.raises(UserError, match=r"patch_embed2.proj.weight has shape \(4, 4\), expected 4 axes"):
        load("pvt", save({**state, "patch_embed2.proj.weight": np.zeros((4, 4), np.float32)}))


# ---------------------------------------------------------------------- tables
def test_positions_are_cut_or_repeated():
    table = np.arange(8).reshape(4, 2)
    np.testing.assert_array_equal(fit_positions(table, 3), table[:3])
    np.testing.assert_array_equal(fit_positions(table, 6), np.concatenate([table, table[:2]]))


def test_relative_tables_keep_centre_and_ends():
    rng = np.random.default_rng(0)
    table = rng.standard_normal((5 * 3 * 3, 2)).astype(np.float32)
    np.testing.assert_array_equal(fit_relative(table, (3, 2, 2), (3, 2, 2)), table)
    grown = fit_relative(table, (3, 2, 2), (5, 4, 4))
    assert grown.shape == (9 * 7 * 7, 2) and grown.dtype == np.float32
    np.testing.assert_allclose(grown[[0, len(grown) // 2, -1]], table[[0, len(table) // 2, -1]], rtol=1e-6)
    steady = fit_relative(np.ones((5 * 3 * 3, 2), np.float32), (3, 2, 2), (2, 4, 3))
    np.testing.assert_allclose(steady, 1.0, rtol=1e-6)


def test_relative_tables_are_interpolated_as_pytorch_does():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed (pip install '.[parity]')")
    table = np.random.default_rng(0).standard_normal((13 * 13, 3)).astype(np.float32)
    wanted = torch.nn.functional.interpolate(
        torch.tensor(table.T.reshape(1, 3, 13, 13)), size=(23, 9), mode="bicubic", align_corners=True
    )
    got = fit_relative(table, (1, 7, 7), (1, 12, 5))
    np.testing.assert_allclose(got.T.reshape(wanted.shape), wanted.numpy(), atol=1e-5)


@pytest.mark.parametrize("window", [(8, 7, 7), (16, 7, 7), (1, 7, 7), (3, 2, 2)])
def test_window_of_a_table(window):
    entries = int(np.prod([2 * side - 1 for side in window]))
    assert window_of_table(entries) == window
    assert window_of_table(entries, int(np.prod(window))) == window


def test_window_of_a_table_may_be_unknown():
    with pytest.raises(UserError, match="a relative-position table of 225 entries .* 3 square windows fit"):
        window_of_table(225)  # (13, 2, 2), (5, 3, 3) and (1, 8, 8)
    assert window_of_table(225, 64) == (1, 8, 8)


def test_fitting_is_asked_for_by_name():
    params = {"embeddings": {"position": {"embedding": np.zeros((9, 4))}}, "pooler": {"bias": np.zeros(4)}}
    wanted = {"embeddings/position/embedding": (6, 4), "pooler/bias": (4,), "more": (1,)}
    with pytest.raises(
        UserError, match=r"position/embedding is \(9, 4\) in the file and \(6, 4\) in the config; pass --resize"
    ):
        fit_to(params, wanted, None, allow=False)
    fitted, changes = fit_to(params, wanted, None, allow=True)
    assert fitted["embeddings"]["position"]["embedding"].shape == (6, 4)
    assert [(change.before, change.after, change.how) for change in changes] == [((9, 4), (6, 4), "its first 6 rows")]
    with pytest.raises(UserError, match=r"pooler/bias is \(4,\) in the file and \(5,\) in the config; choose the config"):
        fit_to(params, {**wanted, "pooler/bias": (5,)}, None, allow=True)
    with pytest.raises(UserError, match="its model has no parameter pooler/bias"):
        fit_to({"pooler": params["pooler"]}, {}, None, allow=True)


def test_a_swin_of_pictures_gets_a_time_axis(save):
    flat = dataclasses.replace(SWIN, window=(1, 7, 7))
    state = random_state(map_video_swin(flat))
    state["patch_embed.proj.weight"] = state["patch_embed.proj.weight"][:, :, 0]
    state["layers.0.blocks.0.attn.relative_position_index"] = np.zeros((49, 49), np.int64)
    imported = load("video-swin", save(state))
    assert visual_from_json(imported.sizes["visual"]) == dataclasses.replace(flat, window=(8, 7, 7))
    kernel = imported.params["visual"]["patch_embed"]["kernel"]  # [2, 4, 4, 3, C]
    np.testing.assert_array_equal(kernel.sum(axis=0), state["patch_embed.proj.weight"].transpose(2, 3, 1, 0))
    table = imported.params["visual"]["stage2"]["block1"]["attn"]["relative_bias"].reshape(15, 169, -1)
    for row in table:
        np.testing.assert_array_equal(row, state["layers.1.blocks.1.attn.relative_position_bias_table"])
    assert not imported.unused and "repeated along time" in imported.notes[0]
    assert "layers.0.blocks.0.attn.relative_position_index" not in inflate(state)


def test_configs_survive_json():
    for config in (BERT, PVT, RESNET, SWIN):
        back = bert_from_json if config is BERT else visual_from_json
        assert back(json.loads(json.dumps(to_json(config)))) == config
