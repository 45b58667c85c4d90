import pytest

from edge_agent.config import AgentSettings
from learning_core.errors import ConfigError
from protos.settings import load

MINIMAL = """
name = "device-1"
state = "/var/lib/dewfall"
[fog]
address = "127.0.0.1:9443"
ca = "/etc/dewfall/fog.pem"
release_key = "{key}"
""".format(key="ab" * 32)


def settings(tmp_path, text, environ=None):
    (tmp_path / "device.toml").write_text(text)
    return load(AgentSettings, tmp_path / "device.toml", environ, "DEWFALL_EDGE")


def test_a_name_a_state_folder_and_a_fog_are_enough(tmp_path):
    found = settings(tmp_path, MINIMAL)
    assert (found.limits.max_soc_temp_c, found.limits.resume_soc_temp_c, found.limits.min_charge) == (70, 65, 0.3)
    assert str(found.socket) == "/var/lib/dewfall/agent.sock"
    assert str(found.spool) == "/var/lib/dewfall/spool"
    assert found.memory.rule().keep_share == 0.3


def test_the_environment_comes_after_the_file(tmp_path):
    found = settings(tmp_path, MINIMAL, {"DEWFALL_EDGE__LIMITS__MIN_CHARGE": "0.5", "DEWFALL_EDGE__FOG__TOKEN": "t"})
    assert (found.limits.min_charge, found.fog.token) == (0.5, "t")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (MINIMAL + "[limits]\nmax_soc_temp = 70", "there is no setting 'limits.max_soc_temp'; did you mean"),
        (MINIMAL + "[limits]\nmin_charge = 30", "'limits.min_charge'"),
        (MINIMAL + "[limits]\nmax_soc_temp_c = 60", "resume_soc_temp_c has to be at most"),
        (MINIMAL.replace("127.0.0.1:9443", "https://fog"), "an address reads like"),
        (MINIMAL.replace("ab" * 32, "ab"), "64 hex digits"),
        (MINIMAL.replace('name = "device-1"', ""), "the setting 'name' is missing"),
        (MINIMAL + 'token = "a"\ntoken_file = "b"', "not both"),
        (MINIMAL + "[privacy]\nmax_epsilon = -1", "privacy.max_epsilon"),
    ],
)
def test_a_wrong_setting_is_named_in_one_sentence(tmp_path, text, sentence):
    with pytest.raises(ConfigError) as refused:
        settings(tmp_path, text)
    assert sentence in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_budget_without_end_can_be_written_down(tmp_path):
    assert settings(tmp_path, MINIMAL + "[privacy]\nmax_epsilon = inf").privacy.max_epsilon == float("inf")
