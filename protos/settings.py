"""Settings: one TOML file, then the environment, checked whole before anything starts."""

import difflib
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from learning_core.errors import ConfigError

Model = TypeVar("Model", bound=BaseModel)
PREFIX = "DEWFALL"


def load(model: type[Model], path: Path, environ: Mapping[str, str] | None = None, prefix: str = PREFIX) -> Model:
    """Read `path`, overlay `PREFIX__SECTION__KEY` from `environ`, validate. Raises ConfigError, one sentence."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"there is no settings file {path}; check the path given to --config") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read as text; check its permissions and encoding") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from error
    try:
        return model.model_validate(_overlay(values, environ or {}, prefix))
    except ValidationError as error:
        raise ConfigError(f"{path}: {_sentence(model, error)}") from error


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
    first = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    match first["type"]:
        case "extra_forbidden":
            key = str(first["loc"][-1])
            near = difflib.get_close_matches(key, _keys_at(model, first["loc"][:-1]), n=1, cutoff=0.5)
            return f"there is no setting {place!r}" + (f"; did you mean {near[0]!r}?" if near else "; remove it")
        case "missing":
            return f"the setting {place!r} is missing; add it"
    return f"the setting {place!r} does not fit: {first['msg'][:1].lower()}{first['msg'][1:]}"


def _keys_at(model: type[BaseModel], place: tuple[int | str, ...]) -> list[str]:
    for part in place:
        field = model.model_fields.get(str(part))
        if field is None or not isinstance(field.annotation, type) or not issubclass(field.annotation, BaseModel):
            return []
        model = field.annotation
    return list(model.model_fields)
