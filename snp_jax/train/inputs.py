"""The training stream of a task: which text an example carries, and the run's side files (tokeniser, answers)."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from snp_jax.data import pipeline
from snp_jax.data.mixture import Mixture, open_mixture
from snp_jax.data.sources.prepared import VideoSource, read_answers
from snp_jax.data.tasks import CaptionText, ChoiceText, QuestionText, TwoWindowsText, build_answer_vocabulary
from snp_jax.data.text import Tokenizer, load_tokenizer
from snp_jax.errors import UserError
from snp_jax.train.build import required
from snp_jax.train.compat import Compat
from snp_jax.train.processes import is_first
from snp_jax.train.sharding import batch_shards
from snp_jax.train.tasks import TEXT_PLACES

ANSWERS = "answers.json"
HOST_KEYS = ("video_id", "failure")
"""Parts of a batch that stay on the host."""
TEXT_KEYS = ("text_ids", "text_mask", "text_ids_to_mask")
"""Parts of a batch whose last axis is the tokens of a text."""


def clip_spec(config: ConfigDict) -> pipeline.ClipSpec:
    """`config.clip`, and how `config.compat` chooses the frames."""
    clip, exclusive = config.clip, Compat(**config.compat.to_dict()).exclusive_segments
    if exclusive and clip.frames_per_clip != 1:
        raise UserError(
            f"config.compat.exclusive_segments takes one frame a clip, as the release does: "
            f"config.clip.frames_per_clip={clip.frames_per_clip} must be 1"
        )
    sizes = {
        "image_size": tuple(clip.image_size),
        "crop_size": tuple(clip.crop_size),
        "buckets": tuple(map(tuple, clip.buckets)),
    }
    try:
        return pipeline.ClipSpec(**clip.to_dict() | sizes, exclusive_segments=exclusive)
    except ValueError as error:
        raise UserError(f"config.clip: {error}") from None


def dataset_paths(config: ConfigDict) -> tuple[str, ...]:
    """The datasets of `config.dataset.path`, one or several."""
    given = required(config, "dataset", "path")
    paths = (given,) if isinstance(given, str) else tuple(given)
    if len(paths) > 1 and config.task not in ("pretrain", "retrieval"):
        raise UserError(
            f"config.dataset.path names {len(paths)} datasets: only pretrain and retrieval mix them, not {config.task}"
        )
    return paths


def training_videos(config: ConfigDict) -> Mixture:
    """The training split of `config.dataset`."""
    return open_mixture(dataset_paths(config), config.dataset.train_split, tuple(config.dataset.weights))


def evaluated_dataset(config: ConfigDict) -> str:
    """The one dataset that an evaluation reads."""
    paths = dataset_paths(config)
    if len(paths) > 1:
        raise UserError("config.dataset.path names several datasets: evaluate on one, --config.dataset.path=<path>")
    return paths[0]


def reading(config: ConfigDict) -> pipeline.Reading:
    """`config.reading`."""
    return pipeline.Reading(num_workers=config.reading.num_workers, num_threads=config.reading.num_threads)


def check_workdir(workdir: Path) -> None:
    """Raises `UserError` for an object store's address, which is no path."""
    if ":/" in str(workdir):
        raise UserError(
            f"--workdir {workdir} is the address of an object store: mount the bucket (for example with Cloud Storage FUSE) "
            "and name the folder, which all processes must see"
        )


def forget(workdir: Path) -> None:
    """Removes the side files of an attempt that ended before its first checkpoint: its config may have been wrong."""
    for file in (*workdir.glob("tokenizer.*"), workdir / ANSWERS):
        file.unlink(missing_ok=True)


def adopt_tokenizer(config: ConfigDict, workdir: Path) -> Tokenizer:
    """The run's own copy of the tokeniser, so that a checkpoint is complete without the file it came from.

    The first process makes it.
    """
    source = Path(required(config, "text", "tokenizer"))
    copy = workdir / f"tokenizer{source.suffix}"
    if not copy.exists():
        if not is_first():
            raise UserError(f"{copy} does not exist here: --workdir must be on a filesystem that all processes share")
        load_tokenizer(source)  # a bad file is reported under its own name
        shutil.copyfile(source, copy)
    return load_tokenizer(copy)


def saved_tokenizer(workdir: Path) -> Tokenizer:
    """The tokeniser that `adopt_tokenizer` kept."""
    found = sorted(workdir.glob("tokenizer.*"))
    if not found:
        raise UserError(f"{workdir} holds no tokenizer.*: it is not the working directory of a run")
    return load_tokenizer(found[0])


