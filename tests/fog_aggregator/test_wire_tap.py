import json

import numpy as np

from fog_aggregator.drivers.wire_tap import Crossing, FileTap, TappedFleet, describe_message, describe_records
from learning_core.federation.privacy import clip
from learning_core.updates import Aggregate, ModelVersion, Update
from protos.cloud_messages import Enrolment, encode_aggregate, encode_enrolment
from protos.flower_records import TRAIN, Trained, encode_train_reply
from simulations.links import SimulatedFleet, SimulatedLink, VirtualClock

KEY = '{"blocks.0.qkv.lora_B":[12,2],"label_rows":[5,4]}'
DELTA = {"blocks.0.qkv.lora_B": np.ones((12, 2), np.float32), "label_rows": np.ones((5, 4), np.float32)}


def reply():
    return encode_train_reply(Trained(3, clip(Update(DELTA, 9, ModelVersion(1, 2)), 1.0), {"loss": 0.25}))


def test_a_reply_is_described_by_names_types_and_shapes_without_a_value():
    described, size = describe_records(reply())

    assert described["arrays"] == {KEY: {"dtype": "<f4", "shape": [44], "bytes": 44 * 4 + 128}}
    assert described["config"]["round"] == "int"
    assert described["metrics"] == {"num-examples": "int", "loss": "float"}
    assert size > (24 + 20) * 4
    assert "0.25" not in json.dumps(described)


def test_shapes_come_from_the_bytes_and_not_from_what_the_record_claims():
    content = reply()
    content["arrays"][KEY].shape = (1,)

    assert describe_records(content)[0]["arrays"][KEY]["shape"] == [44]


def test_bytes_that_are_no_array_are_told_apart():
    content = reply()
    content["arrays"][KEY].data = b"raw samples"

    assert describe_records(content)[0]["arrays"][KEY] == {"bytes": 11}


def test_an_aggregate_is_described_by_the_header_inside_its_bytes():
    message = encode_aggregate(Aggregate(DELTA, 2.5, ModelVersion(1, 2), "fog-a", 3))

    described, size = describe_message(message)

    assert described["delta"]["label_rows"] == {"dtype": "F32", "shape": [5, 4], "bytes": 80}
    assert described["base_version"] == {"release": "int", "step": "int"}
    assert (described["fog"], described["expected_cohort"]) == ("str", "float")
    assert size == len(message.SerializeToString())


def test_no_token_ends_up_in_the_tap(tmp_path):
    tap = FileTap(tmp_path / "tap.jsonl")
    message = encode_enrolment(Enrolment("secret-secret-secret", "fog-a", b"\1" * 32))
    tap(Crossing("cloud", "up", "Enroll", "cloud:1", *describe_message(message)))
    tap.close()
    tap(Crossing("cloud", "up", "Poll", "cloud:1", {}, 0))  # after the end: nothing

    (line,) = (tmp_path / "tap.jsonl").read_text().splitlines()
    assert "secret" not in line
    assert json.loads(line)["content"]["credential_sha256"] == {"bytes": 32}


def test_every_message_of_a_fleet_is_noted_on_its_way(tmp_path):
    seen = []
    fleet = SimulatedFleet(VirtualClock())
    node = fleet.join(b"key", SimulatedLink(lambda kind, content: reply(), {}))
    tapped = TappedFleet(fleet, seen.append)

    sent = tapped.push(TRAIN, {node: reply()}, 10.0)
    tapped.pull(sent, 1.0)

    assert [(each.direction, each.kind, each.peer) for each in seen] == [
        ("down", TRAIN, str(node)),
        ("up", TRAIN, str(node)),
    ]
    assert seen[0].size == seen[1].size > 0
