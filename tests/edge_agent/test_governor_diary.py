import datetime
import os
import sqlite3

import pytest

from edge_agent.budget import Cost
from edge_agent.config import Limits
from edge_agent.drivers import sqlite_diary
from edge_agent.drivers.meter import BYTES_AT_ONCE, Meter
from edge_agent.drivers.processor_time import ProcessorTime, Use
from edge_agent.drivers.sqlite_diary import SqliteDiary
from edge_agent.drivers.sqlite_store import FIRST, MIGRATIONS, Database
from edge_agent.values import Action, Decision, Reason
from learning_core.errors import StateError

TODAY = datetime.date(2026, 5, 1)
TOMORROW = datetime.date(2026, 5, 2)
GO = Decision(Action.TRAIN, Reason.READY, "nothing stands against training")
HOT = Decision(Action.WAIT, Reason.HEAT, "the chip has 80.0 °C")


@pytest.fixture
def database(tmp_path):
    database = Database(tmp_path / "agent.db")
    yield database
    database.close()


@pytest.fixture
def diary(database):
    return SqliteDiary(database, piece_j=30.0)


def test_the_last_decisions_are_found_in_their_order_and_counted(diary, database):
    assert diary.decisions(5) == []
    for at_s, decision in enumerate((GO, HOT, GO)):
        diary.decided(float(at_s), decision, f"decision.{decision.reason}")
    assert diary.decisions(2) == [
        {"at_s": 1.0, "action": "wait", "reason": "heat", "sentence": "the chip has 80.0 °C"},
        {"at_s": 2.0, "action": "train", "reason": "ready", "sentence": "nothing stands against training"},
    ]
    assert database.counts() == {"decision.ready": 2, "decision.heat": 1}


def test_decisions_do_not_grow_for_ever(diary, monkeypatch):
    monkeypatch.setattr(sqlite_diary, "DECISIONS_KEPT", 3)
    for at_s in range(7):
        diary.decided(float(at_s), GO, "decision.ready")
    assert [each["at_s"] for each in diary.decisions(100)] == [4.0, 5.0, 6.0]


def test_a_day_keeps_its_cost_over_midnight_a_restart_and_a_clock_set_back(diary, database):
    diary.charge(TODAY, Cost(31.0, 5))
    diary.charge(TOMORROW, Cost(1.0, 7))  # what was booked ahead yesterday is not used today
    assert diary.spent(TODAY) == Cost(60.0, 5)
    assert diary.spent(TOMORROW) == Cost(30.0, 7)
    again = SqliteDiary(database, piece_j=30.0)
    again.charge(TODAY, Cost(1.0))
    assert again.spent(TODAY) == Cost(90.0, 5)
    assert again.spent(datetime.date(2026, 5, 3)) == Cost()


def test_traffic_is_owed_at_once_and_written_down_in_pieces(diary):
    meter = Meter(diary, ProcessorTime(), Limits())
    meter.look([], BYTES_AT_ONCE - 1, TODAY)
    assert (meter.spent(TODAY).bytes, diary.spent(TODAY).bytes) == (BYTES_AT_ONCE - 1, 0)
    meter.look([], BYTES_AT_ONCE + 9, TODAY)
    assert meter.spent(TODAY) == diary.spent(TODAY) == Cost(bytes=BYTES_AT_ONCE + 9)


def test_energy_that_could_not_be_written_down_is_still_counted(diary, database, tmp_path):
    now_s = [0.0]
    meter = Meter(diary, ProcessorTime(tmp_path, lambda: now_s[0]), Limits())
    database.close()
    now_s[0] = 10.0
    with pytest.raises(StateError):
        meter.look([7], 0, TODAY)
    assert meter.use.core_s == 10.0  # a child that has ended already counts as if it had used a whole core
    assert meter._owed == Cost(60.0)


def test_a_process_counts_from_its_beginning_and_then_by_what_it_has_added(tmp_path):
    (tmp_path / "7").mkdir()
    now_s = [0.0]
    processor = ProcessorTime(tmp_path, lambda: now_s[0])

    def uses(ticks):
        (tmp_path / "7" / "stat").write_text(f"7 (a) b) S {'0 ' * 10}{ticks} {ticks} 0 0\n")
        now_s[0] += 2.0
        return processor.look(7)

    hertz, cores = os.sysconf("SC_CLK_TCK"), os.cpu_count()
    assert uses(hertz // 2) == Use(1.0, 0.5 / cores, 2.0)
    assert uses(hertz) == Use(1.0, 0.5 / cores, 2.0)
    assert uses(hertz) == Use(0.0, 0.0, 2.0)
    now_s[0] += 3.0
    assert processor.look(None) == Use(3.0, 1 / cores, 3.0)
    assert processor.look(None) == Use()


def test_two_processes_are_charged_together_also_when_one_of_them_only_lingers(tmp_path):
    now_s, hertz = [0.0], os.sysconf("SC_CLK_TCK")
    processor = ProcessorTime(tmp_path, lambda: now_s[0])

    def uses(**ticks):
        for name, used in ticks.items():
            (tmp_path / name[1:]).mkdir(exist_ok=True)
            (tmp_path / name[1:] / "stat").write_text(f"{name[1:]} (a) S {'0 ' * 10}{used} 0 0 0\n")
        now_s[0] += 2.0
        return processor.look(*(int(name[1:]) for name in ticks)).core_s

    assert uses(p7=hertz) == 1.0
    assert uses(p7=hertz, p8=2 * hertz) == 2.0
    assert uses(p7=hertz, p8=3 * hertz) == 1.0
    assert uses(p8=3 * hertz) == 2.0  # the other has ended: as if it had used a whole core


def test_a_database_of_an_older_dewfall_is_brought_up_to_date_and_keeps_what_it_holds(tmp_path):
    with sqlite3.connect(tmp_path / "agent.db") as old:
        old.executescript(FIRST)
        old.execute("INSERT INTO counts VALUES ('seen', 3)")
    old.close()
    for _ in range(2):
        database = Database(tmp_path / "agent.db")
        assert database.counts() == {"seen": 3}
        assert database.rows("PRAGMA user_version") == [(len(MIGRATIONS),)]
        assert SqliteDiary(database, 30.0).decisions(1) == []
        database.close()


def test_a_database_of_a_newer_dewfall_is_left_alone(tmp_path):
    with sqlite3.connect(tmp_path / "agent.db") as newer:
        newer.execute("PRAGMA user_version = 99")
    newer.close()
    with pytest.raises(StateError, match="written by a newer dewfall"):
        Database(tmp_path / "agent.db")
