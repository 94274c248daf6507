"""MSR-VTT: retrieval (7K-1K, 9K-1K, 6.5K-1K) and multiple choice.

Files: https://github.com/ArrowLuo/CLIP4Clip (msrvtt_data.zip), the official archives, the archive of Frozen-in-Time,
or ClipBERT's and Singularity's JSON; docs/data.md lists them. Facts about the splits: the published lists, counted.
Questions about the videos are in `qa`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from snp_jax.data.records import Annotation
from snp_jax.data.sources.layout import (
    Layout,
    MediaIndex,
    clean,
    cleaned,
    field,
    iter_json_lines,
    iter_table,
    load_plain_pickle,
    read_json,
    read_list,
    stem,
)
from snp_jax.data.sources.rows import Expected, Reading, Row, Split
from snp_jax.errors import UserError

BELOW = ("msrvtt", "MSRVTT", "MSR-VTT", "msrvtt_retrieval")
_ALL, _TRAIN, _TRAIN_VAL = 10_000, 6_513, 7_010  # videos: all; the official training part; with the validation part
_TEST = 1_000
_NUMBERS = {"7k_1ka": range(_TRAIN_VAL), "9k_1ka": range(_ALL), "6k_1ka": range(_TRAIN)}
_EXPECTED = {"7k_1ka": _TRAIN_VAL, "9k_1ka": _ALL - _TEST, "6k_1ka": _TRAIN}
_JSFUSION = ("MSRVTT_JSFUSION_test.csv", "csv/msrvtt_test.csv", "msrvtt_test.csv", "**/MSRVTT_JSFUSION_test.csv")
Captions = dict[str, list[str]]


def read_retrieval(manual_dir: Path, variant: str) -> Reading:
    """Retrieval on the 1k-A test.

    Args:
        manual_dir: see docs/data.md.
        variant: "7k_1ka" (trains on the official train and validation part), "9k_1ka" (on all but the test) or "6k_1ka" (on the
            official train part; its validation part is the "val" split).

    Raises:
        UserError: an annotation file is missing or malformed.
    """
    name = f"msrvtt/{variant}"
    layout = Layout(name, manual_dir, BELOW)
    captions = _read_captions(layout)
    test = _read_test(layout, captions)
    media = layout.media()
    train = [video for video in map(_video, _NUMBERS[variant]) if video not in test]
    splits = [_split("train", train, captions, media, _EXPECTED[variant])]
    if variant == "6k_1ka":
        val = [_video(n) for n in range(_TRAIN, _TRAIN_VAL)]
        splits.append(_split("val", val, captions, media, len(val)))
    expected = Expected(videos=_TEST, captions=_TEST)
    splits.append(Split("test", list(_rows(test, test, media)), expected, keep_missing=True))
    notes = ()
    if variant == "9k_1ka":
        notes = ("1,990 of the 9,000 training videos are questions of MSRVTT-QA's and multiple choice's tests: "
                 "do not evaluate those with weights trained on this split",)  # fmt: skip
    return Reading(name, tuple(splits), notes=notes)


def read_choice(manual_dir: Path) -> Reading:
    """Multiple choice: five options for each of 2,990 test videos; nothing to train on.

    Raises:
        UserError: an annotation file is missing or malformed.
    """
    layout = Layout("msrvtt_mc", manual_dir, ("msrvtt_mc", "msrvtt_retrieval_mc", *BELOW))
    path = layout.need(
        "MSR_MC_test.csv", "msrvtt_mc_test.jsonl", "msrvtt_retrieval_mc_test.jsonl", "msrvtt_mc_test.json",
        "**/MSR_MC_test.csv", "**/msrvtt*mc*test.jsonl",
    )  # fmt: skip
    read = {".csv": _choices_of_table, ".jsonl": _choices_of_lines, ".json": _choices_of_list}[path.suffix]
    media = layout.media()
    rows = []
    for where, video, options, answer in read(path):
        options = tuple(map(clean, options))
        if len(options) < 2 or not all(options) or not 0 <= answer < len(options):
            raise UserError(f"{where}: expected options and the index of the right one, found {answer} of {len(options)}")
        rows.append(Row(Annotation(video, options=options, option_answer=answer), media.find(video)))
    expected = Expected(videos=2_990, choices=2_990, certain=False)
    note = "evaluate with weights trained on msrvtt/7k_1ka only: the 9k training split holds 1,990 of these videos"
    return Reading("msrvtt_mc", (Split("test", rows, expected, keep_missing=True),), notes=(note,))


def _video(number: int | str) -> str:
    return f"video{number}"


def _split(name: str, videos: list[str], captions: Captions, media: MediaIndex, expected: int) -> Split:
    rows = list(_rows(videos, captions, media))
    return Split(name, rows, Expected(videos=expected), roster=videos, keep_missing=name != "train")


def _rows(videos: Iterable[str], captions: Captions, media: MediaIndex) -> Iterator[Row]:
    for video in videos:
        texts = cleaned(captions.get(video, ()))
        if texts:
            yield Row(Annotation(video, texts), media.find(video))


def _read_captions(layout: Layout) -> Captions:
    """video -> captions, from whichever form is there."""
    whole = layout.find("MSRVTT_data.json", "**/MSRVTT_data.json")
    official = [layout.find(f"{part}_videodatainfo.json", f"**/{part}_videodatainfo.json") for part in ("train_val", "test")]
    frozen = layout.find("annotation/MSR_VTT.json", "MSR_VTT.json", "**/MSR_VTT.json")
    lines = [layout.find(f"{part}.jsonl", f"*_{part}.jsonl") for part in ("train", "val")]
    lists = [layout.find(f"msrvtt_ret_{part}.json", f"**/msrvtt_ret_{part}.json") for part in ("train9k", "train7k")]
    if whole is not None:
        return _grouped(_sentences(whole, "sentences", "video_id"))
    if any(official):
        return _grouped(pair for path in official if path is not None for pair in _sentences(path, "sentences", "video_id"))
    if frozen is not None:
        return _grouped(_sentences(frozen, "annotations", "image_id"))
    if any(lines):
        return _grouped(pair for path in lines if path is not None for pair in _line_captions(path))
    if any(lists):
        return _grouped(_list_captions(next(path for path in lists if path is not None)))
    layout.need("MSRVTT_data.json", "train_val_videodatainfo.json", "annotation/MSR_VTT.json", "train.jsonl")
    raise AssertionError("need() has raised")


def _grouped(pairs: Iterable[tuple[str, str]]) -> Captions:
    captions: Captions = {}
    for video, caption in pairs:
        captions.setdefault(video, []).append(caption)
    return captions


def _sentences(path: Path, key: str, id_key: str) -> Iterator[tuple[str, str]]:
    for number, entry in enumerate(field(read_json(path), key, list, str(path))):
        where = f"{path}: {key}[{number}]"
        yield field(entry, id_key, str, where), field(entry, "caption", str, where)


def _line_captions(path: Path) -> Iterator[tuple[str, str]]:
    for where, entry in iter_json_lines(path):
        yield stem(field(entry, "clip_name", str, where).rsplit("/", 1)[-1]), field(entry, "caption", str, where)


def _list_captions(path: Path) -> Iterator[tuple[str, str]]:
    for number, entry in enumerate(read_json(path)):
        where = f"{path}: entry {number}"
        texts = field(entry, "caption", (str, list), where)
        for text in [texts] if isinstance(texts, str) else texts:
            yield stem(field(entry, "image", str, where)), text


def _read_test(layout: Layout, captions: Captions) -> Captions:
    """The 1k-A test: one given sentence per video, in the order of the file."""
    table = layout.find(*_JSFUSION)
    if table is not None:
        return _grouped((row["video_id"], row["sentence"]) for _, row in iter_table(table, ("video_id", "sentence")))
    lines = layout.find("test.jsonl", "*_test.jsonl")
    if lines is not None:
        return _grouped(_line_captions(lines))
    pairs = layout.find("msrvtt_ret_test1k.json", "**/msrvtt_ret_test1k.json")
    if pairs is not None:
        return _grouped(_list_captions(pairs))
    listed, chosen = layout.find("**/val_list_jsfusion.txt"), layout.find("**/jsfusion_val_caption_idx.pkl")
    if listed is None or chosen is None:
        layout.need(*_JSFUSION[:-1], "test.jsonl", "val_list_jsfusion.txt", "jsfusion_val_caption_idx.pkl")
    return _chosen_captions(read_list(listed), load_plain_pickle(chosen), captions, chosen)


def _chosen_captions(videos: list[str], chosen: object, captions: Captions, path: Path) -> Captions:
    """Frozen-in-Time's form: which of a video's captions is the query."""
    if not isinstance(chosen, dict):
        raise UserError(f"{path}: expected a dict from video to caption number; put MSRVTT_JSFUSION_test.csv beside it instead")
    test = {}
    for video in videos:
        number, known = chosen.get(video), captions.get(video, ())
        if not isinstance(number, int) or not 0 <= number < len(known):
            raise UserError(
                f"{path}: names caption {number} of {video}, which has {len(known)}; use MSRVTT_JSFUSION_test.csv instead"
            )
        test[video] = [known[number]]
    return test


Choice = tuple[str, str, list[str], int]


def _choices_of_table(path: Path) -> Iterator[Choice]:
    """JSFusion's own file, which is separated by tabs in spite of its name."""
    options = [f"a{i}" for i in range(1, 6)]
    for where, row in iter_table(path, ("vid_key", *options, "answer"), delimiter="\t"):
        yield where, _video(row["vid_key"].removeprefix("msr")), [row[key] for key in options], _number(row["answer"], where)


def _choices_of_lines(path: Path) -> Iterator[Choice]:
    for where, entry in iter_json_lines(path):
        video = stem(field(entry, "clip_name", str, where).rsplit("/", 1)[-1])
        answer = _number(field(entry, "answer", (str, int), where), where)
        yield where, video, _texts(field(entry, "options", list, where), where), answer


def _choices_of_list(path: Path) -> Iterator[Choice]:
    for number, entry in enumerate(read_json(path)):
        where = f"{path}: entry {number}"
        answer = _number(field(entry, "answer", (str, int), where), where)
        yield where, stem(field(entry, "image", str, where)), _texts(field(entry, "caption", list, where), where), answer


def _texts(values: list, where: str) -> list[str]:
    if not all(isinstance(value, str) for value in values):
        raise UserError(f"{where}: every option must be text, found {str(values)[:60]}")
    return values


def _number(value: str | int, where: str) -> int:
    try:
        return int(value)
    except ValueError:
        raise UserError(f"{where}: the answer must be the number of an option, found {value!r}") from None
