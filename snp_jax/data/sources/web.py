"""Conceptual Captions (CC3M) and WebVid: millions of pairs from the web, one caption each, read row by row.

WebVid was withdrawn by its authors in 2024: bring your own copy; any table with its columns works.
"""

from __future__ import annotations

import json
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from snp_jax.data.records import Annotation
from snp_jax.data.sources.layout import Layout, clean, iter_table, iter_tsv_pairs
from snp_jax.data.sources.rows import Expected, Media, Reading, Row, Split
from snp_jax.errors import UserError

_CC3M_BELOW = ("cc3m", "CC3M", "conceptual_captions")
_CC3M_ROWS = {"train": 3_318_333, "val": 15_840}
_CC3M_TABLES = {"train": "Train_GCC-training*.tsv", "val": "Validation_GCC*.tsv"}
_CC3M_FOLDERS = {"train": ("training", "train"), "val": ("validation", "val")}
_IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".gif")
_WEBVID_BELOW = ("webvid", "WebVid", "webvid2m")
_WEBVID_COLUMNS = ("videoid", "name")
_WEBVID_VAL = 5_000


def read_cc3m(manual_dir: Path) -> Reading:
    """Conceptual Captions, in any of three layouts: img2dataset's tar files or folders below `training/` and
    `validation/`, or the official table with images named by the CRC-32 of their address, or a table of captions and
    relative paths.

    Raises:
        UserError: neither images in a known layout nor a table, or one that is malformed.
    """
    layout = Layout("cc3m", manual_dir, _CC3M_BELOW)
    splits = []
    for split, num_rows in _CC3M_ROWS.items():
        rows = _cc3m_rows(layout, split)
        if rows is not None:
            splits.append(Split(split, rows, Expected(videos=num_rows), keep_missing=split != "train"))
    if not splits:
        layout.need(_CC3M_TABLES["train"], "training/*.tar")
    return Reading("cc3m", tuple(splits))


def _cc3m_rows(layout: Layout, split: str) -> Iterator[Row] | None:
    folder = layout.directory(*_CC3M_FOLDERS[split])
    if folder is not None:
        tars = sorted(folder.glob("*.tar"))
        if tars:
            return (row for tar in tars for row in _tar_rows(tar, split))
        if next(folder.glob("*/*.txt"), None) or next(folder.glob("*/*.json"), None):
            return _file_rows(folder, split)
    table = layout.find(_CC3M_TABLES[split], f"{split}*.tsv")
    return None if table is None else _table_rows(table, folder, split)


def _table_rows(table: Path, folder: Path | None, split: str) -> Iterator[Row]:
    """Rows "caption, address": the file is named by the checksum of the address; or "caption, relative path"."""
    for number, caption, place in iter_tsv_pairs(table):
        caption = clean(caption)
        if not caption:
            continue
        if place.startswith(("http://", "https://")):
            path = (folder or table.parent) / str(zlib.crc32(place.encode()) & 0xFFFFFFFF)
            media = Media.file(path)
        else:
            media = Media.file(table.parent / place) or (Media.file(folder / place) if folder is not None else None)
        yield Row(Annotation(f"{split}/{number:07d}", (caption,)), media)


def _tar_rows(tar: Path, split: str) -> Iterator[Row]:
    """Members of one key ("000000012") follow each other: the image, its caption as .txt or in the .json."""
    try:
        with tarfile.open(tar, "r:") as archive:
            key, image, caption = None, None, ""
            for member in archive:
                name, _, suffix = member.name.rpartition(".")
                if name != key:
                    if key is not None and caption:
                        yield Row(Annotation(f"{split}/{key}", (caption,)), image)
                    key, image, caption = name, None, ""
                if f".{suffix}" in _IMAGES:
                    image = Media(str(tar), member.size, member.offset_data)
                elif suffix == "txt" or (suffix == "json" and not caption):
                    file = archive.extractfile(member)
                    caption = _caption(file.read() if file else b"", suffix)
            if key is not None and caption:
                yield Row(Annotation(f"{split}/{key}", (caption,)), image)
    except tarfile.TarError as error:
        raise UserError(f"{tar}: not a whole tar file ({error}); download it again") from error


def _file_rows(folder: Path, split: str) -> Iterator[Row]:
    """img2dataset's "files" output: `00012/000120034.jpg` with a .txt or .json beside it."""
    for part in sorted(path for path in folder.iterdir() if path.is_dir()):
        for note in sorted({path.with_suffix("") for path in part.iterdir() if path.suffix in (".txt", ".json")}):
            text, described = note.with_suffix(".txt"), note.with_suffix(".json")
            source = text if text.exists() else described
            caption = _caption(source.read_bytes(), source.suffix[1:])
            if caption:
                found = (Media.file(note.with_suffix(suffix)) for suffix in _IMAGES)
                image = next((media for media in found if media is not None), None)
                yield Row(Annotation(f"{split}/{note.name}", (caption,)), image)


def _caption(content: bytes, suffix: str) -> str:
    text = content.decode("utf-8", errors="replace")
    if suffix == "json":
        try:
            text = json.loads(text).get("caption") or ""
        except (ValueError, AttributeError):
            text = ""
    return clean(text)


def read_webvid(manual_dir: Path, variant: str) -> Reading:
    """WebVid.

    Args:
        manual_dir: holds tables with at least the columns videoid and name (the caption), and page_dir if the videos are in
            `videos/<page_dir>/<videoid>.mp4`; `videos/<videoid>.mp4` and `<videoid>.mp4` are found too.
        variant: "2m": `results_2M_{train,val}.csv`; "any": any `*train*.csv` and `*val*.csv`.

    Raises:
        UserError: there is no table, or one without these columns.
    """
    name = f"webvid/{variant}"
    layout = Layout(name, manual_dir, _WEBVID_BELOW)
    splits = []
    for split in ("train", "val"):
        pattern = f"results_2M_{split}.csv" if variant == "2m" else f"*{split}*.csv"
        table = layout.find(pattern, f"metadata/{pattern}")
        if table is None and split == "train":
            table = layout.need(pattern, f"metadata/{pattern}")
        if table is not None:
            known = Expected(videos=_WEBVID_VAL, certain=False) if (variant, split) == ("2m", "val") else Expected()
            splits.append(Split(split, _webvid_rows(table, layout.roots), known, keep_missing=split != "train"))
    return Reading(name, tuple(splits))


def _webvid_rows(table: Path, roots: list[Path]) -> Iterator[Row]:
    """Rows without an id or a caption are left out, as in Frozen-in-Time."""
    for _, row in iter_table(table, _WEBVID_COLUMNS):
        video, caption = row["videoid"].strip(), clean(row["name"])
        if not video or not caption:
            continue
        page = row.get("page_dir", "").strip()
        places = [f"videos/{page}/{video}.mp4"] if page else []
        places += [f"videos/{video}.mp4", f"{page}/{video}.mp4" if page else f"{video}.mp4", f"{video}.mp4"]
        found = (Media.file(root / place) for place in places for root in roots)
        yield Row(Annotation(video, (caption,)), next((media for media in found if media is not None), None))
