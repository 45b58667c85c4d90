"""`python -m fog_aggregator`: run a fog, let devices in, look at it."""

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from learning_core.errors import ConfigError, DewfallError, StateError
from protos.process import begin

cli = typer.Typer(
    help="A site's fog: its devices, its rounds, its privacy ledger.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # a traceback with local values would show tokens
)
config = typer.Typer(help="Look at the settings.", no_args_is_help=True)
cli.add_typer(config, name="config")

OURS = {"fog_aggregator", "protos", "learning_core"}  # no extra has these

ConfigFile = Annotated[Path, typer.Option("--config", help="The fog's settings (TOML).")]
SomeConfig = Annotated[Path | None, typer.Option("--config", help="The fog's settings (TOML).")]
SomeState = Annotated[Path | None, typer.Option("--state", help="The fog's state folder, instead of --config.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@cli.command()
def run(config_file: ConfigFile) -> None:
    """Run the fog until Ctrl-C or SIGTERM."""
    begin()
    import logging

    from fog_aggregator.app import run as run_fog

    logging.basicConfig(format="%(asctime)s %(name)s: %(message)s", stream=sys.stderr)
    logging.getLogger("dewfall").setLevel(logging.INFO)
    logging.getLogger("flwr").setLevel(logging.WARNING)
    run_fog(_settings(config_file), os.environ)


@cli.command()
def enroll_token(config_file: SomeConfig = None, state: SomeState = None) -> None:
    """Print a new one-time token for a device; the fog may be running."""
    from fog_aggregator.operations import make_token

    typer.echo(make_token(_state(config_file, state)))


@cli.command()
def status(config_file: SomeConfig = None, state: SomeState = None, as_json: AsJson = False) -> None:
    """What the fog is doing, who is in it, and how its rounds went."""
    record = _status(_state(config_file, state))
    if as_json:
        typer.echo(json.dumps(record))
        return
    from rich.console import Console

    from fog_aggregator.screen import status_view

    Console().print(status_view(record))


@cli.command()
def ledger(config_file: ConfigFile, as_json: AsJson = False) -> None:
    """What each device has been charged, and what the budget is."""
    from fog_aggregator.operations import ledger as read_ledger

    settings = _settings(config_file)
    record = read_ledger(settings.state, settings.privacy.terms(), settings.privacy.budget())
    if as_json:
        typer.echo(json.dumps(record))
        return
    from rich.console import Console

    from fog_aggregator.screen import ledger_view

    Console().print(ledger_view(record))


@config.command("check")
def check(config_file: ConfigFile) -> None:
    """Say whether the settings can be used, without starting anything."""
    from fog_aggregator.operations import check as check_settings

    settings = _settings(config_file)
    check_settings(settings)
    typer.echo(f"{config_file} is fine: {settings.name} listens on {settings.listen.host}:{settings.listen.port}")


def _settings(path: Path) -> Any:
    from fog_aggregator.config import FogSettings
    from protos.settings import load

    return load(FogSettings, path, os.environ, prefix="DEWFALL_FOG")


def _state(config_file: Path | None, state: Path | None) -> Path:
    if (config_file is None) == (state is None):
        raise ConfigError("give either --config or --state")
    if state is not None:
        return state
    found: Path = _settings(config_file).state  # type: ignore[arg-type]
    return found


def _status(state: Path) -> dict[str, Any]:
    try:
        record: dict[str, Any] = json.loads((state / "status.json").read_bytes())
    except FileNotFoundError as error:
        raise StateError(
            f"there is no status in {state}; start the fog with `run`, or name its state folder"
        ) from error
    except (OSError, ValueError) as error:
        raise StateError(
            f"{state / 'status.json'} cannot be read; start the fog with `run` to write it anew"
        ) from error
    try:
        os.kill(int(record["pid"]), 0)
        record["running"] = record["doing"] != "stopped"
    except (ProcessLookupError, PermissionError, KeyError, ValueError):
        record["running"] = False
    return record


def main() -> None:
    try:
        cli(prog_name="python -m fog_aggregator")
    except DewfallError as error:
        typer.echo(str(error), err=True)
        sys.exit(error.exit_code)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] in OURS:
            raise
        typer.echo(f"{error.name} is not installed; install the extra `fog` of dewfall", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
