"""Evaluates a trained run on its test split: decode, encode, score, count. What `tools/eval.py` and the quickstart call."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from snp_jax.data import pipeline
from snp_jax.data.failures import BrokenVideos
from snp_jax.data.sources.prepared import VideoSource
from snp_jax.errors import UserError
from snp_jax.eval import protocols
from snp_jax.eval.scores import RetrievalScores
from snp_jax.eval.scoring import EncodedVideos, Scorer
from snp_jax.train import build, inputs
from snp_jax.train.restore import TrainedRun

Batch = Mapping[str, np.ndarray]
RESULT_KEYS = {"pretrain": "retrieval", "retrieval": "retrieval", "qa": "qa", "choice": "mc"}
"""Key of a task's numbers in results.json. A pre-trained model is evaluated by (zero-shot) retrieval."""


class Evaluation(NamedTuple):
    """A run's results on a split.

    Attributes:
        results: JSON-able, `{"retrieval" | "qa" | "mc": {...}, "split", "checkpoint_step", "broken"}`.
        scores: of a retrieval evaluation, else None.
    """

    results: dict[str, Any]
    scores: RetrievalScores | None


def evaluate(run: TrainedRun, config: ConfigDict) -> Evaluation:
    """Evaluates `run` by the protocol of `config` (its `dataset`, `evaluation` and `reading`; the model is the run's own).

    Raises:
        UserError: the split is missing or lacks what the task needs, or too many of its videos are broken.
    """
    task = build.check_task(config)
    if task == "qa" and not run.answers:
        raise UserError(f"{run.workdir} was trained for {run.config.task}, which has no answers: evaluate a QA run")
    if "tagging" in (task, run.config.task):
        raise UserError(
            f"{run.workdir}: tagging trains a visual encoder, there is nothing to evaluate it by; start a run from it "
            f"(--config.train.init_from={run.workdir}) and evaluate that"
        )
    source = pipeline.open_source(inputs.evaluated_dataset(config), config.evaluation.split)
    annotations = pipeline.read_annotations(source)
    settings, max_len, scores = config.evaluation, run.config.text.max_len, None
    scorer = scorer_of(run, config)
    videos = encode_videos(scorer, run, source, config)
    if task == "qa":
        train = pipeline.open_source(source.directory, config.dataset.train_split)
        labels = np.array([run.answers.get(q.answer, -1) for a in pipeline.read_annotations(train) for q in a.questions])
        numbers = protocols.question_answering(scorer, videos, annotations, run.tokenizer, run.answers, labels, max_len=max_len)
    elif task == "choice":
        numbers = protocols.multiple_choice(scorer, videos, annotations, run.tokenizer, max_len=max_len)
    else:
        numbers, scores = protocols.retrieval(
            scorer, videos, annotations, run.tokenizer, max_len=max_len, rerank=settings.rerank,
            captions=settings.captions, duplicates=settings.duplicates, ties=settings.ties,
        )  # fmt: skip
    results = {
        RESULT_KEYS[task]: numbers,
        "split": config.evaluation.split,
        "checkpoint_step": run.step,
        "broken": dict(videos.failures),
    }
    return Evaluation(results, scores)


def scorer_of(run: TrainedRun, config: ConfigDict) -> Scorer:
    """What scores with the model of `run`, in passes of the sizes of `config.evaluation`."""
    return Scorer(
        run.model, run.params, num_clips=run.config.clip.num_clips, batch_size=config.evaluation.batch_size,
        chunk=config.evaluation.chunk, changes=build.build_augment(run.config),
    )  # fmt: skip


def encode_videos(
    scorer: Scorer, run: TrainedRun, source: VideoSource, config: ConfigDict, rows: Sequence[int] | None = None
) -> EncodedVideos:
    """Decodes and encodes the videos of a split, or those at `rows` (ascending).

    Raises:
        UserError: too many of them are broken.
    """
    batches = pipeline.eval_batches(
        source, spec=inputs.clip_spec(run.config), batch_size=config.evaluation.batch_size, reading=inputs.reading(config),
        rows=rows,
    )  # fmt: skip
    broken = BrokenVideos(source.directory, len(source), max_share=config.dataset.max_broken_share)
    try:
        return scorer.videos(_watched(batches, broken), len(source) if rows is None else len(rows))
    finally:
        batches.close()


def _watched(batches: Iterable[Batch], broken: BrokenVideos) -> Iterator[Batch]:
    """The same batches, ended by an error when too many videos are broken."""
    for batch in batches:
        broken.update(batch)
        yield batch
