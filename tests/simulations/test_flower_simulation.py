import importlib.util
import json
import logging
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp

from learning_core.errors import ConfigError, DewfallError
from learning_core.federation.privacy import clip
from learning_core.updates import ModelVersion, Update
from protos.flower_records import (
    QUERY_STATUS,
    TRAIN,
    DeviceStatus,
    StatusQuery,
    Trained,
    TrainRequest,
    decode_device_status,
    decode_train_reply,
    encode_status_query,
    encode_train_request,
)
from simulations.flower_simulation import run_devices, run_simulation

HAS_RAY = importlib.util.find_spec("ray") is not None
SHAPES = {"w": (2,)}
AS_THEMSELVES = [{number: number for number in range(10)}, {2: 2.0, 7: 7.0}, {2: 2.0, 7: 7.0}]


class Numbered:
    """A device that has kept as many samples as its number says, and moves every weight by it."""

    def __init__(self, number: int) -> None:
        self.number = number

    def status(self, query: StatusQuery) -> DeviceStatus:
        return DeviceStatus(True, "", query.latest_release, self.number, {})

    def train(self, request: TrainRequest) -> Trained:
        delta = {name: np.full_like(value, self.number) for name, value in request.shared.items()}
        return Trained(request.round, clip(Update(delta, self.number, request.base_version), request.clip_norm), {})

    def adapter_shapes(self):
        return SHAPES


def request(round_number: int) -> RecordDict:
    shared = {"w": np.zeros(2, np.float32)}
    return encode_train_request(TrainRequest("sim", round_number, ModelVersion(1), shared, 100.0, 0.0, 1.0, 60.0))


def test_every_device_answers_as_itself_in_every_round():
    assert answers_of_ten("inline") == AS_THEMSELVES


@pytest.mark.skipif(not HAS_RAY, reason="Ray is not installed (pip install dewfall[ray])")
def test_the_same_app_runs_under_ray(tmp_path):
    """In a process of its own: Ray's own warnings are not ours to fix."""
    copy = tmp_path / "numbered_fleet.py"
    copy.write_text(Path(__file__).read_text(encoding="utf-8"), encoding="utf-8")
    asked = "import json; from numbered_fleet import answers_of_ten; print(json.dumps(answers_of_ten('ray')))"
    path = os.pathsep.join([str(tmp_path), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", asked],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
        timeout=110,
        check=True,
    )
    told = json.loads(done.stdout.splitlines()[-1])
    assert [{int(index): value for index, value in answer.items()} for answer in told] == AS_THEMSELVES


def answers_of_ten(backend: str) -> list[dict[int, float]]:
    answered = []

    def loop(ask) -> None:
        query = encode_status_query(StatusQuery("sim", 1, ""))
        statuses = ask(QUERY_STATUS, dict.fromkeys(range(10), query))
        answered.append({index: decode_device_status(content).samples_kept for index, content in statuses.items()})
        for number in (1, 2):
            replies = ask(TRAIN, dict.fromkeys((2, 7), request(number)))
            updates = {index: decode_train_reply(content, SHAPES) for index, content in replies.items()}
            assert {reply.round for reply in updates.values()} == {number}
            answered.append({index: float(reply.update.update.delta["w"][0]) for index, reply in updates.items()})

    run_devices([Numbered(number) for number in range(10)], loop, backend)
    return answered


def test_a_device_that_fails_ends_the_run_with_its_reason():
    class Clumsy(Numbered):
        def train(self, request: TrainRequest) -> Trained:
            raise ZeroDivisionError("on purpose")

    with pytest.raises(DewfallError, match="on purpose"):
        run_devices([Clumsy(0)], lambda ask: ask(TRAIN, {0: request(1)}), "inline")


def test_an_error_in_the_loop_comes_out_as_it_is():
    def loop(ask) -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        run_devices([Numbered(0)], loop, "inline")


def test_any_client_app_runs_and_nothing_is_left_behind():
    app, seen = ClientApp(), []

    @app.train()
    def train(message: Message, _) -> Message:
        return Message(message.content, reply_to=message)

    def loop(grid) -> None:
        nodes = list(grid.get_node_ids())
        content = RecordDict({"config": ConfigRecord({"number": 1})})
        seen.extend(grid.send_and_receive([Message(content, node, "train") for node in nodes], timeout=20))

    level = logging.getLogger("flwr").level
    before = threading.active_count()
    run_simulation(lambda _: app, loop, 3)
    assert [message.content["config"]["number"] for message in seen] == [1, 1, 1]
    until = time.monotonic() + 10  # a thread that was told to end may need a moment on a busy machine
    while threading.active_count() > before and time.monotonic() < until:
        time.sleep(0.05)
    assert threading.active_count() <= before
    assert logging.getLogger("flwr").level == level


def test_users_see_none_of_flowers_messages_to_developers(capfd):
    run_devices([Numbered(0)], lambda ask: None, "inline")
    assert capfd.readouterr() == ("", "")


def test_a_backend_that_is_not_there_is_told_in_one_sentence():
    with pytest.raises(ConfigError, match="inline or ray"):
        run_devices([Numbered(0)], lambda ask: None, "magic")


@pytest.mark.skipif(HAS_RAY, reason="Ray is installed")
def test_without_ray_the_sentence_says_what_to_install():
    with pytest.raises(ConfigError, match=r"dewfall\[ray\]"):
        run_devices([Numbered(0)], lambda ask: None, "ray")
