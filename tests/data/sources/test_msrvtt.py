"""MSR-VTT in every form in which people have it."""

import pickle

import pytest

from snp_jax.data.sources import msrvtt
from snp_jax.errors import UserError

SENTENCES = {"video0": ["a dog", "a  brown\ndog "], "video6513": ["a cat"], "video7010": ["a cow", "two cows"],
             "video9770": ["a boy connects something", "a person"], "video9999": ["rain"]}  # fmt: skip
TEST = "key,vid_key,video_id,sentence\nret0,msr9770,video9770,a person is connecting something to system\n"


def info(videos):
    """The official JSON, with its keys that contain a blank; sentences are not grouped by video."""
    pairs = [(video, i) for i in range(2) for video in videos if i < len(SENTENCES[video])]
    return {
        "info": {"year": "2016"},
        "videos": [
            {"category": 9, "url": "https://www.youtube.com/watch?v=x", "video_id": video, "start time": 137.72,
             "end time": 149.44, "split": "train", "id": int(video.removeprefix("video"))}
            for video in videos
        ],
        "sentences": [{"caption": SENTENCES[v][i], "video_id": v, "sen_id": n} for n, (v, i) in enumerate(pairs)],
    }  # fmt: skip


@pytest.fixture
def official(tmp_path, make_video, write_json):
    """Variant A: the two archives; the test table as xpool and CLIP4Clip have it."""
    root = tmp_path / "manual"
    for video in SENTENCES:
        folder = "TrainValVideo" if int(video[5:]) < 7010 else "TestVideo"
        make_video(root / folder / f"{video}.mp4", 4)
    write_json(root / "train_val_videodatainfo.json", info(["video0", "video6513"]))
    write_json(root / "test_videodatainfo.json", info(["video7010", "video9770", "video9999"]))
    (root / "MSRVTT_JSFUSION_test.csv").write_text(TEST)
    return root


def test_the_official_archives(official, store):
    stored = store("msrvtt/9k_1ka", official)
    assert stored.numbers("train") == (4, 6, 0, 0, 9995, 0)  # all but the one test video of the table
    assert stored.numbers("test") == (1, 1, 0, 0, 0, 0)
    assert stored.annotation("train", "video0").captions == ("a dog", "a brown dog")
    note = stored.annotation("test", "video9770")
    assert note.captions == ("a person is connecting something to system",)  # the sentence of the table
    assert note.start is None and note.end is None  # the files are cut already
    assert stored.records["test"]["video9770"].video == (official / "TestVideo" / "video9770.mp4").read_bytes()
    assert ("train", "video1", "annotation") in stored.missing()
    assert stored.summaries["train"].seconds == pytest.approx(1.6, abs=0.2)


def test_splits(official):
    def ids(variant):
        return {s.name: [row.annotation.video_id for row in s.rows] for s in msrvtt.read_retrieval(official, variant).splits}

    assert ids("7k_1ka") == {"train": ["video0", "video6513"], "test": ["video9770"]}
    assert ids("9k_1ka") == {"train": ["video0", "video6513", "video7010", "video9999"], "test": ["video9770"]}
    assert ids("6k_1ka") == {"train": ["video0"], "val": ["video6513"], "test": ["video9770"]}


@pytest.mark.parametrize("variant, size", [("7k_1ka", 7_010), ("9k_1ka", 9_000), ("6k_1ka", 6_513)])
def test_published_sizes(variant, size, official):
    splits = {split.name: split.expected for split in msrvtt.read_retrieval(official, variant).splits}
    assert splits["train"].videos == size and splits["train"].certain
    assert (splits["test"].videos, splits["test"].captions) == (1_000, 1_000)
    note = "do not evaluate those with weights trained on this split"
    assert any(note in text for text in msrvtt.read_retrieval(official, variant).notes) == (variant == "9k_1ka")


def frozen(root, write_json):
    entries = [{"image_id": video, "caption": text, "id": 0} for video, texts in SENTENCES.items() for text in texts]
    write_json(root / "MSRVTT" / "annotation" / "MSR_VTT.json", {"annotations": entries})
    lists = root / "MSRVTT" / "high-quality" / "structured-symlinks"
    lists.mkdir(parents=True)
    (lists / "val_list_jsfusion.txt").write_text("video9770")  # no newline at the end
    (lists / "jsfusion_val_caption_idx.pkl").write_bytes(pickle.dumps({"video9770": 1}))
    return root / "MSRVTT" / "videos" / "all"


def clip4clip(root, write_json):
    write_json(root / "msrvtt" / "MSRVTT_data.json", info(list(SENTENCES)))
    (root / "msrvtt" / "MSRVTT_JSFUSION_test.csv").write_text(
        TEST.replace("a person is connecting something to system", "a person")
    )
    return root / "msrvtt" / "MSRVTT_Videos"


