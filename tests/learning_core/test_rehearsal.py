import hashlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.drivers.cold_files import ColdFiles
from learning_core.errors import ConfigError, Malformed
from learning_core.memory.cold import InMemory
from learning_core.memory.latents import Precision
from learning_core.memory.rehearsal import Rehearsal, Room
from learning_core.memory.saved import read

ROOM = Room(max_bytes=400, hot_bytes=120, precision=Precision.FLOAT32)  # ten samples of 40 bytes, three of them hot
HEADERS = (  # of whole files that are no memory: keys that are nowhere, keys kept twice, counts of the wrong kind
    b"{}",
    b"[]",
    b'{"form": null, "next_key": 1, "places": [], "hot": [[0, null]], "cold": []}',
    b'{"form": null, "next_key": 1, "places": [], "hot": [], "cold": [0]}',
    b'{"form": null, "next_key": 1, "places": [[0, 0, 4, 0.5], [0, 0, 4, 0.5]], "hot": [], "cold": []}',
    b'{"form": null, "next_key": 1, "places": [[0, 0, 4, 0.5]], "hot": [[0, 9]], "cold": []}',
    b'{"form": null, "next_key": "x", "places": [], "hot": [], "cold": []}',
)


def as_body(header):
    return len(header).to_bytes(4, "little") + header


def sample(number, width=10):
    return np.full(width, number, np.float32)


def feed(memory, numbers, rng, condition=lambda number: number % 3):
    return [memory.offer(sample(number), condition(number), rng) for number in numbers]


def contents(memory):
    drawn = memory.draw(len(memory), np.random.default_rng(0))
    return dict(zip(drawn.keys.tolist(), drawn.batch.features[:, 0].tolist(), strict=True))


def saved(memory):
    stored = []
    memory.save(stored.append)
    return stored[0]


def same_draws(left, right, rng_seed=5):
    one, other = left.draw(4, np.random.default_rng(rng_seed)), right.draw(4, np.random.default_rng(rng_seed))
    np.testing.assert_array_equal(one.keys, other.keys)
    np.testing.assert_array_equal(one.batch.features, other.batch.features)
    np.testing.assert_array_equal(one.batch.conditions, other.batch.conditions)


def test_ten_samples_of_forty_bytes_fill_four_hundred_and_three_of_them_are_hot():
    memory = Rehearsal(ROOM, InMemory())
    feed(memory, range(50), np.random.default_rng(0))
    assert (len(memory), memory.used_bytes, memory.hot_bytes) == (10, 400, 120)
    assert sorted(memory.conditions().values()) == [3, 3, 4]


def test_what_is_kept_comes_back_with_its_condition_and_its_side_values():
    memory, rng = Rehearsal(replace(ROOM, max_bytes=10_000), InMemory()), np.random.default_rng(0)
    for number in range(6):
        memory.offer(sample(number), number, rng, {"logits": np.array([number, -number], np.float32)})
    drawn = memory.draw(4, rng)
    assert len(set(drawn.keys.tolist())) == 4
    np.testing.assert_array_equal(drawn.batch.features[:, 3], drawn.batch.conditions)
    np.testing.assert_array_equal(drawn.side["logits"], np.stack([drawn.batch.conditions, -drawn.batch.conditions], 1))


def test_an_empty_memory_draws_an_empty_batch():
    drawn = Rehearsal(ROOM, InMemory()).draw(8, np.random.default_rng(0))
    assert (len(drawn.batch), len(drawn.keys)) == (0, 0)


def test_without_room_nothing_is_kept_and_nothing_is_written():
    cold = InMemory()
    memory = Rehearsal(Room(max_bytes=0, hot_bytes=0), cold)
    assert memory.offer(sample(1), 0, np.random.default_rng(0)) is None
    assert (len(memory), cold.keys()) == (0, [])


def test_a_sample_of_another_shape_is_a_bug():
    memory = Rehearsal(ROOM, InMemory())
    memory.offer(sample(1), 0, np.random.default_rng(0))
    with pytest.raises(ValueError, match="this memory keeps"):
        memory.offer(sample(1, width=3), 0, np.random.default_rng(0))


def test_the_least_recently_rehearsed_goes_cold_and_what_is_rehearsed_becomes_hot():
    cold, rng = InMemory(), np.random.default_rng(1)
    memory = Rehearsal(ROOM, cold)
    feed(memory, range(4), rng)
    assert cold.keys() == [0]
    drawn = memory.draw(1, rng).keys.tolist()
    feed(memory, (4, 5), rng)
    assert set(memory._hot) == {*drawn, 4, 5}


