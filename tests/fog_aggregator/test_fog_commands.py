"""What a person gets who types something wrong: one sentence, a code, and nothing changed."""

import json
import os

import pytest
from typer.testing import CliRunner

from fog_aggregator.__main__ import cli
from fog_aggregator.config import FogSettings
from learning_core.errors import ConfigError, DewfallError, StateError
from protos.certificates import CertificateFiles, ensure_certificate
from protos.settings import load

NOW_S = 1_800_000_000.0

GOOD = """
name = "fog-a"
state = "{state}"
[cloud]
address = "cloud.example:9443"
ca = "{ca}"
release_key = "{key}"
token = "good-token-good-token"
"""


@pytest.fixture
def settings_file(tmp_path):
    made = CertificateFiles(*(tmp_path / name for name in ("ca.crt", "ca.key", "leaf.crt", "leaf.key")))
    ensure_certificate(made, "cloud", ("cloud.example",), NOW_S)
    path = tmp_path / "fog.toml"

    def write(old="", new="", more=""):
        text = GOOD.format(state=tmp_path / "state", ca=tmp_path / "ca.crt", key="ab" * 32) + more
        path.write_text(text.replace(old, new) if old else text)
        return path

    return write


def outcome(*words):
    """Exit with an exception becomes the exception."""
    return CliRunner().invoke(cli, [str(word) for word in words])


def failure(*words) -> DewfallError:
    error = outcome(*words).exception
    assert isinstance(error, DewfallError), error
    return error


@pytest.mark.parametrize(
    ("old", "new", "more", "words"),
    [
        ("state =", "stat =", "", "there is no setting 'stat'; did you mean 'state'?"),
        ("", "", "[rounds]\nquorom = 1.0\n", "there is no setting 'rounds.quorom'; did you mean 'quorum'?"),
        ("", "", "[rounds]\nquorum = 1.5\n", "the setting 'rounds.quorum' does not fit"),
        ("", "", "[privacy]\nclip_norm = 0.0\n", "the setting 'privacy.clip_norm' does not fit"),
        ("", "", "[privacy]\nsample_rate = 0.0\n", "the setting 'privacy.sample_rate' does not fit"),
        ("", "", "[privacy]\nnoise_multiplier = nan\n", "the setting 'privacy.noise_multiplier' does not fit"),
        ("fog-a", "../fog", "", "the setting 'name' does not fit"),
        ("cloud.example:9443", "cloud.example", "", "an address reads like"),
        ("abab", "xyz", "", "64 hex digits"),
        ("", "", 'token_file = "t"\n', "token or token_file, not both"),
        ("", "", '[listen]\ncertificate = "c.pem"\n', "certificate and private_key together"),
        ("", "", '[listen]\nhost = "https://fog"\n', "a host is a name or an IP address"),
    ],
)
def test_a_wrong_setting_is_named_with_what_would_be_right(settings_file, old, new, more, words):
    error = failure("config", "check", "--config", settings_file(old, new, more))

    assert words in str(error)
    assert error.exit_code == 2
    assert "\n" not in str(error)


def test_good_settings_are_said_to_be_good(settings_file):
    done = outcome("config", "check", "--config", settings_file())

    assert done.exit_code == 0
    assert "fog-a listens on 127.0.0.1:8443" in done.output


def test_a_missing_authority_or_token_file_is_named(settings_file, tmp_path):
    (tmp_path / "ca.crt").rename(tmp_path / "moved")
    path = settings_file()
    assert "copy the cloud's ca.crt" in str(failure("config", "check", "--config", path))
    (tmp_path / "ca.crt").write_text("no certificate")
    assert "holds no certificate" in str(failure("config", "check", "--config", path))
    (tmp_path / "moved").rename(tmp_path / "ca.crt")

    path = settings_file('token = "good-token-good-token"', f'token_file = "{tmp_path / "nothing"}"')
    assert "write the cloud's enrolment token into it" in str(failure("config", "check", "--config", path))


def test_a_missing_settings_file_is_named(tmp_path):
    error = failure("run", "--config", tmp_path / "nothing.toml")

    assert isinstance(error, ConfigError)
    assert "nothing.toml" in str(error)


def test_the_environment_goes_over_the_file(settings_file):
    settings = load(FogSettings, settings_file(), {"DEWFALL_FOG__ROUNDS__MIN_DEVICES": "7"}, prefix="DEWFALL_FOG")

    assert settings.rounds.min_devices == 7


def test_a_token_can_be_made_before_the_fog_ever_ran(tmp_path):
    first, second = (outcome("enroll-token", "--state", tmp_path / "state").stdout.strip() for _ in range(2))

    assert len({first, second}) == 2
    assert len(first) == 32


def test_the_ledger_of_a_fresh_state_is_empty_and_of_no_state_an_error(settings_file, tmp_path):
    path = settings_file()
    assert isinstance(failure("ledger", "--config", path), StateError)
    outcome("enroll-token", "--config", path)

    record = json.loads(outcome("ledger", "--config", path, "--json").output)

    assert (record["epsilon"], record["devices"]) == (0.0, {})
    assert "Privacy ledger" in outcome("ledger", "--config", path).output


def test_the_status_of_a_fog_that_never_ran_says_what_to_do(tmp_path):
    assert "start the fog with `run`" in str(failure("status", "--state", tmp_path))


@pytest.mark.parametrize("words", [(), ("--state", "a", "--config", "b")])
def test_status_needs_one_place_to_look(words):
    assert str(failure("status", *words)) == "give either --config or --state"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_state_is_a_sentence(tmp_path):
    (tmp_path / "state").mkdir(mode=0o500)

    assert "cannot be written" in str(failure("enroll-token", "--state", tmp_path / "state"))
