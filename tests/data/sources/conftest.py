"""For the tests of the datasets: small media under official names, and preparing without worker processes."""

import json

import pytest
from PIL import Image

from snp_jax.data.sources import catalog, prepare, prepared, shards, workers
from snp_jax.data.sources.builder import builder_for
from snp_jax.data.sources.prepare import Options


@pytest.fixture
def store(tmp_path, monkeypatch):
    """`store(name, manual_dir, **options)`: prepares a dataset of `catalog` in this process; summaries and records by split."""

    def write_here(tasks, **options):
        for task in tasks:
            shards.write_shard(task, {}, lambda position: None)

    def run(name, manual_dir, **options):
        monkeypatch.setattr(workers, "write_shards", write_here)
        dataset = catalog.find(name)
        out = tmp_path / "prepared" / f"{name.replace('/', '_')}_{len(list(tmp_path.glob('prepared/*')))}"
        prepare.prepare(
            dataset.read(manual_dir), builder_for(dataset, str(out.parent)), out, Options(allow_missing=True, **options)
        )
        sources = {split: prepared.open_source(out, split) for split in prepared.read_summaries(out)}
        records = {
            split: {source[i].annotation.video_id: source[i] for i in range(len(source))} for split, source in sources.items()
        }
        return Stored(out, prepared.read_summaries(out), records)

    return run


class Stored:
    """What `store` wrote."""

    def __init__(self, out, summaries, records):
        self.out = out
        self.summaries = summaries
        self.records = records

    def annotation(self, split, video_id):
        return self.records[split][video_id].annotation

    def numbers(self, split):
        """(videos, captions, questions, choices, missing, broken) as the table shows them."""
        s = self.summaries[split]
        return s.videos, s.captions, s.questions, s.choices, s.missing, s.unreadable

    def missing(self):
        """{(split, id, what)} of the ids that do not come from a published list."""
        lines = (self.out / prepared.MISSING_FILE).read_text().splitlines()
        return {tuple(json.loads(line).values()) for line in lines}


@pytest.fixture(scope="session")
def make_image():
    """`make_image(path, size=(48, 64))`: writes a small picture in the format of the suffix (default JPEG)."""

    def write(path, size=(48, 64), colour=(200, 30, 30)):
        path.parent.mkdir(parents=True, exist_ok=True)
        kind = {".png": "PNG", ".webp": "WEBP", ".gif": "GIF"}.get(path.suffix, "JPEG")
        with path.open("wb") as file:
            Image.new("RGB", (size[1], size[0]), colour).save(file, kind)
        return path

    return write


@pytest.fixture(scope="session")
def write_json():
    """`write_json(path, value)`; a list goes line by line into a .jsonl file."""

    def write(path, value):
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps(entry) + "\n" for entry in value] if path.suffix == ".jsonl" else [json.dumps(value)]
        path.write_text("".join(lines))
        return path

    return write
