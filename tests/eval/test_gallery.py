"""What the report shows of a model, from a tiny run and its scores."""

from __future__ import annotations

import numpy as np
import pytest

from snp_jax.data.pipeline import open_source, read_annotations
from snp_jax.errors import UserError
from snp_jax.eval.evaluate import encode_videos, scorer_of
from snp_jax.eval.gallery import FRAME_SIZE, Frames, heat_maps, retrieval_queries
from snp_jax.eval.scores import RetrievalScores, load_scores, save_scores
from snp_jax.train.restore import open_run


@pytest.fixture
def run(pretrained):
    return open_run(pretrained)


@pytest.fixture
def config(tiny_config):
    return tiny_config("retrieval")


@pytest.fixture
def scores():
    """Three texts, four videos of the prepared split "val"; video 2 is broken; stage 2 prefers the right one but for text 1."""
    stage2 = np.full((3, 4), np.nan, np.float32)
    stage2[[0, 0, 1, 1, 2], [0, 1, 0, 1, 3]] = [0.9, 0.1, 0.8, 0.2, 0.7]
    ranking = np.array([[3, 2, -np.inf, 1], [3, 2, -np.inf, 1], [1, 2, -np.inf, 3]], np.float32)
    own = np.array([0, 1, 3])
    return RetrievalScores(
        np.array(["a", "b", "c"]), own, np.array(["v0", "v1", "v2", "v3"]), np.array([True, True, False, True]),
        ranking / 10, stage2, ranking, np.arange(4) == own[:, None],
    )  # fmt: skip


def test_scores_survive_a_file(scores, tmp_path):
    save_scores(tmp_path / "new" / "scores.npz", scores)
    for name, array in load_scores(tmp_path / "new" / "scores.npz")._asdict().items():
        np.testing.assert_array_equal(array, getattr(scores, name), err_msg=name)


@pytest.mark.parametrize("content", [None, b"no zip", b""])
def test_another_file_is_named(content, tmp_path):
    path = tmp_path / "scores.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"scores\.npz .* tools/eval\.py --scores"):
        load_scores(path)


def test_queries_show_the_best_videos_that_can_be_decoded(scores, prepared_dataset):
    queries = retrieval_queries(scores, Frames(prepared_dataset, "val", 2), count=3, best=3)
    assert [(query.caption, query.rank) for query in queries] == [("a", 1.0), ("b", 2.0), ("c", 1.0)]
    shown = [[(each.video_id, each.right) for each in query.retrieved] for query in queries]
    assert shown[0] == [("v0", True), ("v1", False), ("v3", False)]
    assert shown[1] == [("v0", False), ("v1", True), ("v3", False)]
    assert queries[2].retrieved[0].frames.shape == (2, *FRAME_SIZE, 3)


def test_heat_maps_compare_words_with_the_clips_of_their_own_video(run, config, prepared_dataset):
    frames = Frames(prepared_dataset, "val", run.config.clip.num_clips)
    (first, second) = heat_maps(run, config, frames, run.config.text.words, count=2)
    captions = {a.captions[0]: a.video_id for a in read_annotations(open_source(prepared_dataset, "val"))}
    assert first.video_id != second.video_id
    for each in (first, second):
        assert captions[each.caption] == each.video_id
        assert each.similarity.shape == (len(each.words), run.config.clip.num_clips)
        assert each.words and all(word in each.caption.lower() for word in each.words)


def test_chosen_videos_are_encoded_as_among_all(run, config, prepared_dataset):
    source, scorer = open_source(prepared_dataset, "val"), scorer_of(run, config)
    every = encode_videos(scorer, run, source, config)
    some = encode_videos(scorer, run, source, config, rows=[1, 3])
    assert some.ids == (every.ids[1], every.ids[3])
    np.testing.assert_allclose(some.tokens, every.tokens[[1, 3]], atol=1e-5)
