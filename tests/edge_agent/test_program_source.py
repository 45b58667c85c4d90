"""A person's own source may hang, die, print, be wrong or never end: the agent goes on and says so once."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import pytest

from edge_agent.config import Source
from edge_agent.drivers.program_source import ProgramSource
from edge_agent.normalise.pictures import Span
from edge_agent.observation import Expected, observation_from
from edge_agent.producer import SourceContext, items_of
from learning_core.errors import Malformed
from protos.codec import decode_tensors


@pytest.fixture
def start(tmp_path, release):
    made = []

    def start(code, **settings):
        (tmp_path / "mine.py").write_text(textwrap.dedent(code))
        source = Source(program="mine:items", program_path=tmp_path, retry_s=0.1, **settings)
        program = ProgramSource("device-1", tmp_path / "spool", source, lambda: release)
        made.append(program)
        thread = threading.Thread(target=program.step, name="first life")
        thread.start()
        made.append(thread)
        return program

    yield start
    for program, thread in zip(made[::2], made[1::2], strict=True):
        program.close()
        thread.join(10)
        assert not thread.is_alive()


def wait_for(wanted, timeout_s=60.0):
    until = time.monotonic() + timeout_s
    while time.monotonic() < until:
        if found := wanted():
            return found
        time.sleep(0.05)
    return pytest.fail("it did not come to pass")


def files(tmp_path):
    return sorted((tmp_path / "spool").glob("*.safetensors"))


def test_what_it_gives_lies_in_the_spool_and_a_slow_one_is_not_waited_for(start, tmp_path):
    start("""
        import time, numpy as np
        def items(context):
            yield np.zeros(context.sample_shape, np.float32), 3
            time.sleep(60)
    """)
    (path,) = wait_for(lambda: files(tmp_path))
    tensors = decode_tensors(path.read_bytes())
    assert (tensors["features"].shape, tensors["conditions"].tolist()) == ((1, 1, 4, 4), [3])


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("def items(context): raise ValueError('no lens')", "ValueError: no lens"),
        ("this is no python", "SyntaxError"),
        ("import os\ndef items(context): os.kill(os.getpid(), 11)", "ended with -11"),
        ("import sys\ndef items(context): sys.exit('gone')", "SystemExit: gone"),
    ],
)
def test_however_it_fails_is_said_once_and_nothing_else_happens(start, code, said, caplog):
    program = start(code)
    wait_for(lambda: said in program.describe()["trouble"])
    wait_for(lambda: not any(each.name == "first life" for each in threading.enumerate()))
    program.step()
    assert len([each for each in caplog.records if said in each.message]) == 1
    assert not program.describe()["runs"]


def test_one_that_never_listens_is_ended_with_what_it_started(start, tmp_path):
    program = start(f"""
        import pathlib, signal, subprocess, time
        def items(context):
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            child = subprocess.Popen(["sleep", "60"])
            pathlib.Path({str(tmp_path)!r}, "pids").write_text(str(child.pid))
            while True:
                time.sleep(1)
    """)
    grandchild = int(wait_for(lambda: (tmp_path / "pids").exists() and (tmp_path / "pids").read_text()))
    program.close()
    wait_for(lambda: _is_gone(grandchild))


def test_one_that_dies_is_told_and_started_again_although_what_it_started_lives(start, tmp_path):
    program = start(f"""
        import os, pathlib, signal, subprocess
        def items(context):
            child = subprocess.Popen(["sleep", "60"])
            pathlib.Path({str(tmp_path)!r}, "pids").write_text(str(child.pid))
            os.kill(os.getpid(), signal.SIGKILL)
    """)
    wait_for(lambda: "ended with -9" in program.describe()["trouble"], 10.0)
    assert _is_gone(int((tmp_path / "pids").read_text()))
    wait_for(lambda: not any(each.name == "first life" for each in threading.enumerate()))


def test_it_knows_no_secret_of_the_agents_environment(start, tmp_path, monkeypatch):
    monkeypatch.setenv("DEWFALL_EDGE__FOG__TOKEN", "secret")
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/x")
    program = start("""
        import os
        def items(context):
            raise RuntimeError(str([name for name in os.environ if "DEWFALL" in name or "NOTIFY" in name]))
    """)
    wait_for(lambda: "RuntimeError: []" in program.describe()["trouble"])


def test_it_waits_while_too_many_files_wait(start, tmp_path):
    start("""
        import numpy as np
        def items(context):
            while True:
                yield np.zeros((4, 4), np.uint8), 3
    """)
    wait_for(lambda: len(files(tmp_path)) == 8)
    time.sleep(0.5)
    assert len(files(tmp_path)) == 8


def test_a_flood_of_bad_items_is_said_once_and_grows_nothing(start, tmp_path, caplog):
    program = start("""
        def items(context):
            for _ in range(2000):
                yield [1.0, 2.0]
    """)
    wait_for(lambda: program.describe()["refused"] == 2000)
    assert len([each for each in caplog.records if "refused" in each.message]) == 1
    assert files(tmp_path) == []


ORPHAN = """
    import os, sys, time
    from pathlib import Path
    from types import SimpleNamespace
    from edge_agent.config import Source
    from edge_agent.drivers.program_source import ProgramSource
    folder = Path(sys.argv[1])
    manifest = SimpleNamespace(family="x", num_conditions=10, known_conditions=())
    release = SimpleNamespace(manifest=manifest, sample_shape=(1, 4, 4))
    ProgramSource("d", folder / "spool", Source(program="mine:items", program_path=folder), lambda: release).step()
