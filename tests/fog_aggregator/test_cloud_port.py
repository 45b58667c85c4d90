"""One suite for the Cloud port: the gRPC driver against a server with TLS, and the simulated stand-in."""

import numpy as np
import pytest

from fog_aggregator.drivers.cloud_link import CloudLink
from learning_core.errors import ConfigError, LinkDown, Malformed
from learning_core.updates import Aggregate, ModelVersion
from protos.cloud_messages import AckVerdict
from protos.release import MANIFEST, STUDENT_GRAPH

CREDENTIAL = "ab" * 32


def aggregate(number=1, base=ModelVersion(1)):
    delta = {"head.lora_B": np.full((4, 2), 0.5, np.float32), "label_rows": np.zeros((2, 3), np.float32)}
    return Aggregate(delta, 2.5, base, "fog-a", number)


@pytest.fixture(params=["simulated", "grpc"])
def port(request, cloud):
    if request.param == "simulated":
        yield cloud
        return
    served = request.getfixturevalue("grpc_cloud")
    link = CloudLink(served.address, served.ca.read_bytes(), "fog-a", CREDENTIAL)
    link.enroll("good-token-good-token")
    yield link
    link.close()


def test_an_aggregate_arrives_bit_for_bit_and_is_counted_once(port, cloud):
    first, second = port.push(aggregate()), port.push(aggregate())

    assert (first.verdict, second.verdict) == (AckVerdict.ACCEPTED, AckVerdict.DUPLICATE)
    assert first.shared == ModelVersion(1, 1)
    kept = cloud.kept["fog-a", 1]
    np.testing.assert_array_equal(kept.delta["head.lora_B"], aggregate().delta["head.lora_B"])
    assert (kept.expected_cohort, kept.base_version) == (2.5, ModelVersion(1))


def test_an_aggregate_for_another_release_is_refused_with_a_reason(port):
    ack = port.push(aggregate(base=ModelVersion(9)))

    assert ack.verdict is AckVerdict.REFUSED
    assert ack.reason == "made for another release"


def test_the_adapter_comes_only_when_it_is_newer(port):
    port.push(aggregate())

    assert port.poll(ModelVersion(1, 1)).adapter is None
    latest = port.poll(ModelVersion(1, 0))
    assert (latest.release, latest.shared) == (1, ModelVersion(1, 1))
    assert latest.adapter["head.lora_B"][0, 0] == 0.5


@pytest.mark.parametrize("offset", [0, 1, 70_000, 100_000])
def test_a_file_comes_from_any_byte_on(port, offset):
    data = b"".join(port.fetch(1, STUDENT_GRAPH, offset))

    assert data == (b"\1" * 100_000)[offset:]


def test_a_file_that_is_not_there_is_malformed(port):
    with pytest.raises(Malformed):
        list(port.fetch(1, "nothing.onnx", 0))


@pytest.mark.parametrize(
    "call",
    [
        lambda port: port.push(aggregate()),
        lambda port: port.poll(ModelVersion(0)),
        lambda port: list(port.fetch(1, MANIFEST, 0)),
    ],
)
def test_every_call_says_link_down_while_the_cloud_is_away(port, cloud, call):
    cloud.away = True

    with pytest.raises(LinkDown):
        call(port)

    cloud.away = False
    call(port)


def test_bytes_are_counted_both_ways(grpc_cloud):
    link = CloudLink(grpc_cloud.address, grpc_cloud.ca.read_bytes(), "fog-a", CREDENTIAL)
    link.enroll("good-token-good-token")
    before = link.traffic()

    list(link.fetch(1, STUDENT_GRAPH, 0))
    link.push(aggregate())

    up, down = link.traffic()
    assert 100_000 < down - before[1] < 101_000
    assert 14 * 4 < up - before[0] < 1000
    link.close()


def test_a_wrong_token_is_a_sentence_for_the_operator(grpc_cloud):
    link = CloudLink(grpc_cloud.address, grpc_cloud.ca.read_bytes(), "fog-a", CREDENTIAL)

    with pytest.raises(ConfigError, match="turned this fog away: the token is not known"):
        link.enroll("wrong-token-wrong-token")
    link.close()


def test_a_call_without_enrolment_is_turned_away(grpc_cloud):
    link = CloudLink(grpc_cloud.address, grpc_cloud.ca.read_bytes(), "fog-a", CREDENTIAL)

    with pytest.raises(ConfigError, match="not enrolled"):
        link.poll(ModelVersion(0))
    link.close()


def test_a_cloud_with_another_authority_is_not_spoken_to(grpc_cloud, tmp_path, cloud):
    (tmp_path / "other").mkdir()
    other = type(grpc_cloud)(cloud, tmp_path / "other")
    link = CloudLink(grpc_cloud.address, other.ca.read_bytes(), "fog-a", CREDENTIAL)

    with pytest.raises(LinkDown):
        link.enroll("good-token-good-token")
    assert grpc_cloud.credentials == set()
    link.close()
    other.stop()
