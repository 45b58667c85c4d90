import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from cloud_server.config import Release
from cloud_server.drivers.sqlite_registry import SqliteRegistry
from cloud_server.evaluation import Evaluation, Quality
from cloud_server.exchange import Exchange, digest_of_secret
from cloud_server.ports import ReleaseRow
from learning_core.errors import Malformed, StateError
from learning_core.updates import Aggregate, ModelVersion
from protos.cloud_messages import AckVerdict, Enrolment

SHAPES = {"w": (2,)}
RULES = Release(steps_per_release=3, patience_s=10, max_staleness=2)


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def evaluation(publish: bool = True) -> Evaluation:
    quality = Quality(
        fidelity={0: 1.0},
        images_per_condition=40,
        kid_old=0.0,
        fid_old=1.0,
        kid_new=None,
        fid_new=None,
        out_of_range=0.0,
    )
    return Evaluation(quality=quality, publish=publish, reasons=("because",), known=(0,), as_base=quality)


def row(version: int, made_from: ModelVersion, publish: bool = True) -> ReleaseRow:
    return ReleaseRow(version, made_from, evaluation(publish), "ab" * 32 if publish else "", 0.0)


def aggregate(fog: str, number: int, value: float, base: ModelVersion = ModelVersion(1), cohort: float = 3.0):
    return Aggregate({"w": np.full(2, value, np.float32)}, cohort, base, fog, number)


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[SqliteRegistry]:
    found = SqliteRegistry.open(tmp_path / "registry.sqlite")
    yield found
    found.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def exchange(registry: SqliteRegistry, clock: Clock) -> Exchange:
    made = Exchange(registry, RULES, {}, clock)
    made.conclude(row(1, ModelVersion(0)), SHAPES)
    for fog in ("a", "b"):
        registry.add_token(digest_of_secret(fog * 20), fog, 0.0, 2000.0)
        assert made.enroll(Enrolment(fog * 20, fog, bytes.fromhex(digest_of_secret(f"credential {fog}")))) is None
    return made


def test_when_every_fog_delivered_the_shared_adapter_moves_by_their_weighted_mean(
    exchange: Exchange, registry: SqliteRegistry
):
    first = exchange.push(aggregate("a", 1, 1.0, cohort=1.0))
    assert (first.verdict, first.shared) == (AckVerdict.ACCEPTED, ModelVersion(1, 0))
    second = exchange.push(aggregate("b", 1, 5.0, cohort=3.0))
    assert second.shared == ModelVersion(1, 1)
    assert registry.shared_adapter(ModelVersion(1, 1))["w"].tolist() == [4.0, 4.0]


def test_an_aggregate_sent_again_is_a_duplicate_and_changes_nothing(exchange: Exchange, registry: SqliteRegistry):
    exchange.push(aggregate("a", 1, 1.0))
    assert exchange.push(aggregate("a", 1, 1.0)).verdict is AckVerdict.DUPLICATE
    exchange.push(aggregate("b", 1, 1.0))
    again = exchange.push(aggregate("a", 1, 1.0))
    assert (again.verdict, again.shared) == (AckVerdict.DUPLICATE, ModelVersion(1, 1))
    assert registry.shared_adapter(ModelVersion(1, 1))["w"].tolist() == [1.0, 1.0]
    assert [each.state for each in registry.aggregates()] == ["counted", "counted"]


def test_a_round_with_other_content_is_refused_instead_of_being_lost_silently(exchange: Exchange):
    exchange.push(aggregate("a", 1, 1.0))
    ack = exchange.push(aggregate("a", 1, 2.0))
    assert ack.verdict is AckVerdict.REFUSED
    assert "other content" in ack.reason