def test_every_sample_is_drawn_as_often_as_any_other_hot_or_cold():
    memory, rng = Rehearsal(ROOM, InMemory()), np.random.default_rng(2)
    feed(memory, range(10), rng)
    counts = np.bincount(np.concatenate([memory.draw(2, rng).keys for _ in range(1000)]), minlength=10)
    assert np.abs(counts - 200).max() < 65  # five standard deviations


@pytest.mark.parametrize("balanced", [True, False])
def test_a_flooded_memory_is_balanced_or_like_the_stream(balanced):
    memory, rng = Rehearsal(Room(4000, 1000, Precision.FLOAT32, balanced), InMemory()), np.random.default_rng(3)
    feed(memory, range(3000), rng, condition=lambda number: int(number % 10 == 0))
    counts = memory.conditions()
    assert counts == {0: 50, 1: 50} if balanced else counts[1] < 25
    assert 1200 < np.mean(list(contents(memory).values())) < 1800  # old and new alike


@given(st.lists(st.sampled_from(["offer", "draw", "save", "crash", "forget"]), max_size=40), st.integers(0, 9))
@settings(max_examples=60)
def test_after_a_crash_anywhere_the_memory_of_the_last_save_is_back_and_the_replayed_stream_agrees(actions, seed):
    """The twin never crashes: it is what the memory has to be after the same actions since the last save."""
    cold, twin_cold, rng = InMemory(), InMemory(), np.random.default_rng(seed)
    memory, twin = Rehearsal(ROOM, cold), Rehearsal(ROOM, twin_cold)
    stored, since = saved(memory), []
    for action in [*actions, "crash"]:
        if action == "crash":
            if "forget" in [did for did, _ in since]:  # what is deleted stays deleted: nothing to compare with
                return
            memory = Rehearsal.restore(stored, ROOM, cold)
            assert set(cold.keys()) == memory._in_cold
            for again in since:
                act(memory, *again)
            same_draws(memory, twin)
            assert memory.used_bytes == twin.used_bytes
            since.append(("sync", 5))
        elif action == "save":
            stored, since = saved(memory), []
            saved(twin)
        else:
            step = int(rng.integers(1 << 30))
            since.append((action, step))
            act(memory, action, step)
            act(twin, action, step)
        assert memory.used_bytes <= ROOM.max_bytes
        assert memory.hot_bytes <= ROOM.hot_bytes


def act(memory, action, seed):
    rng = np.random.default_rng(seed)
    match action:
        case "offer":
            feed(memory, [seed % 1000], rng)
        case "draw":
            memory.draw(3, rng)
        case "forget":
            memory.forget(memory._keys[: seed % 2])
        case "sync":
            memory.draw(4, np.random.default_rng(seed))


def test_a_crash_between_the_cold_write_and_the_save_loses_nothing_and_leaves_nothing_behind():
    cold, rng = InMemory(), np.random.default_rng(4)
    memory = Rehearsal(ROOM, cold)
    feed(memory, range(3), rng)  # all hot: their bytes are in the save
    stored = saved(memory)
    feed(memory, range(3, 6), rng)  # 0, 1 and 2 go cold
    assert cold.keys() == [0, 1, 2]
    again = Rehearsal.restore(stored, ROOM, cold)
    assert cold.keys() == []
    assert contents(again) == {0: 0.0, 1: 1.0, 2: 2.0}


def test_what_gave_way_stays_in_the_cold_until_the_next_save_is_stored():
    cold, rng = InMemory(), np.random.default_rng(5)
    memory = Rehearsal(ROOM, cold)
    feed(memory, range(10), rng)
    stored = saved(memory)
    before = contents(memory)
    feed(memory, range(10, 40), rng)
    assert contents(memory).keys() != before.keys()
    assert contents(Rehearsal.restore(stored, ROOM, cold)) == before


def test_a_save_that_fails_changes_nothing():
    cold, rng = InMemory(), np.random.default_rng(5)
    memory = Rehearsal(ROOM, cold)
    feed(memory, range(10), rng)
    stored = saved(memory)
    feed(memory, range(10, 40), rng)

    def full(data):
        raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        memory.save(full)
    assert len(Rehearsal.restore(stored, ROOM, cold)) == 10