def clipbert(root, write_json):
    lines = [{"caption": text, "clip_name": video, "sen_id": 0} for video, texts in SENTENCES.items() for text in texts]
    write_json(root / "train.jsonl", lines)
    write_json(root / "test.jsonl", [{"caption": "a person", "clip_name": "video9770.mp4", "retrieval_key": "ret0"}])
    return root / "videos"


def singularity(root, write_json):
    write_json(root / "msrvtt_ret_train9k.json", [{"image": f"{v}.mp4", "caption": texts} for v, texts in SENTENCES.items()])
    write_json(root / "msrvtt_ret_test1k.json", [{"image": "video9770.mp4", "caption": "a person"}])
    return root


@pytest.mark.parametrize("form", [frozen, clip4clip, clipbert, singularity])
@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
def test_other_forms(form, suffix, tmp_path, write_json, make_video):
    videos = form(tmp_path, write_json)
    for video in SENTENCES:
        make_video(videos / f"{video}{suffix}", 2, codec="libx264" if suffix == ".mp4" else "libvpx")
    train, test = msrvtt.read_retrieval(tmp_path, "7k_1ka").splits
    assert [(row.annotation.video_id, row.annotation.captions) for row in train.rows] == [
        ("video0", ("a dog", "a brown dog")), ("video6513", ("a cat",)),
    ]  # fmt: skip
    assert [(row.annotation.video_id, row.annotation.captions) for row in test.rows] == [("video9770", ("a person",))]
    assert all(row.media.path.endswith(f"{row.annotation.video_id}{suffix}") for row in (*train.rows, *test.rows))


def test_a_pickle_that_would_run_code_is_refused(tmp_path, write_json):
    frozen(tmp_path, write_json)

    class Harmful:
        def __reduce__(self):
            return print, ("harm",)

    (file,) = tmp_path.rglob("jsfusion_val_caption_idx.pkl")
    file.write_bytes(pickle.dumps(Harmful()))
    with pytest.raises(UserError, match="not a pickle of plain dicts, lists and strings .it asks for builtins.print"):
        msrvtt.read_retrieval(tmp_path, "7k_1ka")


OPTIONS = ["a boy", "a movie", "a man", "two men", "a group"]


@pytest.mark.parametrize("form", ["csv", "jsonl", "json"])
def test_multiple_choice(form, tmp_path, write_json, make_video, store):
    if form == "csv":  # separated by tabs; the index column has no name
        text = "\tvid_key\ta1\ta2\ta3\ta4\ta5\tanswer\n"
        text += "".join(f"mc{i}\tmsr{video}\t" + "\t".join(OPTIONS) + f"\t{i}\n" for i, video in enumerate((9770, 7010)))
        (tmp_path / "MSR_MC_test.csv").write_text(text)
    elif form == "jsonl":
        entries = [
            {"qid": f"mc{i}", "clip_name": f"video{video}", "title": "msr1", "answer": str(i), "options": OPTIONS}
            for i, video in enumerate((9770, 7010))
        ]
        write_json(tmp_path / "msrvtt_mc_test.jsonl", entries)
    else:
        entries = [{"image": f"video{v}.mp4", "caption": OPTIONS, "answer": i} for i, v in enumerate((9770, 7010))]
        write_json(tmp_path / "msrvtt_mc_test.json", entries)
    make_video(tmp_path / "TestVideo" / "video7010.mp4", 3)
    stored = store("msrvtt_mc", tmp_path)
    assert stored.numbers("test") == (2, 0, 0, 2, 1, 0)
    note = stored.annotation("test", "video7010")
    assert note.options == tuple(OPTIONS) and note.option_answer == 1
    assert stored.records["test"]["video9770"].video == b""  # not there, but asked all the same


def test_bad_choices_are_named(tmp_path, write_json):
    entry = {"clip_name": "video7010", "answer": "5", "options": OPTIONS}
    write_json(tmp_path / "msrvtt_mc_test.jsonl", [{**entry, "answer": "4"}, entry])
    with pytest.raises(UserError, match="jsonl:2: expected options and the index of the right one, found 5 of 5"):
        msrvtt.read_choice(tmp_path)


def test_nothing_there(tmp_path):
    with pytest.raises(UserError, match="msrvtt/7k_1ka: found none of MSRVTT_data.json, train_val_videodatainfo.json"):
        msrvtt.read_retrieval(tmp_path, "7k_1ka")
    with pytest.raises(UserError, match="no such directory; give the one that holds the files of msrvtt/7k_1ka"):
        msrvtt.read_retrieval(tmp_path / "no", "7k_1ka")