def test_patience_ends_the_wait_for_a_fog_that_is_away(exchange: Exchange, registry: SqliteRegistry, clock: Clock):
    exchange.push(aggregate("a", 1, 1.0))
    clock.now_s += 4
    exchange.push(aggregate("a", 2, 1.0))
    assert exchange.tick() == 1010.0
    assert exchange.shared_version() == ModelVersion(1, 0)
    clock.now_s = 1010.0
    assert exchange.tick() is None
    assert exchange.shared_version() == ModelVersion(1, 1)
    assert registry.shared_adapter(ModelVersion(1, 1))["w"].tolist() == [2.0, 2.0]  # both rounds of the one fog


def deliver(exchange: Exchange, number: int, base: ModelVersion) -> None:
    for fog in ("a", "b"):
        exchange.push(aggregate(fog, number, 1.0, base))


def test_after_enough_steps_the_release_is_made_and_later_aggregates_are_superseded(
    exchange: Exchange, registry: SqliteRegistry
):
    for number in range(1, 4):
        deliver(exchange, number, ModelVersion(1, number - 1))
    assert registry.distilling() == ModelVersion(1, 3)
    late = exchange.push(aggregate("a", 4, 9.0, ModelVersion(1, 3)))
    assert (late.verdict, late.shared) == (AckVerdict.REFUSED, ModelVersion(1, 3))
    assert "being distilled" in late.reason
    assert exchange.push(aggregate("a", 4, 9.0, ModelVersion(1, 3))) == late
    exchange.conclude(row(2, ModelVersion(1, 3)), {"v": (1,)})
    assert exchange.shared_version() == ModelVersion(2, 0)
    assert exchange.latest(ModelVersion(1, 3)).release == 2
    assert exchange.shapes_of(2) == {"v": (1,)}
    old = exchange.push(aggregate("b", 4, 9.0, ModelVersion(1, 3)))
    assert "release 2 replaced" in old.reason
    assert [(each.round, each.state) for each in registry.aggregates() if each.fog == "b"][-1] == (4, "refused")


def test_a_release_that_was_kept_back_lets_the_fleet_go_on(exchange: Exchange, registry: SqliteRegistry):
    for number in range(1, 4):
        deliver(exchange, number, ModelVersion(1, number - 1))
    exchange.conclude(row(2, ModelVersion(1, 3), publish=False), None)
    assert exchange.latest(ModelVersion(1, 3)).release == 1
    deliver(exchange, 4, ModelVersion(1, 3))
    assert exchange.shared_version() == ModelVersion(1, 4)
    assert registry.distilling() is None
    for number in (5, 6):
        deliver(exchange, number, ModelVersion(1, number - 1))
    assert registry.distilling() == ModelVersion(1, 6)


def test_a_distillation_that_cannot_be_done_is_given_up_and_written_down(exchange: Exchange, registry: SqliteRegistry):
    for number in range(1, 4):
        deliver(exchange, number, ModelVersion(1, number - 1))
    exchange.give_up("no memory")
    assert registry.distilling() is None
    assert ("distillation failed", "no memory") in [(event, detail) for _, event, detail in registry.audit()]
    deliver(exchange, 4, ModelVersion(1, 3))
    assert exchange.shared_version() == ModelVersion(1, 4)


def test_concluding_twice_publishes_once(exchange: Exchange, registry: SqliteRegistry):
    for number in range(1, 4):
        deliver(exchange, number, ModelVersion(1, number - 1))
    for _ in range(2):
        exchange.conclude(row(2, ModelVersion(1, 3)), SHAPES)
    assert [each.version for each in registry.releases()] == [1, 2]


def test_a_new_process_on_the_same_registry_goes_on_as_if_nothing_happened(
    tmp_path: Path, exchange: Exchange, clock: Clock
):
    exchange.push(aggregate("a", 1, 1.0))
    other = SqliteRegistry.open(tmp_path / "registry.sqlite")
    revived = Exchange(other, RULES, {1: SHAPES}, clock)
    assert revived.push(aggregate("a", 1, 1.0)).verdict is AckVerdict.DUPLICATE
    assert revived.push(aggregate("b", 1, 3.0)).shared == ModelVersion(1, 1)
    assert other.shared_adapter(ModelVersion(1, 1))["w"].tolist() == [2.0, 2.0]
    other.close()


