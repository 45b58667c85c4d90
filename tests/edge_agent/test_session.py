from collections.abc import Mapping

import numpy as np
import pytest
from flwr.app import ConfigRecord, Context, RecordDict
from flwr.app.message import make_message
from flwr.app.metadata import Metadata

from edge_agent.session import make_client_app
from learning_core.federation.privacy import clip
from learning_core.updates import ModelVersion, Update
from protos.flower_records import (
    QUERY_STATUS,
    TRAIN,
    Declined,
    DeviceStatus,
    StatusQuery,
    Trained,
    TrainRequest,
    decode_device_status,
    decode_train_reply,
    encode_status_query,
    encode_train_request,
)

SHAPES = {"w": (2,)}
QUERY = StatusQuery("fog-a", 2, "ab" * 32)
REQUEST = TrainRequest("fog-a", 5, ModelVersion(1), {"w": np.zeros(2, np.float32)}, 1.0, 0.0, 1.0, 30.0)


class Learner:
    """A device that moves every weight by 3 and counts how often it was asked to."""

    def __init__(self, declines: str = "") -> None:
        self.declines = declines
        self.trained = 0

    def status(self, query: StatusQuery) -> DeviceStatus:
        return DeviceStatus(not self.declines, self.declines, query.latest_release, 7, {"charge": 0.5})

    def train(self, request: TrainRequest) -> Trained | Declined:
        if self.declines:
            return Declined(request.round, self.declines)
        self.trained += 1
        delta = {name: np.full_like(value, 3.0) for name, value in request.shared.items()}
        return Trained(request.round, clip(Update(delta, 7, request.base_version), request.clip_norm), {})

    def adapter_shapes(self) -> Mapping[str, tuple[int, ...]]:
        return SHAPES


def ask(device: Learner, kind: str, content: RecordDict):
    question = make_message(metadata=Metadata(1, "question", 1, 2, "", "", 1e9, 1e9, kind), content=content)
    context = Context(run_id=1, node_id=2, node_config={}, state=RecordDict(), run_config={})
    reply = make_client_app(device)(question, context)
    assert reply.metadata.reply_to_message_id == "question"
    return reply


def test_a_device_says_how_it_is():
    reply = ask(Learner("too hot"), QUERY_STATUS, encode_status_query(QUERY))
    assert decode_device_status(reply.content) == DeviceStatus(False, "too hot", 2, 7, {"charge": 0.5})


def test_an_update_leaves_clipped():
    reply = decode_train_reply(ask(Learner(), TRAIN, encode_train_request(REQUEST)).content, SHAPES)
    assert isinstance(reply, Trained)
    assert (reply.round, reply.update.clip_norm, reply.update.update.num_examples) == (5, 1.0, 7)
    np.testing.assert_allclose(reply.update.update.delta["w"], np.full(2, 0.5**0.5), rtol=1e-6)


def test_declining_is_an_ordinary_reply():
    reply = ask(Learner("low charge"), TRAIN, encode_train_request(REQUEST))
    assert decode_train_reply(reply.content, SHAPES) == Declined(5, "low charge")


@pytest.mark.parametrize("kind", [QUERY_STATUS, TRAIN])
def test_malformed_content_gets_one_sentence_and_changes_nothing(kind):
    device = Learner()
    reply = ask(device, kind, RecordDict({"config": ConfigRecord({"surprise": 1})}))
    assert not reply.has_content()
    assert reply.error.reason
    assert device.trained == 0


def test_weights_for_another_model_are_not_trained():
    device = Learner()
    other = TrainRequest("fog-a", 5, ModelVersion(1), {"w": np.zeros(3, np.float32)}, 1.0, 0.0, 1.0, 30.0)
    assert "shape" in ask(device, TRAIN, encode_train_request(other)).error.reason
    assert device.trained == 0
