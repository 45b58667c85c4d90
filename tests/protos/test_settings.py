import pytest
from pydantic import BaseModel, Field

from learning_core.errors import ConfigError
from protos.settings import load


class Limits(BaseModel, frozen=True, extra="forbid"):
    max_soc_temp_c: float = 70.0
    min_charge: float = Field(0.3, ge=0, le=1)


class Config(BaseModel, frozen=True, extra="forbid"):
    name: str
    limits: Limits = Limits()


def read(folder, text, environ=None):
    (folder / "a.toml").write_text(text)
    return load(Config, folder / "a.toml", environ)


def test_the_environment_overrides_the_file(tmp_path):
    config = read(
        tmp_path, 'name = "a"\n[limits]\nmin_charge = 0.2', {"DEWFALL__LIMITS__MIN_CHARGE": "0.5", "HOME": "x"}
    )
    assert config == Config(name="a", limits=Limits(min_charge=0.5))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('name = "a"\n[limits]\nmin_chrage = 1', "limits.min_chrage.*did you mean 'min_charge'"),
        ('name = "a"\nzzzz = 1', "'zzzz'; remove it"),
        ("", "'name' is missing"),
        ('name = "a"\n[limits]\nmin_charge = 3', "limits.min_charge.*less than or equal to 1"),
        ("name = ", "not valid TOML"),
    ],
)
def test_a_wrong_setting_is_one_sentence_that_names_it(tmp_path, text, words):
    with pytest.raises(ConfigError, match=words) as refusal:
        read(tmp_path, text)
    assert "\n" not in str(refusal.value)


def test_a_missing_file_is_said_so(tmp_path):
    with pytest.raises(ConfigError, match=r"no settings file .*nowhere\.toml; check the path"):
        load(Config, tmp_path / "nowhere.toml")


def test_a_variable_that_puts_a_table_into_a_value_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="single value"):
        read(tmp_path, 'name = "a"', {"DEWFALL__NAME__FIRST": "b"})