def test_an_error_half_way_leaves_neither_the_aggregate_nor_a_version(exchange: Exchange, registry: SqliteRegistry):
    exchange.push(aggregate("a", 1, 1.0))
    odd = Aggregate({"other": np.ones(1, np.float32)}, 3.0, ModelVersion(1), "b", 1)
    with pytest.raises(ValueError, match="names"):
        exchange.push(odd)
    assert [(each.fog, each.state) for each in registry.aggregates()] == [("a", "buffered")]
    assert exchange.push(aggregate("b", 1, 3.0)).shared == ModelVersion(1, 1)


def test_only_what_is_newer_is_sent(exchange: Exchange):
    deliver(exchange, 1, ModelVersion(1))
    behind, current = exchange.latest(ModelVersion(1, 0)), exchange.latest(ModelVersion(1, 1))
    assert behind.adapter is not None
    assert behind.adapter["w"].tolist() == [1.0, 1.0]
    assert current.adapter is None
    assert (behind.release, behind.shared, behind.manifest_sha256) == (1, ModelVersion(1, 1), "ab" * 32)


def test_an_aggregate_for_a_release_that_never_was_is_malformed(exchange: Exchange):
    with pytest.raises(Malformed, match="no release 9"):
        exchange.shapes_of(9)


def test_a_token_enrols_one_fog_with_one_credential(exchange: Exchange, registry: SqliteRegistry, clock: Clock):
    def enroll(fog: str, credential: bytes, token: str = "t" * 20) -> str | None:
        return exchange.enroll(Enrolment(token, fog, credential))

    registry.add_token(digest_of_secret("t" * 20), "c", 0.0, 1500.0)
    assert "not one for this fog" in (enroll("d", bytes(32)) or "")
    assert "not one for this fog" in (enroll("c", bytes(32), token="wrong" * 4) or "")
    assert enroll("c", bytes(32)) is None
    assert enroll("c", bytes(32)) is None  # the answer was lost, the fog asks again
    assert "used before" in (enroll("c", b"\1" * 32) or "")
    registry.add_token(digest_of_secret("u" * 20), "e", 0.0, 1500.0)
    clock.now_s = 1501.0
    assert "expired" in (enroll("e", b"\2" * 32, token="u" * 20) or "")
    assert registry.fogs() == ["a", "b", "c"]


def test_neither_tokens_nor_credentials_are_kept(tmp_path: Path, exchange: Exchange, registry: SqliteRegistry):
    assert exchange.fog_of("credential a") == "a"
    assert exchange.fog_of("credential c") is None
    kept = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert b"credential a" not in kept
    assert b"aaaaaaaaaaaaaaaaaaaa" not in kept


def test_many_fogs_at_once_are_each_counted_once(exchange: Exchange, registry: SqliteRegistry):
    def send(fog: str) -> None:
        for number in range(10):
            for _ in range(2):
                exchange.push(aggregate(fog, number, 1.0, cohort=1.0))

    senders = [threading.Thread(target=send, args=(fog,)) for fog in ("a", "b")]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()
    rows = registry.aggregates()
    assert len({(each.fog, each.round) for each in rows}) == len(rows) == 20
    shared = exchange.shared_version()
    counted = sum(each.state == "counted" for each in rows)
    assert registry.shared_adapter(shared)["w"][0] == pytest.approx(counted / 2)


def test_a_registry_that_cannot_be_written_is_one_sentence(tmp_path: Path):
    (tmp_path / "registry.sqlite").write_bytes(b"this is not a database" * 100)
    with pytest.raises(StateError, match="registry cannot be used"):
        SqliteRegistry.open(tmp_path / "registry.sqlite")
    with pytest.raises(StateError, match="registry cannot be used"):
        SqliteRegistry.open(tmp_path / "nowhere" / "registry.sqlite")
