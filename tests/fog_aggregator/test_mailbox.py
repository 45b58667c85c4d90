import threading
import time

import pytest
from flwr.app import ConfigRecord, Error, Message, RecordDict
from flwr.app.message import make_message
from flwr.app.metadata import Metadata

from fog_aggregator.drivers.mailbox import KEEP_S, MAX_DELIVERIES, Mailbox

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
def box(watch) -> Mailbox:
    return Mailbox(lambda node_id: node_id == DEVICE, watch)


def message(number: int) -> Message:
    content = RecordDict({"config": ConfigRecord({"number": number})})
    return make_message(metadata=Metadata(1, str(number), 1, DEVICE, "", "", 1e9, 60.0, "train"), content=content)


def test_a_message_is_fetched_and_its_reply_is_given_once(box):
    box.post("a", DEVICE, message(1), 60.0)
    assert box.take(["a"], 0.0) == []
    assert box.next_for(DEVICE, []) is not None
    assert box.answer("a", DEVICE, message(2))
    (reply,) = box.take(["a"], 0.0)
    assert (reply.message_id, reply.node_id, reply.content["config"]["number"]) == ("a", DEVICE, 2)
    assert box.take(["a"], 0.0)[0].content is None


def test_messages_are_fetched_in_order_and_only_by_whom_they_are_for(box):
    for number in (1, 2):
        box.post(str(number), DEVICE, message(number), 60.0)
    assert box.next_for(OTHER, []) is None
    assert box.next_for(DEVICE, []).metadata.message_id == "1"
    assert box.next_for(DEVICE, ["1"]).metadata.message_id == "2"
    assert box.next_for(DEVICE, ["1", "2"]) is None


def test_a_device_that_lost_its_message_gets_it_again_but_not_for_ever(box):
    box.post("a", DEVICE, message(1), 60.0)
    assert [box.next_for(DEVICE, []) is not None for _ in range(MAX_DELIVERIES + 1)] == [True] * MAX_DELIVERIES + [
        False
    ]


def test_only_the_first_reply_counts_and_only_from_the_device_that_was_asked(box):
    box.post("a", DEVICE, message(1), 60.0)
    assert not box.answer("a", OTHER, message(666))
    assert not box.answer("b", DEVICE, message(666))
    assert box.answer("a", DEVICE, message(2))
    assert box.answer("a", DEVICE, message(3))
    assert box.take(["a"], 0.0)[0].content["config"]["number"] == 2
    assert box.next_for(DEVICE, []) is None


def test_an_expired_message_is_neither_given_nor_answered_and_says_so(box, watch):
    box.post("a", DEVICE, message(1), 60.0)
    watch.now_s += 61.0
    assert box.next_for(DEVICE, []) is None
    assert not box.answer("a", DEVICE, message(2))
    assert box.take(["a"], 0.0)[0].error == "no answer came in time"


def test_what_nobody_asks_about_is_forgotten(box, watch):
    box.post("a", DEVICE, message(1), 60.0)
    watch.now_s += 60.0 + KEEP_S + 1.0
    box.post("b", DEVICE, message(2), 60.0)
    assert "not known" in box.take(["a"], 0.0)[0].error


def test_an_absent_device_and_an_error_reply_are_outcomes_in_one_line(box):
    box.post("a", OTHER, message(1), 60.0)
    box.post("b", DEVICE, message(1), 60.0)
    assert box.take(["a"], 0.0)[0].error == "the device is offline"
    box.answer("b", DEVICE, Message(Error(2, "too\nhot\x1b[31m"), reply_to=message(1)))
    assert box.take(["b"], 0.0)[0].error == "too hot [31m"


def test_whoever_waits_is_woken_by_the_reply_and_by_the_end():
    box = Mailbox(lambda _: True)
    box.post("a", DEVICE, message(1), 60.0)
    began_s = time.monotonic()
    threading.Timer(0.05, box.answer, ("a", DEVICE, message(2))).start()
    assert len(box.take(["a"], 30.0)) == 1
    box.post("b", DEVICE, message(1), 60.0)
    threading.Timer(0.05, box.close).start()
    assert box.take(["b"], 30.0) == []
    assert time.monotonic() - began_s < 5.0
