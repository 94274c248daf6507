"""What the report shows of a model: retrieved videos with real frames, and which words match which clips."""

from __future__ import annotations

import numpy as np
from ml_collections import ConfigDict

from snp_jax.data import sampling
from snp_jax.data.decode import decode_clip
from snp_jax.data.pipeline import open_source
from snp_jax.data.words import build_word_tables, load_words
from snp_jax.eval.evaluate import encode_videos, scorer_of
from snp_jax.eval.metrics import ranks
from snp_jax.eval.report import HeatMap, Query, Retrieved
from snp_jax.eval.scores import RetrievalScores
from snp_jax.eval.scoring import encode_all
from snp_jax.train.inputs import evaluated_dataset
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


def retrieval_queries(scores: RetrievalScores, frames: Frames, count: int, best: int = 5) -> list[Query]:
    """`count` queries spread evenly over the test split, each with its `best` first videos (undecodable ones left out)."""
    position = ranks(scores.ranking, scores.positives)
    queries = []
    for row in np.linspace(0, len(scores.texts) - 1, count).round().astype(int):
        order = [v for v in np.argsort(-scores.ranking[row], kind="stable")[:best] if scores.valid[v]]
        retrieved = [
            Retrieved(str(scores.videos[v]), frames.of(v), float(scores.stage2[row, v]), bool(scores.positives[row, v]))
            for v in order
        ]
        queries.append(Query(str(scores.texts[row]), retrieved, float(position[row])))
    return queries


def heat_maps(run: TrainedRun, config: ConfigDict, frames: Frames, words_file: str, count: int) -> list[HeatMap]:
    """LVWM similarity of each significant word of `count` captions with each clip of the caption's own video.

    Args:
        run: a run trained with LVWM (pre-training).
        config: says which split (`dataset`, `evaluation`, `reading`); the captions are spread evenly over it.
        words_file: words.json of the run.
    """
    source = open_source(evaluated_dataset(config), config.evaluation.split)
    rows = np.linspace(0, len(source) - 1, count + 2).round().astype(int)[1:-1]
    texts = [source[row].annotation.captions[0] for row in rows]
    config = config.copy_and_resolve_references()
    config.evaluation.batch_size = count
    scorer = scorer_of(run, config)
    videos = encode_videos(scorer, run, source, config, rows)
    significant = build_word_tables(load_words(words_file), run.tokenizer, top_k=run.config.text.top_k).significant
    ids, mask = encode_all(texts, run.tokenizer, run.config.text.max_len)
    hidden = scorer.hidden_states(ids, mask)
    maps = []
    for i, (text, tokens, states) in enumerate(zip(texts, ids, hidden, strict=True)):
        positions = np.flatnonzero(significant[tokens])
        if not len(positions) or not videos.valid[i]:
            continue
        names = [run.tokenizer.whole_word(int(token)) for token in tokens[positions]]
        similarity = states[positions] @ videos.features[i].T  # [K, N]
        maps.append(HeatMap(text, videos.ids[i], names, similarity, frames.of(rows[i])))
    return maps