def test_a_sample_whose_file_is_lost_is_forgotten_and_the_others_are_drawn():
    cold, rng = InMemory(), np.random.default_rng(6)
    memory = Rehearsal(ROOM, cold)
    feed(memory, range(10), rng)
    stored = saved(memory)
    lost = cold.keys()[:2]
    cold.delete(lost)
    assert contents(Rehearsal.restore(stored, ROOM, cold)).keys() == set(range(10)) - set(lost)
    assert contents(memory).keys() == set(range(10)) - set(lost)
    assert memory.used_bytes == 8 * 40


def test_a_damaged_save_is_refused_and_the_cold_is_left_alone():
    cold = InMemory()
    memory = Rehearsal(ROOM, cold)
    feed(memory, range(10), np.random.default_rng(7))
    stored = bytearray(saved(memory))
    stored[len(stored) // 2] ^= 1
    before = cold.keys()
    for data in (bytes(stored), b"", bytes(40)):
        with pytest.raises(Malformed, match="is damaged"):
            Rehearsal.restore(data, ROOM, cold)
    assert cold.keys() == before


@given(st.binary(max_size=200) | st.sampled_from(HEADERS).map(as_body))
def test_whole_bytes_of_something_else_are_refused_as_damaged(body):
    with pytest.raises(Malformed, match="is damaged"):
        read(hashlib.sha256(body).digest() + body)


def test_a_sample_whose_file_is_damaged_is_forgotten_and_its_file_goes_with_the_next_save(tmp_path):
    cold = ColdFiles(tmp_path)
    memory = Rehearsal(Room(max_bytes=1 << 20, hot_bytes=0, precision=Precision.FLOAT32), cold)
    feed(memory, range(3), np.random.default_rng(12))
    stored = saved(memory)
    (tmp_path / f"{0:016x}.zst").write_bytes(b"damaged")
    restored = Rehearsal.restore(stored, Room(1 << 20, 0, Precision.FLOAT32), cold)
    for each in (memory, restored):
        assert contents(each).keys() == {1, 2}
    saved(restored)
    assert cold.keys() == [1, 2]


def test_less_room_after_a_restart_is_obeyed():
    cold = InMemory()
    memory = Rehearsal(ROOM, cold)
    feed(memory, range(10), np.random.default_rng(8))
    smaller = Rehearsal.restore(saved(memory), replace(ROOM, max_bytes=200, hot_bytes=40), cold)
    assert (len(smaller), smaller.used_bytes, smaller.hot_bytes) == (5, 200, 40)


def test_another_precision_after_a_restart_is_refused():
    cold = InMemory()
    memory = Rehearsal(ROOM, cold)
    feed(memory, range(10), np.random.default_rng(8))
    stored, before = saved(memory), cold.keys()
    with pytest.raises(ConfigError, match="kept as float32, not int8; set the precision back"):
        Rehearsal.restore(stored, replace(ROOM, precision=Precision.INT8), cold)
    assert cold.keys() == before


@pytest.mark.parametrize("precision", Precision)
def test_a_person_who_asks_to_be_forgotten_leaves_no_trace_in_memory_in_the_save_or_on_disk(tmp_path, precision):
    rng = np.random.default_rng(9)
    faces = rng.normal(size=(12, 600)).astype(np.float32)  # incompressible: their bytes would be found
    memory = Rehearsal(Room(60_000, 5_000, precision), ColdFiles(tmp_path / "cold"))
    keys = [memory.offer(face, int(number >= 9), rng) for number, face in enumerate(faces)]
    forms = [memory._form.encode(face, {}) for face in faces]

    def everything():
        memory.save((tmp_path / "save").write_bytes)
        raw = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
        return [form[100:200] in raw or form[100:200] in b"".join(_files(tmp_path)) for form in forms]

    assert all(everything())
    assert memory.forget([keys[0], keys[8]]) == 2
    assert memory.forget_condition(1) == 3
    assert memory.forget([keys[0], 999]) == 0
    left = [number in {1, 2, 3, 4, 5, 6, 7} for number in range(12)]
    assert everything() == left
    assert set(memory.draw(99, rng).keys.tolist()) == set(range(1, 8))
    assert len(list((tmp_path / "cold").iterdir())) <= 7
    again = Rehearsal.restore(
        (tmp_path / "save").read_bytes(), Room(60_000, 5_000, precision), ColdFiles(tmp_path / "cold")
    )
    assert set(again.draw(99, rng).keys.tolist()) == set(range(1, 8))


def _files(folder):
    cold = ColdFiles(folder / "cold")
    known = cold.keys()
    return [cold.get(key) or b"" for key in known]
