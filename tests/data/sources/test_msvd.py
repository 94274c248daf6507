"""MSVD retrieval: every form of the captions, names with their times, lists without a last newline."""

import pickle

import pytest

from snp_jax.data.sources import msvd
from snp_jax.errors import UserError

CAPTIONS = {"-4wsuPCjDBc_5_15": ["a squirrel eats", "a squirrel"], "mv89psg6zh4_33_46": ["a bird bathes"], "x_0_1": ["rain"]}


@pytest.fixture
def manual(tmp_path, make_video):
    root = tmp_path / "msvd_data"
    for split, video in zip(("train", "val", "test"), CAPTIONS, strict=True):
        root.mkdir(exist_ok=True)
        (root / f"{split}_list.txt").write_text(video)  # no newline at the end
        make_video(tmp_path / "YouTubeClips" / f"{video}.avi", 5, codec="mpeg4", options={"bf": "2"})
    return tmp_path


def as_pickle(root):
    words = {video: [text.split() for text in texts] for video, texts in CAPTIONS.items()}
    (root / "msvd_data" / "raw-captions.pkl").write_bytes(pickle.dumps(words))


def as_json(root, write_json):
    write_json(root / "msvd_data" / "captions_msvd.json", CAPTIONS)


def as_corpus(root):
    lines = ["VideoID,Start,End,WorkerID,Source,AnnotationTime,Language,Description"]
    for video, texts in CAPTIONS.items():
        name, start, end = video.rsplit("_", 2)
        lines += [f'{name},{start},{end},1,clean,9,English,"{text}"' for text in texts]
        lines.append(f"{name},{start},{end},1,clean,9,German,ein Hund")
    (root / "video_corpus.csv").write_text("\n".join(lines))


@pytest.mark.parametrize("form", ["pickle", "json", "corpus"])
def test_captions_of_a_video_stay_together(form, manual, write_json, store):
    {"pickle": lambda: as_pickle(manual), "json": lambda: as_json(manual, write_json), "corpus": lambda: as_corpus(manual)}[
        form
    ]()
    stored = store("msvd", manual)
    assert [stored.numbers(split) for split in ("train", "val", "test")] == [
        (1, 2, 0, 0, 0, 0), (1, 1, 0, 0, 0, 0), (1, 1, 0, 0, 0, 0),
    ]  # fmt: skip
    assert stored.annotation("train", "-4wsuPCjDBc_5_15").captions == ("a squirrel eats", "a squirrel")
    assert stored.annotation("test", "x_0_1").captions == ("rain",)


def test_published_sizes(manual):
    as_pickle(manual)
    sizes = {split.name: (split.expected.videos, split.expected.captions) for split in msvd.read_retrieval(manual).splits}
    assert sizes == {"train": (1_200, 48_774), "val": (100, 4_290), "test": (670, 27_763)}


def test_listed_without_captions(manual, store):
    as_pickle(manual)
    (manual / "msvd_data" / "train_list.txt").write_text("-4wsuPCjDBc_5_15\nnobody_1_2")
    assert ("train", "nobody_1_2", "annotation") in store("msvd", manual).missing()


def test_a_list_is_missing(manual):
    as_pickle(manual)
    (manual / "msvd_data" / "val_list.txt").unlink()
    with pytest.raises(UserError, match="msvd: found none of val_list.txt"):
        msvd.read_retrieval(manual)
