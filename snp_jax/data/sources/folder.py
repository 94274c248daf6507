"""A folder of one's own: `videos/` and `train.jsonl`, `val.jsonl`, `test.jsonl` with one line per video.

Reads and checks it completely before anything is written, and names what does not fit. The format of a line
is in `records`, storage in `prepare`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from snp_jax.data.records import VideoLine, parse_line
from snp_jax.data.sources.rows import Media, Reading, Row, Split
from snp_jax.errors import UserError

SPLITS = ("train", "val", "test")
VIDEOS = "videos"
_NAMED = 3  # how many offenders a message names before it only counts


def read_folder(directory: str | Path, *, allow_unused: bool = False) -> Reading:
    """Reads and checks a folder dataset.

    Args:
        directory: the folder.
        allow_unused: accept video files that no line mentions (they are left out).

    Returns:
        Every split that has a file, its videos in the order of its lines.

    Raises:
        UserError: anything that is missing, malformed or contradictory, with the file and line, and what to
        do.
    """
    directory = Path(directory)
    on_disk = _video_files(directory)
    files = [directory / f"{split}.jsonl" for split in SPLITS]
    lines = {file.stem: _read_lines(file) for file in files if file.is_file()}
    if not lines:
        raise UserError(
            f"{directory}: found none of {', '.join(file.name for file in files)}; "
            "write one JSON line per video into at least one of them"
        )
    everything = [line for split_lines in lines.values() for line in split_lines]
    _check_ids(everything)
    for split, split_lines in lines.items():
        _check_fits(split_lines, split)
    _check_files(directory, everything, on_disk, allow_unused)
    splits = (
        Split(split, [Row(line.annotation, Media.file(directory / VIDEOS / line.video)) for line in split_lines])
        for split, split_lines in lines.items()
    )
    return Reading("folder", tuple(splits))


def _video_files(directory: Path) -> set[str]:
    """Paths of all files below videos/, as lines write them."""
    if not directory.is_dir():
        raise UserError(f"{directory}: no such folder; give the folder that holds {VIDEOS}/ and train.jsonl")
    if not any(directory.iterdir()):
        raise UserError(f"{directory}: the folder is empty; put the videos into {VIDEOS}/ and their captions into train.jsonl")
    root = directory / VIDEOS
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; the video files belong there")
    paths = (path.relative_to(root) for path in root.rglob("*") if path.is_file())
    return {path.as_posix() for path in paths if not any(part.startswith(".") for part in path.parts)}


def _read_lines(file: Path) -> list[VideoLine]:
    lines = []
    with file.open("rb") as stream:  # split by bytes: a broken character is reported with its line
        for number, raw in enumerate(stream, start=1):
            try:
                text = raw.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise UserError(f"{file}:{number}: byte {error.start} is not UTF-8; save the file as UTF-8") from error
            if text.strip():
                lines.append(parse_line(text, file, number))
    if not lines:
        raise UserError(f"{file}: the file has no lines; describe at least one video or remove the file")
    return lines


def _check_ids(lines: Iterable[VideoLine]) -> None:
    seen: dict[str, VideoLine] = {}
    for line in lines:
        video_id = line.annotation.video_id
        if video_id in seen:
            raise UserError(
                f'{line.where}: video id "{video_id}" was already used at {seen[video_id].where}; '
                "give every video one line, in one split, and names that differ in more than their suffix"
            )
        seen[video_id] = line


def _check_fits(lines: Sequence[VideoLine], split: str) -> None:
    ids = {line.annotation.video_id for line in lines}
    for line in lines:
        unknown = frozenset().union(*line.annotation.fits) - ids
        if unknown:
            raise UserError(
                f'{line.where}: "fits" names {_named(unknown)}, which no line of the {split} split '
                "describes; use ids (paths below videos/ without suffix) of the same split"
            )


def _check_files(directory: Path, lines: Sequence[VideoLine], on_disk: set[str], allow_unused: bool) -> None:
    absent = [line for line in lines if line.video not in on_disk]
    if absent:
        raise UserError(
            f"{absent[0].where}: {_many(len(absent), 'annotated video is', 'annotated videos are')} not in "
            f"{directory / VIDEOS} ({_named(line.video for line in absent)}); "
            "add the files or remove their lines"
        )
    unused = on_disk - {line.video for line in lines}
    if unused and not allow_unused:
        raise UserError(
            f"{directory / VIDEOS}: {_many(len(unused), 'video has', 'videos have')} no captions "
            f"({_named(unused)}); add their lines, or pass --allow-unused to leave them out"
        )


def _many(count: int, one: str, several: str) -> str:
    return f"{count} {one if count == 1 else several}"


def _named(names: Iterable[str]) -> str:
    names = sorted(names)
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
