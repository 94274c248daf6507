"""Writes the toy corpus as a folder dataset: videos in parallel processes, annotation last, resumable.

DIR/corpus.json names the seed and sizes and is written first; videos appear one by one under their final
name; the annotation ({train,val,test}.jsonl, README.md) is written when all videos are there. So a folder
without annotation is an interrupted run, and the same call finishes it.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from tqdm import tqdm

from snp_jax.data.toy.captions import write_captions
from snp_jax.data.toy.encode import encode_mp4
from snp_jax.data.toy.facts import Facts, SceneIndex
from snp_jax.data.toy.questions import write_choice, write_questions
from snp_jax.data.toy.readme import corpus_readme
from snp_jax.data.toy.render import render_scene
from snp_jax.data.toy.scenes import SPLITS, Scene, generator, pair_split, sample_scenes
from snp_jax.errors import UserError

VERSION = 1  # of the generated content: raise it whenever the same seed gives another corpus
MARKER = "corpus.json"
_WORDS, _PIXELS, _CRF = 1, 2, 3  # separate random streams of one video
_CRF_RANGE = (20, 31)  # low, high + 1


def write_corpus(out: str | os.PathLike, seed: int, sizes: Mapping[str, int], jobs: int = 1) -> bool:
    """Writes (or finishes) the corpus of `seed` with `sizes` {"train": n, "val": n, "test": n} to the folder
    `out`.

    The content depends on the seed only; `jobs` processes share the rendering (started by "spawn": a script
    that calls this with jobs > 1 needs the usual `if __name__ == "__main__"`). Returns False if everything
    was there already.

    Raises:
        UserError: for sizes or jobs that make no sense, a folder that holds something else, or a failed
        write.
    """
    out = Path(out)
    if set(sizes) != set(SPLITS) or min(sizes.values()) < 0 or not sum(sizes.values()):
        raise UserError(f"corpus sizes must give train, val and test, none negative and not all 0; got {dict(sizes)}")
    if seed < 0 or jobs < 1:
        raise UserError(f"the seed must be at least 0 and jobs at least 1; got seed {seed} and jobs {jobs}")
    try:
        _claim_folder(out, seed, sizes)
        if _is_complete(out, sizes):
            return False
        scenes = {split: sample_scenes(seed, split, sizes[split]) for split in SPLITS}
        _write_videos(out, seed, scenes, jobs)
        for split in SPLITS:
            if scenes[split]:
                rows = annotation_rows(seed, split, scenes[split])
                _write(out / f"{split}.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
        _write(out / "README.md", corpus_readme(seed, scenes))
    except OSError as error:
        raise UserError(f"cannot write the toy corpus to {out}: {error}; free some space or choose another --out") from error
    return True


def _is_complete(out: Path, sizes: Mapping[str, int]) -> bool:
    """Whether a claimed folder has every file; what was deleted by hand is made again."""
    annotation = {"README.md", *(f"{split}.jsonl" for split in SPLITS if sizes[split])}
    if not annotation <= {entry.name for entry in out.iterdir()}:
        return False
    videos = {f"{video_id(split, i)}.mp4" for split in SPLITS for i in range(sizes[split])}
    return videos <= {entry.name for entry in (out / "videos").iterdir()}


def _claim_folder(out: Path, seed: int, sizes: Mapping[str, int]) -> None:
    """Marks an empty folder as this corpus, or checks that it is marked as exactly this one."""
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file; name a folder")
    wanted = {
        "corpus": "snp-jax toy",
        "version": VERSION,
        "seed": seed,
        "sizes": {s: sizes[s] for s in SPLITS},
    }
    marker = out / MARKER
    if not marker.exists():
        if out.exists() and any(out.iterdir()):
            raise UserError(f"{out} is not empty and not a toy corpus (it has no {MARKER}); name a new or empty folder")
        out.mkdir(parents=True, exist_ok=True)
        _write(marker, json.dumps(wanted) + "\n")
        return
    try:
        found = json.loads(marker.read_text())
    except ValueError as error:
        raise UserError(f"{marker} cannot be read ({error}); remove the folder and run again") from error
    if found != wanted:
        raise UserError(f"{out} holds another corpus: {found}, wanted {wanted}; name another folder or remove this one")


def video_id(split: str, index: int) -> str:
    """The name of a video, without suffix."""
    return f"{split}_{index:05d}"


def annotation_rows(seed: int, split: str, scenes: list[Scene]) -> Iterator[dict]:
    """The lines of a split's .jsonl as dicts, in the order of `scenes` = `sample_scenes(seed, split, n)`."""
    index = SceneIndex(scenes)

    def belongs(facts: Facts) -> bool:
        return all(pair_split(seed, m.colour, m.shape, m.motion) == split for m in facts)

    for i, scene in enumerate(scenes):
        rng = generator(seed, split, i, _WORDS)
        captions = write_captions(scene, rng)
        questions = write_questions(scene, rng)
        options, answer = write_choice(scene, belongs, rng)
        yield {
            "video": f"{video_id(split, i)}.mp4",
            "captions": [text for text, _ in captions],
            "questions": questions,
            "options": options,
            "option_answer": answer,
            "fits": [[video_id(split, j) for j in index.matches(facts) if j != i] for _, facts in captions],
        }


def _write_videos(out: Path, seed: int, scenes: Mapping[str, list[Scene]], jobs: int) -> None:
    tasks = [(split, i, scene) for split in SPLITS for i, scene in enumerate(scenes[split])]
    tasks = [task for task in tasks if not _video_path(out, *task[:2]).exists()]
    (out / "videos").mkdir(exist_ok=True)
    work = partial(_write_video, out, seed)
    bar = partial(tqdm, total=len(tasks), desc="toy corpus", unit="video", mininterval=0.5)
    if jobs == 1 or len(tasks) <= 1:
        for task in bar(tasks):
            work(task)
        return
    context = multiprocessing.get_context("spawn")  # never fork: the parent may hold JAX or codec threads
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=_ignore_interrupt) as pool:
        for _ in bar(pool.map(work, tasks, chunksize=8)):
            pass


def _ignore_interrupt() -> None:
    """Ctrl-C is handled by the parent only; its workers end with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _video_path(out: Path, split: str, index: int) -> Path:
    return out / "videos" / f"{video_id(split, index)}.mp4"


def _write_video(out: Path, seed: int, task: tuple[str, int, Scene]) -> None:
    split, index, scene = task
    frames, fps = render_scene(scene, generator(seed, split, index, _PIXELS))
    crf = int(generator(seed, split, index, _CRF).integers(*_CRF_RANGE))
    _write(_video_path(out, split, index), encode_mp4(frames, fps, crf))


def _write(path: Path, content: str | bytes) -> None:
    """Writes a whole file or none: under another name first, then renamed."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(content.encode() if isinstance(content, str) else content)
    os.replace(temporary, path)
