"""The report on a dataset: everything it counts, worked out by hand; and its page."""

import json
import re

import pytest

from snp_jax.data import check, check_page
from snp_jax.data.sources import catalog, prepare, shards, workers
from snp_jax.data.sources.builder import builder_for
from snp_jax.data.sources.prepare import Options
from snp_jax.data.stream import Reading
from snp_jax.errors import UserError

IN_PROCESS = Reading(num_workers=0, num_threads=1, buffer=4)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory, make_video):
    """A train split of three videos, one broken and one missing; a test split with one of the same files."""
    root = tmp_path_factory.mktemp("check")
    for name, frames, size in (("a", 10, (64, 96)), ("b", 20, (64, 96)), ("c", 30, (64, 64))):
        make_video(root / "media" / f"{name}.mp4", frames, size=size)
    (root / "media" / "bad.mp4").write_bytes(b"<html>")
    (root / "media" / "a_again.mp4").write_bytes((root / "media" / "a.mp4").read_bytes())
    (root / "media" / "a_leak.mp4").write_bytes((root / "media" / "a.mp4").read_bytes())
    captions = {"a": ["a dog", "a dog", "it runs <fast>"], "b": ["rain"], "bad": ["x"], "a_again": ["one two three four"]}
    lines = {
        "train": [{"clip_name": f"{clip}.mp4", "caption": text} for clip, texts in captions.items() for text in texts],
        "test": [{"clip_name": "a_leak.mp4", "caption": "rain"}, {"clip_name": "c.mp4", "caption": "sun"},
                 {"clip_name": "gone.mp4", "caption": "moon"}],
    }  # fmt: skip
    for split, entries in lines.items():
        (root / "media" / f"{split}.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    entry = catalog.find("jsonl/retrieval")

    def write_here(tasks, **options):
        for task in tasks:
            shards.write_shard(task, {}, lambda position: None)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workers, "write_shards", write_here)
        options = Options(allow_missing=True)
        prepare.prepare(entry.read(root / "media"), builder_for(entry, str(root)), root / "data", options)
    return root / "data"


@pytest.fixture(scope="module")
def report(dataset):
    seen = []
    made = check.check_dataset(dataset, reading=IN_PROCESS, deep=True, samples=2, progress=seen.append)
    assert sum(seen) == 4 + 3
    return made


def test_numbers(report):
    train, test = report.splits["train"], report.splits["test"]
    assert (train.examples, train.images, train.captions) == (4, 0, 6)
    assert train.broken == {"open": 1} and list(train.broken_names) == ["bad"]
    assert test.broken == {"missing": 1} and test.broken_names == {"gone": "missing"}
    assert train.sizes == {"96 x 64": 3} and test.sizes == {"96 x 64": 1, "64 x 64": 1}
    assert train.seconds[0] == pytest.approx(1.0, abs=0.11) and train.seconds[-1] == pytest.approx(2.0, abs=0.11)
    assert train.words_per_caption[0] == 1 and train.words_per_caption[-1] == 4
    assert train.captions_per_example == [1, 1, 1, 1, 1.5, 2.7, 3]
    assert train.repeated == 1
    assert [sorted(ids) for ids in train.same_file] == [["a", "a_again"]]
    assert sum(count for *_, count in train.words) == 6 and sum(count for *_, count in train.lengths) == 3


def test_overlap(report):
    (one,) = report.overlaps
    assert (one.first, one.second, one.ids, one.files, one.captions) == ("train", "test", 0, 1, 1)
    assert one.examples[0][1] == "a_leak"


def test_the_page_shows_it_all(report, tmp_path):
    html = check_page.page(report, ":root {}")
    assert html.count("<figure>") == 4 and html.count("data:image/jpeg;base64,") == 4
    assert "it runs &lt;fast&gt;" in html and "<fast>" not in html
    assert not re.search(r'(src|href)="(?!data:)', html)
    for text in ("bad", "missing", "96 x 64", "train and test"):
        assert text in html
    report.write(tmp_path / "report.json")
    assert json.loads((tmp_path / "report.json").read_text())["splits"]["train"]["broken"] == {"open": 1}


def test_not_a_dataset(tmp_path):
    with pytest.raises(UserError, match="not a prepared dataset"):
        check.check_dataset(tmp_path, reading=IN_PROCESS, deep=False, samples=1, progress=lambda count: None)