"""


def test_it_does_not_outlive_an_agent_that_is_killed(tmp_path):
    (tmp_path / "mine.py").write_text(
        "import os, pathlib, time\n"
        "def items(context):\n"
        f"    pathlib.Path({str(tmp_path)!r}, 'pid').write_text(str(os.getpid()))\n"
        "    while True: time.sleep(1)\n"
    )
    agent = subprocess.Popen([sys.executable, "-c", textwrap.dedent(ORPHAN), str(tmp_path)])
    child = int(wait_for(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text()))
    agent.send_signal(signal.SIGKILL)
    agent.wait()
    wait_for(lambda: _is_gone(child))


def test_items_are_arrays_texts_pairs_or_named_as_in_json():
    expected = Expected((1, 2, 2), 10)
    pixels = np.zeros((2, 2), np.uint8)
    for item, condition in ((pixels, -1), ((pixels, 3), 3), ((pixels, np.int64(4)), 4), ((pixels, None), -1)):
        read = observation_from(item, expected)
        assert (read.raw.dtype, read.condition) == (np.uint8, condition)
    whole = {"features": np.ones((2, 2), np.int16), "condition": 1, "taken_at_s": 5, "span": "0..255", "id": "x"}
    read = observation_from(whole, expected)
    assert (read.raw.dtype, read.taken_at_s, read.span) == (np.float32, 5, Span.BYTE)
    assert read.id == observation_from({**whole, "id": "x"}, expected).id != 0
    assert observation_from("hello", Expected((8,), 2)).raw == "hello"
    assert observation_from(("hello", 1), Expected((8,), 2)).condition == 1


@pytest.mark.parametrize(
    "item",
    [
        None,
        object(),
        np.array([object()]),
        np.array(["a"]),
        np.zeros(0),
        np.full((1, 2, 2), np.nan),
        (np.zeros((2, 2)), 99),
        (np.zeros((2, 2)), "three"),
        {"features": np.zeros((2, 2)), "colour": 1},
        {"features": np.zeros((2, 2)), "id": ""},
        {"condition": 1},
        b"bytes",
        [[1.0, 2.0], [3.0]],
    ],
    ids=lambda item: type(item).__name__,
)
def test_what_is_no_observation_is_malformed(item):
    with pytest.raises(Malformed):
        observation_from(item, Expected((1, 2, 2), 10))


def test_a_program_may_be_a_function_or_an_iterable():
    context = SourceContext("d", "x", (1,), 2, ())
    assert list(items_of("string:digits", context))[:2] == ["0", "1"]


def _is_gone(pid):
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as file:
            return file.read().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True
    finally:
        os.sched_yield()
