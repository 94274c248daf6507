"""What the report shows of a model: retrieved videos with real frames, and which words match which clips."""

from __future__ import annotations

import numpy as np

from snp_jax.data import sampling
from snp_jax.data.decode import decode_clip
from snp_jax.data.pipeline import open_source
from snp_jax.data.words import build_word_tables, load_words
from snp_jax.eval.evaluate import Evaluation
from snp_jax.eval.metrics import ranks
from snp_jax.eval.report import HeatMap, Query, Retrieved
from snp_jax.eval.scoring import Scorer, encode_all
from snp_jax.train import build
from snp_jax.train.restore import TrainedRun

FRAME_SIZE = (96, 96)


class Frames:
    """Decodes the frames that a report shows, at a size for people."""

    def __init__(self, dataset: str, split: str, num_clips: int):
        self._source = open_source(dataset, split)
        self._choose = sampling.middle_frames(num_clips, 1)

    def of(self, row: int) -> np.ndarray:
        """Middle frames of the N segments of video `row`, uint8 `[N, H, W, 3]`."""
        record = self._source[row]
        span = record.annotation.start, record.annotation.end
        return decode_clip(record.video, self._choose.indices, FRAME_SIZE, start=span[0], end=span[1])


def retrieval_queries(evaluation: Evaluation, frames: Frames, count: int, best: int = 5) -> list[Query]:
    """`count` queries spread evenly over the test split, each with its `best` first videos (undecodable ones left out)."""
    outcome, videos = evaluation.retrieval, evaluation.videos
    position = ranks(outcome.ranking, outcome.positives)
    rows = np.linspace(0, len(outcome.queries.texts) - 1, count).round().astype(int)
    queries = []
    for row in rows:
        order = [v for v in np.argsort(-outcome.ranking[row], kind="stable")[:best] if videos.valid[v]]
        retrieved = [
            Retrieved(videos.ids[v], frames.of(v), float(outcome.stage2[row, v]), bool(outcome.positives[row, v]))
            for v in order
        ]
        queries.append(Query(outcome.queries.texts[row], retrieved, float(position[row])))
    return queries


def heat_maps(run: TrainedRun, evaluation: Evaluation, frames: Frames, words_file: str, count: int) -> list[HeatMap]:
    """LVWM similarity of each significant word of `count` captions with each clip of the caption's own video.

    Args:
        run: a run trained with LVWM (pre-training).
        evaluation: its retrieval evaluation; `evaluation.videos` are encoded by `run`.
        words_file: words.json of the run.
    """
    outcome, videos = evaluation.retrieval, evaluation.videos
    significant = build_word_tables(load_words(words_file), run.tokenizer, top_k=run.config.text.top_k).significant
    changes = build.build_augment(run.config)
    scorer = Scorer(run.model, run.params, num_clips=run.config.clip.num_clips, batch_size=count, chunk=count, changes=changes)
    rows = np.linspace(0, len(outcome.queries.texts) - 1, count + 2).round().astype(int)[1:-1]
    texts = [outcome.queries.texts[row] for row in rows]
    ids, mask = encode_all(texts, run.tokenizer, run.config.text.max_len)
    hidden = scorer.hidden_states(ids, mask)
    maps = []
    for text, video, tokens, states in zip(texts, outcome.queries.video[rows], ids, hidden, strict=True):
        positions = np.flatnonzero(significant[tokens])
        if not len(positions) or not videos.valid[video]:
            continue
        names = [run.tokenizer.whole_word(int(token)) for token in tokens[positions]]
        similarity = states[positions] @ videos.features[video].T  # [K, N]
        maps.append(HeatMap(text, videos.ids[video], names, similarity, frames.of(video)))
    return maps
