"""The input pipeline on real videos: one stream whatever reads it, resume, shards, broken videos."""

import asyncio
import dataclasses
import json
import multiprocessing
import re
import time

import numpy as np
import pytest
from streams import IN_PROCESS, SPEC, DrawnCaption, assert_equal, stream, take

from snp_jax.data.pipeline import (
    ClipSpec,
    Reading,
    eval_batches,
    open_source,
    read_annotations,
    steps_per_epoch,
    train_batches,
)
from snp_jax.errors import UserError

BROKEN = {"empty": "open", "text": "open", "sound": "no_video_stream"}
TRAIN_VIDEOS = 16


class Fails(DrawnCaption):
    def __call__(self, annotation, rng):
        raise KeyError("no such word")


@pytest.fixture(scope="module")
def train(prepared_dataset):
    return open_source(prepared_dataset, "train")


def test_a_batch(train, read_number):
    (batch,) = take(stream(train, batch_size=16), 1)
    assert batch["video"].shape == (16, 4, 32, 32, 3) and batch["video"].dtype == np.uint8
    assert batch["video_mask"].shape == (16, 4) and batch["video_mask"].dtype == bool
    assert batch["valid"].shape == (16,) and batch["valid"].dtype == bool
    assert batch["text_ids"].shape == (16, 5) and batch["text_ids"].dtype == np.int32
    assert sorted(batch["video_id"]) == sorted(note.video_id for note in read_annotations(train))
    lengths = {f"clip_{i:02d}": 12 + i for i in range(11)} | {"clip_11": 12, "clip_12": 13}
    for row in np.flatnonzero(batch["valid"]):
        n = lengths[str(batch["video_id"][row])]
        for segment, frame in enumerate(batch["video"][row]):
            assert n * segment // 4 <= read_number(frame) <= n * (segment + 1) / 4


def test_broken_videos_are_masked_and_named_and_keep_their_row(train):
    (batch,) = take(stream(train, batch_size=16), 1)
    failures = dict(zip(batch["video_id"].tolist(), batch["failure"].tolist(), strict=True))
    assert {name: failure.split(":")[0] for name, failure in failures.items() if failure} == BROKEN
    for row, video_id in enumerate(batch["video_id"]):
        fine = video_id not in BROKEN
        assert batch["valid"][row] == fine
        assert (batch["video_mask"][row] == fine).all()
        assert batch["video"][row].any() == fine


