"""COCO captions 2017 and Visual Genome region descriptions: images with several sentences each."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from snp_jax.data.records import Annotation
from snp_jax.data.sources.layout import Layout, cleaned, field, iter_json_array, read_json
from snp_jax.data.sources.rows import Expected, Media, Reading, Row, Split
from snp_jax.errors import UserError

_COCO_BELOW = ("coco", "coco2017", "COCO")
_COCO_SIZES = {"train": (118_287, 591_753), "val": (5_000, 25_014)}  # images, captions
_HELD_OUT = 5  # one validation image in five stays for validation in "snps3": 1,000 of 5,000
_VG_BELOW = ("vg", "visual_genome", "VisualGenome")
_VG_IMAGES = 108_077


def read_coco(manual_dir: Path, variant: str) -> Reading:
    """COCO captions 2017.

    Args:
        manual_dir: holds `annotations/captions_{train,val}2017.json`, `train2017/` and `val2017/`.
        variant: "official"; "snps3": four fifths of the validation images train as well, as in the release. Its own
            choice was not published: here the fifth with the smallest SHA-256 of the image id is held out.

    Raises:
        UserError: an annotation file or folder is missing or malformed.
    """
    name = f"coco2017/{variant}"
    layout = Layout(name, manual_dir, _COCO_BELOW)
    rows = {split: list(_coco_rows(layout, split)) for split in _COCO_SIZES}
    if variant == "official":
        splits = [
            Split(split, rows[split], Expected(*_COCO_SIZES[split], certain=False), keep_missing=split != "train")
            for split in rows
        ]
        return Reading(name, tuple(splits))
    val = sorted(rows["val"], key=lambda row: hashlib.sha256(row.annotation.video_id.rsplit("/", 1)[-1].encode()).digest())
    held_out = {row.annotation.video_id for row in val[: len(val) // _HELD_OUT]}
    moved = [row for row in rows["val"] if row.annotation.video_id not in held_out]
    kept = [row for row in rows["val"] if row.annotation.video_id in held_out]
    num_train, num_val = _COCO_SIZES["train"][0], _COCO_SIZES["val"][0]
    expected = Expected(videos=num_train + num_val - num_val // _HELD_OUT, certain=False)
    return Reading(
        name,
        (
            Split("train", rows["train"] + moved, expected),
            Split("val", kept, Expected(videos=num_val // _HELD_OUT, certain=False), keep_missing=True),
        ),
    )


def _coco_rows(layout: Layout, split: str) -> Iterator[Row]:
    path = layout.need(f"annotations/captions_{split}2017.json", f"captions_{split}2017.json")
    folder = layout.directory(f"{split}2017", f"images/{split}2017")
    if folder is None:
        raise UserError(f"{layout.name}: no folder {split}2017 in {', '.join(map(str, layout.roots))}; put the images there")
    content = read_json(path)
    captions: dict[int, list[str]] = {}
    for number, entry in enumerate(field(content, "annotations", list, str(path))):
        where = f"{path}: annotations[{number}]"
        captions.setdefault(field(entry, "image_id", int, where), []).append(field(entry, "caption", str, where))
    for number, entry in enumerate(field(content, "images", list, str(path))):
        where = f"{path}: images[{number}]"
        file_name = field(entry, "file_name", str, where)
        texts = cleaned(captions.get(field(entry, "id", int, where), ()))
        if texts:
            video_id = f"{split}2017/{Path(file_name).stem}"
            yield Row(Annotation(video_id, texts), Media.file(folder / file_name))


def read_visual_genome(manual_dir: Path, variant: str) -> Reading:
    """Visual Genome: every region's phrase describes the whole image.

    Args:
        manual_dir: holds `region_descriptions.json`, `VG_100K/` and `VG_100K_2/`.
        variant: "all"; "without_coco_val": without the photographs that are also in COCO's validation images (needs
            `image_data.json` and COCO's `captions_val2017.json`), for evaluations on those.

    Raises:
        UserError: an annotation file or folder is missing or malformed.
    """
    name = f"vg/{variant}"
    layout = Layout(name, manual_dir, (*_VG_BELOW, *_COCO_BELOW))
    folders = [folder for folder in (layout.directory(f"VG_100K{end}") for end in ("", "_2")) if folder is not None]
    if not folders:
        raise UserError(f"{name}: neither VG_100K nor VG_100K_2 in {', '.join(map(str, layout.roots))}; put the images there")
    path = layout.need("region_descriptions.json", "**/region_descriptions.json")
    left_out = _in_coco_val(layout) if variant == "without_coco_val" else frozenset()
    expected = Expected(videos=_VG_IMAGES if variant == "all" else None, certain=False)
    return Reading(name, (Split("train", _regions(path, folders, left_out), expected),))


def _regions(path: Path, folders: list[Path], left_out: frozenset[int]) -> Iterator[Row]:
    for number, entry in enumerate(iter_json_array(path)):
        where = f"{path}: entry {number}"
        regions = field(entry, "regions", list, where)
        image = _image_id(entry, regions, where)
        texts = cleaned(field(region, "phrase", str, f"{where}, region {i}") for i, region in enumerate(regions))
        if texts and image not in left_out:
            found = (Media.file(folder / f"{image}.jpg") for folder in folders)
            yield Row(Annotation(f"vg/{image}", texts), next((media for media in found if media is not None), None))


def _image_id(entry: dict[str, Any], regions: list[dict[str, Any]], where: str) -> int:
    """The key differs between releases: "id" or "image_id" of the entry, or of its regions only."""
    for holder in (entry, *regions[:1]):
        for key in ("image_id", "id") if holder is not entry else ("id", "image_id"):
            if isinstance(holder.get(key), int):
                return holder[key]
    raise UserError(f'{where}: neither "id" nor "image_id"; is this region_descriptions.json?')


def _in_coco_val(layout: Layout) -> frozenset[int]:
    """Visual Genome's ids of the photographs that COCO validates on."""
    coco = read_json(layout.need("annotations/captions_val2017.json", "captions_val2017.json"))
    ids = {entry["id"] for entry in field(coco, "images", list, "captions_val2017.json")}
    images = iter_json_array(layout.need("image_data.json", "**/image_data.json"))
    return frozenset(entry.get("image_id", entry.get("id")) for entry in images if entry.get("coco_id") in ids)
