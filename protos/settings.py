"""Settings: one TOML file, then the environment, checked whole before anything starts."""

import difflib
import ipaddress
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError, model_validator

from learning_core.errors import ConfigError

Model = TypeVar("Model", bound=BaseModel)
PREFIX = "DEWFALL"


class Section(BaseModel):
    """A table of a settings file: frozen, and a key nobody knows is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def _address(text: str) -> str:
    if not re.fullmatch(r"([A-Za-z0-9_.-]+|\[[0-9a-fA-F:]+\]):\d{1,5}", text):
        raise ValueError("an address reads like fog.example:9443")
    return text


def _host(text: str) -> str:
    try:
        ipaddress.ip_address(text)
    except ValueError as error:
        if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,252}[A-Za-z0-9])?", text):
            raise ValueError("a host is a name or an IP address, without a port") from error
    return text


def _release_key(text: str) -> str:
    if not re.fullmatch(r"[0-9a-f]{64}", text):
        raise ValueError("the release key is the 64 hex digits in the cloud's release.pub")
    return text


Host = Annotated[str, AfterValidator(_host)]
Address = Annotated[str, AfterValidator(_address)]


class Upstream(Section):
    """The tier above. `token`, or the file that holds it, is used once, to enrol; `release_key`: the cloud's."""

    address: Address
    ca: Path
    release_key: Annotated[str, AfterValidator(_release_key)]
    token: str | None = None
    token_file: Path | None = None

    @model_validator(mode="after")
    def _one_token(self) -> "Upstream":
        if self.token is not None and self.token_file is not None:
            raise ValueError("give token or token_file, not both")
        return self


def load(
    model: type[Model], path: Path | None, environ: Mapping[str, str] | None = None, prefix: str = PREFIX
) -> Model:
    """Read `path`, overlay `PREFIX__SECTION__KEY` from `environ`, validate. Raises ConfigError, one sentence."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8")) if path else {}
    except FileNotFoundError as error:
        raise ConfigError(f"there is no settings file {path}; check the path given to --config") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read as text; check its permissions and encoding") from error
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from error
    try:
        return model.model_validate(_overlay(values, environ or {}, prefix))
    except ValidationError as error:
        raise ConfigError(f"{path or 'the environment'}: {_sentence(model, error)}") from error


def _overlay(values: dict[str, Any], environ: Mapping[str, str], prefix: str) -> dict[str, Any]:
    for name, text in environ.items():
        if not name.startswith(f"{prefix}__"):
            continue
        *sections, key = name.removeprefix(f"{prefix}__").lower().split("__")
        table = values
        for section in sections:
            table = table.setdefault(section, {})
            if not isinstance(table, dict):
                raise ConfigError(f"the environment variable {name} names a table, but {section} is a single value")
        table[key] = text
    return values


def _sentence(model: type[BaseModel], error: ValidationError) -> str:
    errors = error.errors(include_url=False)  # a misspelt key first: the one it was to be is then missing too
    first = next((each for each in errors if each["type"] == "extra_forbidden"), errors[0])
    place = ".".join(str(part) for part in first["loc"])
    match first["type"]:
        case "extra_forbidden":
            key = str(first["loc"][-1])
            near = difflib.get_close_matches(key, _keys_at(model, first["loc"][:-1]), n=1, cutoff=0.5)
            return f"there is no setting {place!r}" + (f"; did you mean {near[0]!r}?" if near else "; remove it")
        case "missing":
            return f"the setting {place!r} is missing; add it"
    message = str(first["msg"]).removeprefix("Value error, ")
    return f"the setting {place!r} does not fit: {message[:1].lower()}{message[1:]}"


def _keys_at(model: type[BaseModel], place: tuple[int | str, ...]) -> list[str]:
    for part in place:
        field = model.model_fields.get(str(part))
        if field is None or not isinstance(field.annotation, type) or not issubclass(field.annotation, BaseModel):
            return []
        model = field.annotation
    return list(model.model_fields)
