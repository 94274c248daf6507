"""DiDeMo as paragraph-to-video retrieval: all sentences of a video, joined in file order, are one caption.

Files: `{train,val,test}_data.json` of LisaAnne/LocalizingMoments and the Flickr videos under whatever suffix they were stored.
"""

from __future__ import annotations

from pathlib import Path

from snp_jax.data.records import Annotation
from snp_jax.data.sources.layout import Layout, clean, field, read_json, read_list, stem
from snp_jax.data.sources.rows import Expected, Reading, Row, Split

_BELOW = ("didemo", "DiDeMo", "LocalizingMoments/data")
_VIDEOS = {"train": 8_395, "val": 1_065, "test": 1_004}
_CE_TRAIN = 8_392
_ANNOTATED_S = 31.0  # sentences speak of the first six chunks of five seconds; what follows was not shown to annotators


def read_paragraphs(manual_dir: Path, variant: str) -> Reading:
    """Paragraph-to-video retrieval.

    Args:
        manual_dir: see docs/data.md.
        variant: "paragraph"; "paragraph_ce" (only the file names that Collaborative Experts' lists have, which loses
            some sentences: for numbers comparable to theirs and CLIP4Clip's); "paragraph_31s" (frames from the
            annotated first 31 s only).

    Raises:
        UserError: an annotation file is missing or malformed.
    """
    name = f"didemo/{variant}"
    layout = Layout(name, manual_dir, _BELOW)
    media = layout.media()
    end = _ANNOTATED_S if variant == "paragraph_31s" else None
    splits = []
    for split, num_videos in _VIDEOS.items():
        kept = None
        if variant == "paragraph_ce":
            kept = set(read_list(layout.need(f"{split}_list.txt", f"**/{split}_list.txt")))
            num_videos = _CE_TRAIN if split == "train" else num_videos
        names, sentences = _grouped(layout.need(f"{split}_data.json", f"**/{split}_data.json"), kept)
        rows = [
            Row(Annotation(video, (" ".join(sentences[video]),), end=end), media.find(*names[video]))
            for video in names
            if sentences[video]
        ]
        certain = split != "train"  # the training file's number was not counted by us
        splits.append(Split(split, rows, Expected(videos=num_videos, certain=certain), keep_missing=split != "train"))
    return Reading(name, tuple(splits))


def _grouped(path: Path, kept: set[str] | None) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """File names and sentences by video. Some videos are listed under two names that differ in the suffix only."""
    names: dict[str, list[str]] = {}
    sentences: dict[str, list[str]] = {}
    for number, entry in enumerate(read_json(path)):
        where = f"{path}: entry {number}"
        name, text = field(entry, "video", str, where), clean(field(entry, "description", str, where))
        if kept is not None and name not in kept:
            continue
        video = stem(name)
        if name not in names.setdefault(video, []):
            names[video].append(name)
        sentences.setdefault(video, [])
        if text:
            sentences[video].append(text)
    return names, sentences
