"""Where parameters live: the rules, and that the documentation lists them."""

from __future__ import annotations

import re
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from snp_jax.errors import UserError
from snp_jax.train import sharding
from snp_jax.train.sharding import MeshOptions

DOCS = Path(__file__).parents[2] / "docs" / "training.md"


def test_the_table_in_the_documentation_is_the_rules():
    section = DOCS.read_text().split("## Sharding")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `(.*?)` \| `(.*?)` \|", section.replace("\\|", "¦"), flags=re.M)
    assert [(pattern.replace("¦", "|"), spec) for pattern, spec in rows] == [
        (pattern, str(tuple(spec))) for pattern, spec in sharding.PARAMETER_RULES
    ]


def test_rules_of_paths():
    expected = {
        "params/encoder/layer3/attention/query/kernel": P("fsdp", "model"),
        "params/cross_encoder/layer0/attention/value/bias": P("model"),
        "opt_state/1/0/mu/encoder/layer3/attention/out/kernel": P("model", "fsdp"),
        "params/encoder/layer11/mlp_out/bias": P(),
        "params/embeddings/word/embedding": P("model", "fsdp"),
        "params/embeddings/position/embedding": P("fsdp"),
        "params/visual/stage1/block0/attn/q/kernel": P("fsdp"),
        "params/text_words/dense/kernel": P("fsdp"),
        "params/text_words/bias": P("model"),
        "memory/clip_queue": P(),
    }
    assert {path: sharding.rule_of(path) for path in expected} == expected


def test_an_axis_that_the_mesh_does_not_divide_stays_whole():
    mesh = sharding.make_mesh(MeshOptions(data=1, fsdp=2, model=4))
    shapes = {"word": {"embedding": (30522, 768)}, "layer0": {"mlp_in": {"kernel": (12, 5, 8)}}, "scale": (4,)}
    state = jax.tree.map(lambda shape: jax.ShapeDtypeStruct(shape, np.float32), shapes, is_leaf=lambda x: isinstance(x, tuple))
    placed = sharding.state_shardings(state, mesh)
    assert placed["word"]["embedding"].spec == P(None, "fsdp")
    assert placed["layer0"]["mlp_in"]["kernel"].spec == P(None, None, "model")  # a stack of layers; 5 rows
    assert placed["scale"].is_fully_replicated


def test_one_size_may_be_left_open():
    assert dict(sharding.make_mesh(MeshOptions(data=-1, fsdp=2, model=2)).shape) == {"data": 2, "fsdp": 2, "model": 2}
    assert sharding.batch_shards(sharding.make_mesh(MeshOptions(data=-1, fsdp=2, model=2))) == 4
    with pytest.raises(UserError, match="data=3 x fsdp=1 x model=1 does not give the 8 devices present"):
        sharding.make_mesh(MeshOptions(data=3, fsdp=1))