def adopt_answers(config: ConfigDict, workdir: Path, source: VideoSource) -> dict[str, int]:
    """The answer vocabulary of a QA run, kept beside the checkpoints: the dataset's own, else made from its training split."""
    file = workdir / ANSWERS
    if not file.exists():
        answers = read_answers(source.directory)
        if answers is None:
            answers = build_answer_vocabulary(pipeline.read_annotations(source), config.model.num_answers)
        elif len(answers) > config.model.num_answers:
            raise UserError(
                f"{source.directory}: was prepared with {len(answers)} answers, "
                f"config.model.num_answers is {config.model.num_answers}; set it to at least {len(answers)}"
            )
        file.write_text(json.dumps(answers, indent=0) + "\n")
    return saved_answers(workdir)


def saved_answers(workdir: Path) -> dict[str, int]:
    """answer -> class, as `adopt_answers` kept it."""
    file = workdir / ANSWERS
    if not file.exists():
        raise UserError(f"{file} does not exist: {workdir} is not the working directory of a QA run")
    return json.loads(file.read_text())


def text_of_task(config: ConfigDict, tokenizer: Tokenizer, workdir: Path, videos: Mixture) -> Any:
    """The callable that turns an annotation into the text part of a training example."""
    if config.task == "qa":
        answers = adopt_answers(config, workdir, videos.sources[0])
        return QuestionText(tokenizer, config.text.max_len, answers)
    if config.task == "choice":
        return ChoiceText(tokenizer, config.text.max_len)
    if config.task == "pretrain" and Compat(**config.compat.to_dict()).separate_windows:
        return TwoWindowsText(tokenizer, config.text.max_len)
    return CaptionText(tokenizer, config.text.max_len)


def trim_texts(arrays: Mapping[str, np.ndarray], config: ConfigDict, mesh: Mesh) -> dict[str, np.ndarray]:
    """A training batch whose texts cost what they hold: `cut_padding` and `text_places`, as far as `config` and `mesh` allow.

    With several processes nothing changes, since their shapes must agree.
    """
    if jax.process_count() > 1:
        return dict(arrays)
    arrays, parts = cut_padding(arrays, config.text.bucket), batch_shards(mesh)
    one_program_a_part = config.optim.accumulate == 1 and (config.mesh.reduce == "once" or parts == 1)
    if config.task != "tagging" and one_program_a_part:  # tagging runs no text through BERT
        places = text_places(arrays["text_mask"], config.text.pack, parts)
        arrays |= {} if places is None else {TEXT_PLACES: places}
    return arrays


def cut_padding(arrays: Mapping[str, np.ndarray], multiple: int) -> dict[str, np.ndarray]:
    """The batch without the padding that all its texts share: cut to the longest text, rounded up to `multiple` tokens.

    Rounding keeps the shapes few, and so what is compiled: one step a length.

    Args:
        arrays: a batch; "text_mask" bool `[..., L]` says which tokens are real.
        multiple: 0 = leave as it is.
    """
    length = arrays["text_mask"].shape[-1]
    if multiple:
        real = arrays["text_mask"].reshape(-1, length).any(axis=0)
        longest = max(int(np.flatnonzero(real).max(initial=0)) + 1, 1)
        length = min(length, -(-longest // multiple) * multiple)
    return {name: value[..., :length] if name in TEXT_KEYS else value for name, value in arrays.items()}


def text_places(mask: np.ndarray, fractions: int, parts: int) -> np.ndarray | None:
    """Where the real tokens of a batch's texts stand, for `models/packing.py`.

    Each part of the batch has room for equally many. The room is one of a few fractions of the padded size, so that few shapes
    are compiled, and a function of the batch alone, so that a resumed run computes the same.

    Args:
        mask: bool `[B, ..., L]`, True = real.
        fractions: F; the room is a multiple of 1 / F of the padded size. 0 = leave padding where it is.
        parts: programs that the rows are split over.

    Returns:
        int32 `[parts * C]`, flat places inside each part's own `[B / parts * ... * L]`; its size where the room is not used.
        None where no padding would be left out.
    """
    mask = mask.reshape(parts, -1)
    size, most = mask.shape[1], int(mask.sum(axis=1).max())
    room = math.ceil(math.ceil(most * fractions / size) * size / fractions) if fractions else size
    if room >= size:
        return None
    places = np.full((parts, room), size, np.int32)
    for row, real in zip(places, mask, strict=True):
        found = np.flatnonzero(real)
        row[: len(found)] = found
    return places.reshape(-1)