def test_every_epoch_has_every_video_once_in_a_new_order(train):
    batches = take(stream(train), 8)
    ids = [video_id for batch in batches for video_id in batch["video_id"].tolist()]
    assert len(set(ids[:TRAIN_VIDEOS])) == TRAIN_VIDEOS and set(ids[:TRAIN_VIDEOS]) == set(ids[TRAIN_VIDEOS:])
    assert ids[:TRAIN_VIDEOS] != ids[TRAIN_VIDEOS:]
    pixels = {row: {} for row in range(2)}
    for step, batch in enumerate(batches):
        for video_id, frames in zip(batch["video_id"].tolist(), batch["video"], strict=True):
            pixels[step // 4][video_id] = frames
    assert any((pixels[0][video_id] != pixels[1][video_id]).any() for video_id in pixels[0])


def test_the_seed_decides(train):
    assert_equal(take(stream(train, seed=1), 3), take(stream(train, seed=1), 3))
    one, other = take(stream(train, seed=1), 3), take(stream(train, seed=2), 3)
    assert [b["video_id"].tolist() for b in one] != [b["video_id"].tolist() for b in other]


def test_workers_and_threads_do_not_change_the_stream_or_its_state(train):
    """Also across a change: what one worker leaves off, two go on with."""
    expected = take(stream(train), 9)
    with_one = stream(train, Reading(num_workers=1, num_threads=1, buffer=2))
    first = [next(with_one) for _ in range(4)]
    state = json.loads(json.dumps(with_one.get_state()))
    with_one.close()
    with_two = stream(train, Reading(num_workers=2, num_threads=2, buffer=3))
    with_two.set_state(state)
    assert_equal(first + take(with_two, 5), expected)


def test_workers_can_start_before_the_first_batch_is_asked_for(train):
    expected, early = take(stream(train), 3), stream(train, Reading(num_workers=1, num_threads=1, buffer=4))
    early.start()
    early.start()  # again: nothing
    deadline = time.monotonic() + 60
    while not (workers := multiprocessing.active_children()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert workers
    assert_equal(take(early, 3), expected)


def test_resume_is_exact_from_any_step_and_in_place(train):
    expected = take(stream(train), 7)
    batches = stream(train)
    states = []
    for _ in range(7):
        states.append(batches.get_state())
        next(batches)
    for step in (6, 0, 3, 4):
        batches.set_state(states[step])
        assert batches.get_state() == states[step]
        assert_equal([next(batches)], [expected[step]])
    batches.close()


def test_a_state_of_other_data_or_seed_is_refused(train, prepared_dataset):
    state = stream(train, seed=1).get_state()
    with pytest.raises(UserError, match="seed = 1, now it is 0"):
        stream(train).set_state(state)
    with pytest.raises(UserError, match="videos = 16, now it is 4"):
        stream(open_source(prepared_dataset, "val"), seed=1).set_state(state)


def test_hosts_share_each_global_batch_without_overlap(train):
    """Each host sees, step by step, its rows of what one host alone sees."""
    whole = take(stream(train), 6)
    for rows in ([0, 1], [2, 3], [3, 0]):
        part = take(stream(train, rows=rows), 6)
        assert_equal(part, [{name: values[rows] for name, values in batch.items()} for batch in whole])


def test_a_state_is_valid_for_another_number_of_hosts(train):
    whole = stream(train)
    for _ in range(3):
        next(whole)
    state, expected = whole.get_state(), next(whole)
    half = stream(train, rows=[2, 3])
    for _ in range(3):
        next(half)
    assert half.get_state() == state
    whole.close()
    half.close()
    half = stream(train, rows=[0, 1])
    half.set_state(state)
    assert_equal(take(half, 1), [{name: values[:2] for name, values in expected.items()}])


def test_the_place_that_any_process_saved_will_do(train, tmp_path):
    batches = stream(train)
    (tmp_path / "process_1-of-2.json").write_text(json.dumps({**batches.get_state(), "next_position": 8}))

    async def load():
        await (await batches.load(tmp_path))

    asyncio.run(load())
    assert batches.get_state()["next_position"] == 8
    batches.close()


def test_evaluation_in_order_with_a_padded_end(train, read_number):
    batches = list(eval_batches(train, spec=SPEC, batch_size=5, reading=IN_PROCESS))
    assert [batch["index"].tolist() for batch in batches] == [
        [0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [10, 11, 12, 13, 14], [15, -1, -1, -1, -1],
    ]  # fmt: skip
    notes = read_annotations(train)
    for batch in batches:
        for row, index in enumerate(batch["index"]):
            if index < 0:
                assert not batch["valid"][row] and not batch["video_mask"][row].any()
                assert batch["video_id"][row] == batch["failure"][row] == ""
                continue
            assert batch["video_id"][row] == notes[index].video_id
            assert batch["valid"][row] == (notes[index].video_id not in BROKEN)
            if notes[index].video_id == "clip_00":  # 12 frames: middles of 0-2, 3-5, 6-8, 9-11
                assert [read_number(frame) for frame in batch["video"][row]] == [1, 4, 7, 10]
    assert batches[0]["index"].dtype == np.int32


def test_evaluation_shards_cover_everything_once_in_equal_numbers(train):
    seen = []
    for host in range(3):
        batches = list(eval_batches(train, spec=SPEC, batch_size=2, reading=IN_PROCESS, shard=(host, 3)))
        assert len(batches) == 3
        seen += [index for batch in batches for index in batch["index"].tolist() if index >= 0]
    assert sorted(seen) == list(range(TRAIN_VIDEOS))


def test_several_frames_per_clip(train):
    spec = ClipSpec(num_clips=2, frames_per_clip=3, image_size=(16, 24))
    batch = next(iter(eval_batches(train, spec=spec, batch_size=2, reading=IN_PROCESS)))
    assert batch["video"].shape == (2, 6, 16, 24, 3) and batch["video_mask"].shape == (2, 6)


@pytest.mark.parametrize("exclusive", [False, True])
def test_the_frames_are_the_release_s_where_asked_for(exclusive, train, read_number):
    """clip_00 has 12 frames: two segments, 0-5 and 6-11."""
    spec = dataclasses.replace(SPEC, num_clips=2, exclusive_segments=exclusive)
    options = {"spec": spec, "batch_size": TRAIN_VIDEOS, "reading": IN_PROCESS}

    def numbers(batch):
        row = batch["video_id"].tolist().index("clip_00")
        return [read_number(frame) for frame in batch["video"][row]]

    (evaluated,) = take(eval_batches(train, **options), 1)
    assert numbers(evaluated) == ([2, 8] if exclusive else [3, 9])
    drawn = [numbers(batch) for batch in take(train_batches(train, text=DrawnCaption(), seed=0, **options), 40)]
    assert {number for both in drawn for number in both} == set(range(12)) - ({5, 11} if exclusive else set())


def test_exclusive_segments_give_one_frame_a_clip():
    with pytest.raises(ValueError, match="one frame a clip, not 3"):
        dataclasses.replace(SPEC, frames_per_clip=3, exclusive_segments=True)


def test_steps_per_epoch(train):
    assert [steps_per_epoch(train, *sizes) for sizes in ((4,), (5,), (2, 3), (100,))] == [4, 4, 3, 1]


def test_missing_text_is_reported_before_anything_is_read(folder_dataset, prepared_dataset):
    source = open_source(prepared_dataset, "val")
    source.summary = dataclasses.replace(source.summary, with_questions=1)
    with pytest.raises(UserError, match=re.escape("3 of 4 videos of the val split have no questions")):
        stream(source, text=DrawnCaption(needs="questions"))


def test_an_error_in_the_pipeline_reaches_the_caller(train):
    batches = stream(train, text=Fails())
    with pytest.raises(RuntimeError, match="reading the data failed.*KeyError: 'no such word'"):
        next(batches)
    batches.close()


def test_an_ended_evaluation_stays_ended(train):
    batches = eval_batches(train, spec=SPEC, batch_size=16, reading=IN_PROCESS)
    start = batches.get_state()
    next(batches)
    for _ in range(2):
        with pytest.raises(StopIteration):
            next(batches)
    batches.set_state(start)
    assert next(batches)["index"].tolist() == list(range(16))
    batches.close()


def test_a_closed_stream_says_so(train):
    batches = stream(train)
    next(batches)
    batches.close()
    batches.close()
    with pytest.raises(ValueError, match="closed"):
        next(batches)
