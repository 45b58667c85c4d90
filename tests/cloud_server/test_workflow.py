import os
import time
from pathlib import Path

import pytest

from cloud_server.drivers.artefact_folder import ArtefactFolder
from cloud_server.drivers.doorbell import Doorbell
from cloud_server.workflow import Step, run, seconds


class Killed(BaseException):
    """Stands for kill -9: nobody catches it."""


def silent(step: str, done: int, of: int) -> None:
    pass


def row(made: list[str], shelf: ArtefactFolder) -> list[Step]:
    def make(name: str, before: str | None) -> Step:
        def work(_: object) -> bytes:
            made.append(name)
            return (shelf.read(before) if before else b"") + name.encode()

        return Step(name, work)

    return [make("a", None), make("b", "a"), make("c", "b")]


def test_each_artefact_is_made_once_in_order_however_often_the_row_is_run(tmp_path: Path):
    shelf, made = ArtefactFolder(tmp_path), list[str]()
    for _ in range(3):
        run(row(made, shelf), shelf, time.monotonic, silent)
    assert made == ["a", "b", "c"]
    assert shelf.read("c") == b"abc"
    assert set(seconds("abc", shelf)) == {"a", "b", "c"}


@pytest.mark.parametrize("victim", ["a", "b", "c"])
@pytest.mark.parametrize("after_writing", [False, True])
def test_a_process_killed_at_any_step_loses_at_most_that_step(tmp_path: Path, victim: str, after_writing: bool):
    shelf, made = ArtefactFolder(tmp_path), list[str]()

    def report(step: str, done: int, of: int) -> None:
        if after_writing and step == victim:
            raise Killed

    class Fragile(ArtefactFolder):
        def write(self, name: str, data: bytes) -> None:
            if name == victim and not after_writing:
                raise Killed
            super().write(name, data)

    with pytest.raises(Killed):
        run(row(made, shelf), Fragile(tmp_path), time.monotonic, report)
    run(row(made, shelf), shelf, time.monotonic, silent)
    assert shelf.read("c") == b"abc"
    assert made.count(victim) == (1 if after_writing else 2)
    assert all(made.count(other) == 1 for other in {"a", "b", "c"} - {victim})


def test_a_doorbell_rung_before_or_twice_is_heard_once():
    bell = Doorbell()
    bell.ring()
    bell.ring()
    assert bell.wait(0)
    assert not bell.wait(0)
    for _ in range(100_000):
        bell.ring()
    assert bell.wait(0)
    bell.close()


def test_a_doorbell_may_be_rung_by_a_signal():
    import signal

    bell = Doorbell()
    before = signal.signal(signal.SIGUSR1, lambda *_: bell.ring())
    try:
        os.kill(os.getpid(), signal.SIGUSR1)
        assert bell.wait(5)
    finally:
        signal.signal(signal.SIGUSR1, before)
        bell.close()
