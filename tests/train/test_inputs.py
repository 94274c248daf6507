"""What a config asks of the pipeline, and the answer vocabulary of a QA run: the dataset's own if it has one."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import common
from snp_jax.data.pipeline import open_source
from snp_jax.data.tasks import CaptionText, TwoWindowsText
from snp_jax.errors import UserError
from snp_jax.train import build, inputs


def config(num_answers):
    return ConfigDict({"model": {"num_answers": num_answers}})


@dataclasses.dataclass
class Prepared:
    """A prepared dataset with its own answers."""

    directory: str


def test_without_a_vocabulary_of_its_own_it_is_made_from_the_training_split(prepared_dataset, tmp_path):
    answers = inputs.adopt_answers(config(5), tmp_path, open_source(prepared_dataset, "train"))
    assert answers == {"red": 0, "blue": 1} == json.loads((tmp_path / "answers.json").read_text())


def test_the_vocabulary_of_the_dataset_is_taken_as_it_is(tmp_path):
    dataset, workdir = tmp_path / "data", tmp_path / "run"
    dataset.mkdir(), workdir.mkdir()
    (dataset / "answers.json").write_text('{"zebra": 0, "ant": 1}')
    with pytest.raises(UserError, match="was prepared with 2 answers, config.model.num_answers is 1; set it to at least 2"):
        inputs.adopt_answers(config(1), workdir, Prepared(str(dataset)))
    assert inputs.adopt_answers(config(2), workdir, Prepared(str(dataset))) == {"zebra": 0, "ant": 1}
    (dataset / "answers.json").unlink()
    assert inputs.adopt_answers(config(2), workdir, Prepared(str(dataset))) == {"zebra": 0, "ant": 1}  # the run's own copy


def test_the_release_s_frames_and_windows_are_switches_of_the_config(tmp_path):
    plain, release = common.base("pretrain"), common.antmmf(common.base("pretrain"))
    assert not inputs.clip_spec(plain).exclusive_segments and inputs.clip_spec(release).exclusive_segments
    kinds = [type(inputs.text_of_task(config, None, tmp_path, None)) for config in (plain, release)]
    assert kinds == [CaptionText, TwoWindowsText]
    retrieval = common.antmmf(common.base("retrieval"))  # reads no masked copy
    assert type(inputs.text_of_task(retrieval, None, tmp_path, None)) is CaptionText
    release.clip.frames_per_clip = 2
    with pytest.raises(UserError, match="exclusive_segments .* config.clip.frames_per_clip=2 must be 1"):
        inputs.clip_spec(release)


def test_one_dataset_or_several(prepared_dataset):
    config = common.base("pretrain")
    config.dataset.path = str(prepared_dataset)
    assert inputs.training_videos(config).sizes == {"": 16}
    assert inputs.evaluated_dataset(config) == str(prepared_dataset)
    config.dataset.path, config.dataset.weights = (str(prepared_dataset),) * 2, (1, 3)
    mixed = inputs.training_videos(config)
    name = prepared_dataset.name
    assert mixed.sizes == {name: 16, f"{name}#2": 16} and mixed.shares == (0.25, 0.75)
    assert mixed[16].annotation.video_id == f"{name}#2:{mixed.sources[1][0].annotation.video_id}"
    with pytest.raises(UserError, match="names several datasets: evaluate on one"):
        inputs.evaluated_dataset(config)
    config.task = "qa"
    with pytest.raises(UserError, match="names 2 datasets: only pretrain and retrieval mix them, not qa"):
        inputs.training_videos(config)


def test_sizes_of_frames():
    config = common.base("pretrain")
    config.clip.update(fit="pad", buckets=[[24, 32], [32, 24]], crop_size=[16, 16])  # lists: as a stored config has them
    spec = inputs.clip_spec(config)
    assert spec.sizes == ((24, 32), (32, 24)) and spec.network_size == (16, 16)
    config.clip.fit = "stretch"
    with pytest.raises(UserError, match='buckets are for frames that keep their aspect ratio: they need fit="pad"'):
        inputs.clip_spec(config)
    config.clip.update(fit="cover", buckets=())
    with pytest.raises(UserError, match="config.clip: fit='cover' must be one of stretch, pad"):
        inputs.clip_spec(config)


@pytest.mark.parametrize(
    ("lengths", "multiple", "kept"),
    [((5, 3), 8, 8), ((8, 3), 8, 8), ((9, 3), 8, 12), ((7, 3), 4, 8), ((5, 2), 0, 12), ((0, 0), 4, 4), ((11, 2), 1, 11)],
)
def test_padding_that_all_texts_share_is_cut(lengths, multiple, kept):
    mask = np.arange(12) < np.array(lengths)[:, None]
    ids = np.where(mask, np.arange(12) + 1, 0)
    batch = {
        "text_ids": ids,
        "text_mask": mask,
        "text_ids_to_mask": ids,
        "video": np.zeros((2, 1, 12, 12)),
        "valid": np.ones(2),
    }
    cut = inputs.cut_padding(batch, multiple)
    assert cut.keys() == batch.keys()
    for name, value in cut.items():
        wanted = batch[name][..., :kept] if name.startswith("text") else batch[name]
        np.testing.assert_array_equal(value, wanted, name)
    assert cut["text_mask"].sum() == mask.sum()


def test_places_of_real_tokens_and_the_room_for_them():
    mask = np.arange(8) < np.array([3, 2, 8, 1])[:, None]
    np.testing.assert_array_equal(inputs.text_places(mask[[0, 1]], 8, 1), [0, 1, 2, 8, 9, 16])  # 5 of 16, room for 3/8
    np.testing.assert_array_equal(inputs.text_places(mask[[0, 1]], 2, 1), [0, 1, 2, 8, 9, 16, 16, 16])
    np.testing.assert_array_equal(inputs.text_places(mask[[0, 1, 1, 3]], 8, 2), [0, 1, 2, 8, 9, 16, 0, 1, 8, 16, 16, 16])
    for padded in (inputs.text_places(mask[[2]], 8, 1), inputs.text_places(mask, 0, 1), inputs.text_places(mask[:, :3], 8, 4)):
        assert padded is None
    options = mask[[0, 1, 3]][None]  # of a choice: [1, 3, 8]
    np.testing.assert_array_equal(inputs.text_places(options, 4, 1), [0, 1, 2, 8, 9, 16])


def test_texts_are_packed_where_one_program_a_part_reads_them(monkeypatch):
    config, mesh = common.base("pretrain"), build.build_mesh(common.base("pretrain"), jax.devices()[:1])
    arrays = {"text_mask": np.arange(30) < np.array([5, 3])[:, None], "valid": np.ones(2, bool)}
    assert inputs.trim_texts(arrays, config, mesh)["text_places"].shape == (8,)  # cut to 8 tokens a text, 8 of 16 are real
    for key, value in {"text.pack": 0, "optim.accumulate": 2, "task": "tagging"}.items():
        changed = common.base("pretrain")
        changed.update_from_flattened_dict({key: value})
        assert inputs.trim_texts(arrays, changed, mesh).keys() == arrays.keys(), key
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    assert inputs.trim_texts(arrays, config, mesh)["text_mask"].shape == (2, 30)  # shapes must agree


def test_padding_of_options_is_cut_to_the_longest_option():
    mask = np.zeros((2, 5, 12), bool)
    mask[1, 3, :6] = True
    assert inputs.cut_padding({"text_mask": mask, "text_ids": mask.astype(int)}, 4)["text_ids"].shape == (2, 5, 8)
