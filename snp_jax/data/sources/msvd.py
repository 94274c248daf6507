"""MSVD: retrieval with every caption as its own query.

Files: `YouTubeClips/*.avi`, the three list files, and the captions as CLIP4Clip's `raw-captions.pkl`, X-Pool's
`captions_msvd.json` or the corpus's own CSV. Questions about the videos are in `qa`.
"""

from __future__ import annotations

from pathlib import Path

from snp_jax.data.records import Annotation
from snp_jax.data.sources.layout import Layout, cleaned, iter_table, load_plain_pickle, read_json, read_list
from snp_jax.data.sources.rows import Expected, Reading, Row, Split
from snp_jax.errors import UserError

BELOW = ("msvd", "MSVD", "msvd_data")
_EXPECTED = {"train": (1_200, 48_774), "val": (100, 4_290), "test": (670, 27_763)}  # videos, captions
_CORPUS = ("VideoID", "Start", "End", "Language", "Description")


def read_retrieval(manual_dir: Path) -> Reading:
    """Retrieval; the captions of a video stay together.

    Raises:
        UserError: an annotation file is missing or malformed.
    """
    layout = Layout("msvd", manual_dir, BELOW)
    captions = _read_captions(layout)
    media = layout.media()
    splits = []
    for split, (num_videos, num_captions) in _EXPECTED.items():
        videos = read_list(list_file(layout, split))
        texts = {video: cleaned(captions.get(video, ())) for video in videos}
        rows = [Row(Annotation(video, texts[video]), media.find(video)) for video in videos if texts[video]]
        expected = Expected(videos=num_videos, captions=num_captions)
        splits.append(Split(split, rows, expected, roster=videos, keep_missing=split != "train"))
    return Reading("msvd", tuple(splits))


def list_file(layout: Layout, split: str) -> Path:
    """The names of a split's videos, one a line, without suffix."""
    return layout.need(f"{split}_list.txt", f"**/{split}_list.txt")


def _read_captions(layout: Layout) -> dict[str, list[str]]:
    """video -> captions, from whichever form is there."""
    pickled = layout.find("raw-captions.pkl", "**/raw-captions.pkl")
    if pickled is not None:
        return _checked(load_plain_pickle(pickled), pickled)
    listed = layout.find("captions_msvd.json", "**/captions_msvd.json")
    if listed is not None:
        return _checked(read_json(listed), listed)
    corpus = layout.need(
        "raw-captions.pkl", "captions_msvd.json", "video_corpus.csv", "MSR*Video*Description*.csv", "**/*corpus*.csv"
    )
    captions: dict[str, list[str]] = {}
    for _, row in iter_table(corpus, _CORPUS):
        if row["Language"] == "English":
            captions.setdefault(f"{row['VideoID']}_{row['Start']}_{row['End']}", []).append(row["Description"])
    return captions


def _checked(value: object, path: Path) -> dict[str, list[str]]:
    """Captions as strings; in the pickle, each is a list of words."""
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected captions by video name, found {type(value).__name__}; is this the right file?")
    captions = {}
    for video, texts in value.items():
        if not isinstance(texts, list) or not all(isinstance(text, str | list | tuple) for text in texts):
            raise UserError(f"{path}: expected a list of captions for {video!r}, found {str(texts)[:60]!r}")
        captions[video] = [text if isinstance(text, str) else " ".join(map(str, text)) for text in texts]
    return captions
