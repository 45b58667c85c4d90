"""What a person does wrong, or a disk: one sentence that says what to do, a code that is not 0, and nothing lost."""

import contextlib
import json
import shutil
import socket
import subprocess
import sys

import numpy as np
import pytest

from protos.codec import encode_tensors
from protos.state_folder import StateFolder, write_atomically
from simulations.demo.processes import environment

pytestmark = [pytest.mark.system, pytest.mark.timeout(180)]
TIERS = ("cloud", "fog", "edge")
RUN = {"cloud": "serve", "fog": "run", "edge": "run"}
STUDENT = "releases/1/student.onnx"


def one_sentence(done, *words, code=1):
    """It ended with this code and exactly one line on stderr, which holds the words."""
    assert done.returncode == code, done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr, done.stderr


def demo(*words):
    command = [sys.executable, "-m", "simulations", "demo", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment())


def flip(path):
    """Another byte in the middle, the size as it was."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("tier", TIERS)
def test_a_wrong_key_is_named_with_the_right_one(fleet, contents, tier):
    before = contents(fleet.state(tier))
    fleet.config(tier).write_text("staet = 'x'\n" + fleet.config(tier).read_text())
    for words in ((RUN[tier],), ("config", "check")):
        one_sentence(fleet.command(tier, *words), "'staet'", "did you mean 'state'?", code=2)
    assert contents(fleet.state(tier)) == before


@pytest.mark.parametrize("tier", TIERS)
def test_a_settings_file_that_is_not_there_is_named(fleet, tier):
    fleet.config(tier).unlink()
    for words in ((RUN[tier],), ("config", "check")):
        one_sentence(fleet.command(tier, *words), f"there is no settings file {fleet.config(tier)}", code=2)


@pytest.mark.parametrize(("tier", "above"), [("fog", "cloud/ca.crt"), ("edge", "fog/fog.crt")])
@pytest.mark.parametrize("spoil", ["missing", "something else"])
def test_a_certificate_of_the_tier_above_that_is_missing_or_something_else_is_named(
    fleet, contents, tier, above, spoil
):
    before, authority = contents(fleet.state(tier)), fleet.folder / above
    authority.unlink()
    if spoil == "something else":
        authority.write_text("this is no certificate\n")
    for words in ((RUN[tier],), ("config", "check")):
        one_sentence(fleet.command(tier, *words), str(authority), code=2)
    assert contents(fleet.state(tier)) == before


@pytest.mark.parametrize(("tier", "lost"), [("cloud", "cloud.key"), ("fog", "tls/leaf.key")])
def test_a_certificate_of_its_own_that_is_lost_is_made_anew_under_the_same_authority(fleet, tier, lost):
    (fleet.state(tier) / lost).unlink()
    if tier == "fog":
        fleet.up("cloud")
    fleet.up(tier)
    assert (fleet.state(tier) / lost).exists()


@pytest.mark.parametrize(("tier", "lost"), [("cloud", "ca.key"), ("fog", "tls/authority.key")])
def test_an_authority_without_its_key_is_not_replaced_behind_everybodys_back(fleet, contents, tier, lost):
    (fleet.state(tier) / lost).unlink()
    leaf = "cloud.crt" if tier == "cloud" else "tls/leaf.crt"
    (fleet.state(tier) / leaf).unlink()
    before = contents(fleet.state(tier))
    one_sentence(fleet.command(tier, RUN[tier]), lost, "restore it from a backup")
    assert contents(fleet.state(tier)) == before


@pytest.mark.parametrize("tier", ["cloud", "fog"])
def test_a_port_in_use_is_named(fleet, contents, settled, tier):
    before = contents(fleet.state(tier))
    with socket.create_server(("127.0.0.1", settled[1][f"{tier}_port"])):
        one_sentence(fleet.command(tier, RUN[tier]), f"port {settled[1][f'{tier}_port']}", "set another")
    assert contents(fleet.state(tier)) == before


def test_the_socket_of_another_agent_is_not_taken_from_it(fleet, contents):
    fleet.up("edge")
    state = fleet.state("edge")
    fleet.change("edge", f'state = "{state}"', f'state = "{fleet.folder}/other"')
    fleet.config("edge").write_text(f'{fleet.config("edge").read_text()}\n[serving]\nsocket = "{state}/agent.sock"\n')
    one_sentence(fleet.command("edge", "run"), "agent.sock", "another")
    assert "serves release 1" in fleet.command("edge", "status").stdout


@pytest.mark.parametrize("tier", TIERS)
def test_a_second_one_on_the_same_state_is_refused_and_the_first_goes_on(fleet, tier):
    first = fleet.start(tier)
    if tier == "fog":
        fleet.until(lambda: fleet.status("fog").get("pid") == first.pid, "the fog")
    else:
        fleet.until(lambda: fleet.ready(tier), tier)
    one_sentence(fleet.command(tier, RUN[tier]), str(fleet.state(tier)), "in use by another process")
    assert first.poll() is None


@pytest.mark.parametrize("tier", TIERS)
def test_a_full_disk_is_said_before_anything_is_written(fleet, contents, on_own_disk, tier):
    state = fleet.state(tier)
    before = contents(state)
    on_own_disk(state, 12)
    one_sentence(fleet.command(tier, RUN[tier]), str(state), "is full; free at least 16 MiB")
    assert contents(state) == before


@pytest.mark.parametrize("tier", TIERS)
def test_a_disk_without_one_free_byte_is_said_too(fleet, contents, on_own_disk, tier):
    state = fleet.state(tier)
    on_own_disk(state, 4)
    before = contents(state)
    fill(state / "ballast")
    one_sentence(fleet.command(tier, RUN[tier]), str(state), "disk")
    (state / "ballast").unlink()
    assert contents(state) == before


@pytest.mark.parametrize("tier", TIERS)
def test_a_read_only_folder_is_said(fleet, contents, on_own_disk, tier):
    state = fleet.state(tier)
    before = contents(state)
    on_own_disk(state, 64)
    subprocess.run(["mount", "-o", "remount,ro", str(state)], check=True)
    one_sentence(fleet.command(tier, RUN[tier]), str(state), "writ")
    assert contents(state) == before


@pytest.mark.parametrize(("tier", "words"), [("cloud", ("enroll-token", "--fog", "b")), ("fog", ("enroll-token",))])
def test_no_token_is_made_that_cannot_be_kept(fleet, contents, on_own_disk, tier, words):
    state = fleet.state(tier)
    before = contents(state)
    on_own_disk(state, 64)
    subprocess.run(["mount", "-o", "remount,ro", str(state)], check=True)
    done = fleet.command(tier, *words)
    one_sentence(done, "writ")
    assert done.stdout == ""
    assert contents(state) == before


def test_a_disk_that_fills_while_an_agent_runs_loses_no_sample(fleet, on_own_disk):
    state = fleet.state("edge")
    on_own_disk(state, 24)
    agent = fleet.up("edge")
    fill(state / "ballast")
    write_atomically(fleet.folder / "spool" / "a.safetensors", samples(400))
    fleet.until(lambda: "free disk space" in fleet.log("edge"), "the agent to say what is wrong")
    assert (fleet.folder / "spool" / "a.safetensors").exists()
    assert "serves release 1" in fleet.command("edge", "status").stdout
    (state / "ballast").unlink()
    fleet.until(lambda: told(fleet)["samples"]["seen"] == 400, "the samples to be taken in")
    assert not (fleet.folder / "spool" / "a.safetensors").exists()
    assert agent.poll() is None


def test_a_release_changed_on_a_device_stops_its_start_once_and_is_fetched_anew(fleet):
    state = fleet.state("edge")
    flip(state / STUDENT)
    changed = (state / STUDENT).read_bytes()
    one_sentence(fleet.command("edge", "run"), "release 1 was changed", "start the agent again")
    assert (state / "releases/1.refused/student.onnx").read_bytes() == changed
    fleet.up("fog")
    fleet.up("edge")
    assert (state / STUDENT).read_bytes() == (fleet.state("fog") / STUDENT).read_bytes() != changed


def test_a_release_changed_in_a_mirror_is_named_and_fetched_anew(fleet):
    sound = (fleet.state("fog") / STUDENT).read_bytes()
    flip(fleet.state("fog") / STUDENT)
    fleet.up("cloud")
    fleet.start("fog")

    def mended():
        with contextlib.suppress(FileNotFoundError):  # between the spoilt folder and the new one
            return (fleet.state("fog") / STUDENT).read_bytes() == sound
        return False

    fleet.until(mended, "the mirror to be mended")
    said = [line for line in fleet.log("fog").splitlines() if "fetched anew" in line]
    assert len(said) == 1
    assert "student.onnx is not the file the manifest names: its bytes were changed" in said[0]


def test_a_release_changed_while_a_fog_runs_is_refused_by_devices_which_go_on(fleet):
    shutil.rmtree(fleet.state("edge") / "releases")
    fleet.up("fog")
    flip(fleet.state("fog") / STUDENT)
    agent = fleet.start("edge")
    fleet.until(lambda: "is refused" in fleet.log("edge"), "the device to refuse it")
    said = [line for line in fleet.log("edge").splitlines() if "is refused" in line]
    assert len(said) == 1
    assert "nothing is served" in said[0]
    assert "its bytes were changed" in said[0]
    assert agent.poll() is None
    assert not (fleet.state("edge") / STUDENT).exists()


def test_a_release_changed_in_the_cloud_is_not_served(fleet, contents):
    flip(fleet.state("cloud") / STUDENT)
    before = contents(fleet.state("cloud"))
    one_sentence(fleet.command("cloud", "serve"), "release 1 was changed", "restore it from a backup")
    assert contents(fleet.state("cloud")) == before


def test_a_fog_with_the_wrong_release_key_says_so_and_mirrors_nothing(fleet, settled):
    fleet.change("fog", str(settled[1]["release_key"]), "ab" * 32)
    shutil.rmtree(fleet.state("fog") / "releases")
    fleet.up("cloud")
    fleet.start("fog")
    fleet.until(lambda: "not signed by the release key in the settings" in fleet.log("fog"), "the fog to refuse it")
    assert not (fleet.state("fog") / STUDENT).exists()


def test_a_demo_does_not_touch_a_folder_with_other_things_in_it(tmp_path, contents):
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "precious").write_text("x")
    (tmp_path / "letter.txt").write_text("y")
    before = contents(tmp_path)
    one_sentence(demo("--out", tmp_path), "letter.txt", "name an empty folder")
    assert contents(tmp_path) == before


def test_a_demo_needs_a_folder_of_its_own_that_can_be_written(tmp_path, on_own_disk):
    (tmp_path / "file").write_text("x")
    one_sentence(demo("--out", tmp_path / "file"), "is not a folder")
    with StateFolder.open(tmp_path / "taken"):
        one_sentence(demo("--out", tmp_path / "taken"), "in use by another process")
    out = tmp_path / "out"
    out.mkdir()
    (out / "report.json").write_text("{}")
    on_own_disk(out, 8)
    one_sentence(demo("--out", out), "is full")
    subprocess.run(["mount", "-o", "remount,ro", str(out)], check=True)
    one_sentence(demo("--out", out), "cannot be written")
    assert (out / "report.json").read_text() == "{}"


def told(fleet):
    done = fleet.command("edge", "status", "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def samples(count):
    features = np.random.default_rng(0).uniform(-1, 1, (count, 1, 8, 8)).astype(np.float32)
    return encode_tensors({"features": features, "conditions": np.full(count, 5)})


def fill(ballast):
    """Write until there is no room for one more byte."""
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(b"\0" * 4096) == 4096:
            pass
