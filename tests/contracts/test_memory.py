"""What every memory promises, whether it stays open or each call is a new process's."""

import numpy as np
import pytest

from edge_agent.drivers.sqlite_memory import ROW_BYTES, SqliteMemory
from edge_agent.values import Arrival, Ingested, NewSample
from learning_core.memory.keep_budget import Running, Threshold
from learning_core.samples import Batch

SHAPE, ROOM = (1, 2, 2), 1 << 20
SAMPLE_BYTES = ROW_BYTES + 4 * 4 + 2 * 4


@pytest.fixture
def memory(on_disk):
    return on_disk(SqliteMemory)


def sample(value, condition=0, shape=SHAPE, rank=0.5):
    return NewSample(np.full(shape, value, np.float32), np.array([value, 1], np.float32), condition, 7, rank)


def arrival(name="a", kept=(), ids=(), threshold=Threshold(), seen=None):
    """A file whose samples are those that are kept, unless `seen` says how many it held."""
    count = len(kept) if seen is None else seen
    about = np.zeros(count, np.int64)
    held = Arrival(name, f"digest of {name}", Batch(np.zeros((count, *SHAPE), np.float32), about), about, about)
    held = Arrival(held.name, held.digest, held.batch, held.taken_at_s, np.array(ids, np.int64) if ids else about)
    return Ingested(held, kept, {"kept": len(kept)}, threshold)


def test_a_new_memory_holds_nothing(memory):
    batch, newest = memory.samples()
    assert (memory.size(), len(batch), newest, memory.newest_key(), memory.base()) == (0, 0, 0, 0, "")
    assert (memory.threshold(), memory.kept().by_condition) == (Threshold(), {})
    assert not memory.knows("a", "digest of a")


def test_what_was_stored_comes_back_to_the_bit_the_oldest_first(memory):
    memory.store(arrival("a", [sample(0.1, 3), sample(0.2, 4)]), ROOM)
    memory.store(arrival("b", [sample(0.3, 3)]), ROOM)
    batch, newest = memory.samples()
    assert (memory.size(), newest, memory.newest_key()) == (3, newest, newest)
    assert batch.conditions.tolist() == [3, 4, 3]
    np.testing.assert_array_equal(batch.features, [sample(value).features for value in (0.1, 0.2, 0.3)])
    kept = memory.kept().by_condition
    assert kept.keys() == {3, 4}
    np.testing.assert_array_equal(kept[3], [sample(value).embedding for value in (0.1, 0.3)])
    np.testing.assert_array_equal(kept[4], [sample(0.2).embedding])


def test_the_threshold_is_that_of_the_last_arrival_also_of_one_that_brought_nothing(memory):
    threshold = Threshold(1.5, Running(0.1, 0.2, 3), Running(0.4, 0.5, 6), Running(-0.7, 0.8, 9))
    memory.store(arrival("a", threshold=threshold, seen=2), ROOM)
    assert (memory.threshold(), memory.size()) == (threshold, 0)


def test_a_file_is_known_by_its_name_and_its_bytes_until_its_name_may_come_again(memory):
    memory.store(arrival("a", [sample(0.1)]), ROOM)
    memory.store(arrival("b"), ROOM)
    assert (memory.knows("a", "digest of a"), memory.knows("b", "digest of b")) == (True, True)
    assert (memory.knows("a", "digest of b"), memory.knows("c", "digest of a")) == (False, False)
    memory.forget_arrival("a")
    memory.forget_arrival("never came")
    assert (memory.knows("a", "digest of a"), memory.knows("b", "digest of b"), memory.size()) == (False, True, 1)


def test_an_id_is_known_for_good_and_none_is_nobodys(memory):
    memory.store(arrival("a", ids=(5, 0, -(2**60)), seen=3), ROOM)
    memory.store(arrival("b", ids=(5, 6), seen=2), ROOM)
    memory.forget_arrival("a")
    assert memory.knows_ids(np.array([5, 6, 7, 0, -(2**60)])).tolist() == [True, True, False, False, True]
    assert memory.knows_ids(np.zeros(0, np.int64)).tolist() == []


def test_no_more_is_kept_than_there_is_room_for_and_the_most_frequent_condition_gives_way(memory):
    room = 4 * SAMPLE_BYTES
    memory.store(arrival("a", [sample(0.1, 0, rank=rank) for rank in (0.9, 0.1, 0.5)]), room)
    memory.store(arrival("b", [sample(0.2, 1), sample(0.3, 2), sample(0.4, 3)]), room)
    assert memory.samples()[0].conditions.tolist() == [0, 1, 2, 3]
    memory.store(arrival("c", [sample(0.5)]), 0)
    assert memory.size() == 0


def test_no_key_is_given_twice_whatever_gave_way(memory):
    memory.store(arrival("a", [sample(0.1), sample(0.2)]), ROOM)
    before = memory.newest_key()
    memory.store(arrival("b"), 0)
    assert (memory.size(), memory.newest_key(), memory.samples()[1]) == (0, before, 0)
    memory.store(arrival("c", [sample(0.3)]), ROOM)
    assert memory.newest_key() == memory.samples()[1] == before + 1


def test_what_has_trained_is_kept_as_before(memory):
    memory.store(arrival("a", [sample(0.1), sample(0.2)]), ROOM)
    newest = memory.newest_key()
    memory.mark_trained(newest)
    memory.mark_trained(0)
    assert (memory.size(), memory.newest_key()) == (2, newest)


def test_another_release_embeds_what_it_has_a_place_for_and_the_rest_is_forgotten(memory):
    odd = [sample(0.3, 1, shape=(1, 3, 3)), sample(0.4, 9)]
    threshold = Threshold(1.5, novelty=Running(0.4, 0.5, 6))
    memory.store(arrival("a", [sample(0.1, 1), *odd, sample(0.2, 4)], threshold=threshold), ROOM)
    newest = memory.newest_key()
    memory.rebase("digest", lambda features: -features.reshape(len(features), -1), SHAPE, 5)
    kept = memory.kept().by_condition
    assert (memory.base(), memory.size(), kept.keys()) == ("digest", 2, {1, 4})
    np.testing.assert_array_equal(kept[4], np.full((1, 4), -0.2, np.float32))
    np.testing.assert_array_equal(memory.samples()[0].features, [sample(0.1).features, sample(0.2).features])
    assert memory.threshold() == Threshold(1.5)  # distances between other embeddings mean nothing
    assert memory.newest_key() == newest


def test_an_embedding_that_fails_changes_nothing(memory):
    memory.store(arrival("a", [sample(0.1, 1), sample(0.4, 9)]), ROOM)

    def fails(_):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        memory.rebase("digest", fails, SHAPE, 5)
    assert (memory.base(), memory.size(), memory.kept().by_condition.keys()) == ("", 2, {1, 9})


def test_an_arrival_that_cannot_be_stored_whole_changes_nothing(memory):
    class Unheard:
        """Cannot be counted."""

        def items(self):
            raise ZeroDivisionError

        keys = items

    whole = arrival("a", [sample(0.1)], ids=(5,))
    with pytest.raises((ZeroDivisionError, TypeError)):
        memory.store(Ingested(whole.arrival, whole.kept, Unheard(), whole.threshold), ROOM)
    assert (memory.size(), memory.newest_key(), memory.knows("a", "digest of a")) == (0, 0, False)
    assert memory.knows_ids(np.array([5])).tolist() == [False]
