import threading
import time

import pytest
from flwr.app import ConfigRecord, RecordDict

from fog_aggregator.drivers.letters import KEEP_S, MAX_POSTINGS, Letters

DEVICE, OTHER = 11, 12


class Watch:
    """A clock that is set by hand."""

    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def watch() -> Watch:
    return Watch()


@pytest.fixture
def forgotten() -> list[str]:
    return []


@pytest.fixture
def box(watch, forgotten) -> Letters:
    return Letters(lambda node_id: node_id == DEVICE, lambda letter: forgotten.append(letter.id), watch)


def write(box: Letters, *letter_ids: str, node_id: int = DEVICE) -> None:
    box.add({letter_id: (node_id, content(1)) for letter_id in letter_ids}, "train", 60.0)


def content(number: int) -> RecordDict:
    return RecordDict({"config": ConfigRecord({"number": number})})


def post(box: Letters, flower_id: str, node_id: int = DEVICE):
    """As Flower does it: claimed, named, taken."""
    ((letter, left_s),) = box.claim([node_id])
    box.name(letter, flower_id)
    box.posted(letter, taken=True)
    assert 0 < left_s <= 60.0
    return letter


def answer(box: Letters, letter, number: int) -> None:
    box.answer(letter, content(number), "")


def test_a_letter_is_posted_once_and_its_reply_is_given_once(box, forgotten):
    write(box, "a")
    assert box.waits_for(DEVICE)
    assert not box.waits_for(OTHER)
    letter = post(box, "f1")
    assert box.claim([DEVICE]) == []
    assert box.waits_for(DEVICE)
    box.delivered("f1")
    assert not box.waits_for(DEVICE)
    assert box.take(["a"], 0.0) == []
    answer(box, letter, 2)
    assert box.find("f1") is None
    (reply,) = box.take(["a"], 0.0)
    assert (reply.message_id, reply.node_id, reply.content["config"]["number"]) == ("a", DEVICE, 2)
    assert forgotten == ["a"]
    assert box.take(["a"], 0.0)[0].content is None


def test_what_a_killed_device_had_is_posted_again_and_the_answer_to_either_posting_counts(box):
    write(box, "a")
    post(box, "f1")
    box.delivered("f1")
    box.doubt(DEVICE)
    box.settle(DEVICE, [])
    letter = post(box, "f2")
    assert box.find("f1") is box.find("f2") is letter


def test_what_a_device_still_holds_after_it_lost_the_line_is_not_posted_again(box):
    write(box, "a")
    post(box, "f1")
    box.delivered("f1")
    box.doubt(DEVICE)
    box.settle(DEVICE, ["f1"])
    assert box.claim([DEVICE]) == []


def test_a_letter_is_not_posted_for_ever(box):
    write(box, "a")
    for number in range(MAX_POSTINGS):
        post(box, str(number))
        box.delivered(str(number))
        box.doubt(DEVICE)
        box.settle(DEVICE, [])
    assert box.claim([DEVICE]) == []
    assert not box.waits_for(DEVICE)


def test_what_flower_did_not_take_or_has_forgotten_is_posted_again(box):
    write(box, "a")
    ((letter, _),) = box.claim([DEVICE])
    box.posted(letter, taken=False)
    post(box, "f1")
    box.recall()
    post(box, "f2")


def test_only_the_first_reply_counts(box):
    write(box, "a")
    letter = post(box, "f1")
    answer(box, letter, 2)
    answer(box, letter, 3)
    assert box.take(["a"], 0.0)[0].content["config"]["number"] == 2


def test_an_expired_letter_is_not_posted_and_says_so(box, watch):
    write(box, "a")
    watch.now_s += 61.0
    assert box.claim([DEVICE]) == []
    assert not box.waits_for(DEVICE)
    assert box.take(["a"], 0.0)[0].error == "no answer came in time"


def test_what_nobody_asks_about_is_forgotten(box, watch, forgotten):
    write(box, "a")
    watch.now_s += 60.0 + KEEP_S + 1.0
    write(box, "b")
    assert forgotten == ["a"]
    assert "not known" in box.take(["a"], 0.0)[0].error


def test_an_absent_device_and_an_error_reply_are_outcomes_in_one_line(box):
    write(box, "a", node_id=OTHER)
    assert box.take(["a"], 0.0)[0].error == "the device is offline"
    write(box, "b")
    box.answer(post(box, "f1"), None, "too\nhot\x1b[31m")
    assert box.take(["b"], 0.0)[0].error == "too hot [31m"


def test_whoever_waits_is_woken_by_the_reply_and_by_the_end():
    box = Letters(lambda _: True)
    write(box, "a")
    letter = post(box, "f1")
    began_s = time.monotonic()
    threading.Timer(0.05, answer, (box, letter, 2)).start()
    assert len(box.take(["a"], 30.0)) == 1
    write(box, "b")
    threading.Timer(0.05, box.close).start()
    assert box.take(["b"], 30.0) == []
    assert time.monotonic() - began_s < 5.0
