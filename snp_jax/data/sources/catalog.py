"""Which datasets there are: name -> how it is read, and the files it needs.

A name is "family" or "family/variant". Details of every layout are in docs/data.md and in the modules named here.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
from collections.abc import Callable
from pathlib import Path

from snp_jax.data.sources import didemo, folder, images, json_lines, msrvtt, msvd, qa, web
from snp_jax.data.sources.rows import Reading
from snp_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A dataset: `read(manual_dir)` reads its official files, `layout` says which those are."""

    name: str
    read: Callable[[Path], Reading]
    layout: str


_MSRVTT = (
    "MSRVTT_data.json (or *_videodatainfo.json, MSR_VTT.json, JSON lines), MSRVTT_JSFUSION_test.csv, the videos in any folder"
)
_DIDEMO = "{train,val,test}_data.json, the videos in any folder"
_COCO = "annotations/captions_{train,val}2017.json, train2017/, val2017/"
_VG = "region_descriptions.json, VG_100K/, VG_100K_2/"
_CLIPS = "videos/<page_dir>/<videoid>.mp4"
_LINES = "*train*.jsonl, *val*.jsonl, *test*.jsonl (any of them), and the media that clip_name names"
_ENTRIES = (
    Dataset("msrvtt/7k_1ka", functools.partial(msrvtt.read_retrieval, variant="7k_1ka"), _MSRVTT),
    Dataset("msrvtt/9k_1ka", functools.partial(msrvtt.read_retrieval, variant="9k_1ka"), _MSRVTT),
    Dataset("msrvtt/6k_1ka", functools.partial(msrvtt.read_retrieval, variant="6k_1ka"), _MSRVTT),
    Dataset("msrvtt_qa", qa.read_msrvtt, "{train,val,test}_qa.json (or JSON lines), the videos in any folder"),
    Dataset("msrvtt_mc", msrvtt.read_choice, "MSR_MC_test.csv (or msrvtt_mc_test.jsonl), the videos in any folder"),
    Dataset(
        "msvd", msvd.read_retrieval,
        "{train,val,test}_list.txt, raw-captions.pkl (or captions_msvd.json, or the corpus CSV), the videos in any folder",
    ),
    Dataset(
        "msvd_qa", qa.read_msvd,
        "{train,val,test}_qa.json, youtube_mapping.txt (or the three *_list.txt), the videos in any folder",
    ),
    Dataset("didemo/paragraph", functools.partial(didemo.read_paragraphs, variant="paragraph"), _DIDEMO),
    Dataset(
        "didemo/paragraph_ce", functools.partial(didemo.read_paragraphs, variant="paragraph_ce"),
        f"{_DIDEMO}, {{train,val,test}}_list.txt",
    ),
    Dataset("didemo/paragraph_31s", functools.partial(didemo.read_paragraphs, variant="paragraph_31s"), _DIDEMO),
    Dataset("coco2017/official", functools.partial(images.read_coco, variant="official"), _COCO),
    Dataset("coco2017/snps3", functools.partial(images.read_coco, variant="snps3"), _COCO),
    Dataset("vg/all", functools.partial(images.read_visual_genome, variant="all"), _VG),
    Dataset(
        "vg/without_coco_val", functools.partial(images.read_visual_genome, variant="without_coco_val"),
        f"{_VG}, image_data.json, captions_val2017.json",
    ),
    Dataset("cc3m", web.read_cc3m, "training/ and validation/ of img2dataset, or the two .tsv files and the images"),
    Dataset("webvid/2m", functools.partial(web.read_webvid, variant="2m"), f"results_2M_{{train,val}}.csv, {_CLIPS}"),
    Dataset("webvid/any", functools.partial(web.read_webvid, variant="any"), f"*train*.csv, *val*.csv, {_CLIPS}"),
    Dataset("jsonl/retrieval", functools.partial(json_lines.read_lines, variant="retrieval"), _LINES),
    Dataset("jsonl/qa", functools.partial(json_lines.read_lines, variant="qa"), _LINES),
    Dataset("jsonl/choice", functools.partial(json_lines.read_lines, variant="choice"), _LINES),
    Dataset("folder", folder.read_folder, "videos/, and train.jsonl, val.jsonl, test.jsonl (at least one)"),
)  # fmt: skip
DATASETS = {entry.name: entry for entry in _ENTRIES}
_DEFAULTS = {
    "didemo": "didemo/paragraph",
    "coco2017": "coco2017/official",
    "vg": "vg/all",
    "webvid2m": "webvid/2m",
    "webvid": "webvid/any",
}


def find(name: str) -> Dataset:
    """The dataset of that name; a family whose usual variant is clear may be named alone.

    Raises:
        UserError: there is none, or the variant must be chosen.
    """
    name = _DEFAULTS.get(name, name)
    if name in DATASETS:
        return DATASETS[name]
    variants = [known for known in DATASETS if known.startswith(f"{name}/")]
    if variants:
        raise UserError(f"{name}: choose one of {', '.join(variants)}")
    families = {known: known.partition("/")[0] for known in [*DATASETS, *_DEFAULTS]}
    close = difflib.get_close_matches(name, dict.fromkeys([*families, *families.values()]), n=1)
    meant = [known for known in DATASETS if families[known] == close[0]] or close if close else []
    hint = f"did you mean {' or '.join(meant)}?" if meant else f"known are {', '.join(DATASETS)}"
    raise UserError(f"{name}: no such dataset; {hint}")
