"""The cloud's command line: `python -m cloud_server ...`."""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Annotated

import click
import typer
from rich.console import Console

from cloud_server.config import Settings
from learning_core.errors import DewfallError, StateError
from learning_core.updates import ModelVersion
from protos.settings import load

cli = typer.Typer(
    help="The cloud: makes releases, gathers what fogs learned, and gives it back.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # a traceback with local values would show tokens
)
config_cli = typer.Typer(help="Look at the settings.", no_args_is_help=True)
cli.add_typer(config_cli, name="config")
console = Console()
OURS = {"cloud_server", "protos", "learning_core"}  # no extra has these

Config = Annotated[Path | None, typer.Option("--config", help="TOML file with the settings.")]
State = Annotated[Path | None, typer.Option("--state", help="State folder; wins over the settings.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Lines = Annotated[bool, typer.Option("--json-progress", help="Print progress as JSON lines.")]
Leashed = Annotated[bool, typer.Option("--leashed", hidden=True)]


@cli.command()
def init(
    config: Config = None,
    state: State = None,
    data: Annotated[str | None, typer.Option(help="What to learn from.", click_type=click.Choice(["digits"]))] = None,
    json_progress: Lines = False,
) -> None:
    """Train judge, teacher and student, examine them, and publish release 1. Run it again to go on where it stopped."""
    from cloud_server.drivers.progress import Progress
    from cloud_server.making import first_release

    settings = _settings(config, state, data)
    with Progress(console, json_progress) as progress:
        row = first_release(settings, ["teacher", *_arguments(config, state, data), "--leashed"], progress.report)
    progress.finish(row)


@cli.command()
def serve(config: Config = None, state: State = None) -> None:
    """Answer fogs until told to stop."""
    os.environ["GRPC_VERBOSITY"] = "NONE"  # what a person can act on, we say ourselves
    from cloud_server.app import serve as run
    from cloud_server.drivers.doorbell import Doorbell

    settings, bell, signals = _settings(config, state), Doorbell(), list[int]()

    def stop(number: int, _: object) -> None:
        signals.append(number)
        bell.ring()

    def ready(port: int) -> None:
        typer.echo(f"the cloud listens on {settings.listen.host} port {port}; its state is {settings.state}")
        sys.stdout.flush()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    run(settings, _arguments(config, state), bell, lambda: bool(signals), ready)


@cli.command("enroll-token")
def enroll_token(
    fog: Annotated[str, typer.Option(help="Name of the fog that may enrol with it.")],
    config: Config = None,
    state: State = None,
    valid_hours: Annotated[float, typer.Option(min=0, help="How long it can be used.")] = 24.0,
) -> None:
    """Print a token that enrols one fog once. Works while the cloud is serving."""
    import time

    from cloud_server.app import issue_token, open_registry

    registry = open_registry(_settings(config, state).state)
    try:
        typer.echo(issue_token(registry, fog, valid_hours, time.time()))
    finally:
        registry.close()


@cli.command()
def releases(config: Config = None, state: State = None, as_json: AsJson = False) -> None:
    """List every candidate that was examined, and why it was published or kept back."""
    from cloud_server.app import open_registry
    from cloud_server.drivers.tables import releases_table
    from cloud_server.standing import release_tree

    registry = open_registry(_settings(config, state).state)
    try:
        rows = registry.releases()
    finally:
        registry.close()
    if as_json:
        typer.echo(json.dumps([release_tree(row) for row in rows], indent=1))
    else:
        console.print(releases_table(rows))


@cli.command()
def status(config: Config = None, state: State = None, as_json: AsJson = False) -> None:
    """Show how the cloud stood when it last wrote it down."""
    from cloud_server.drivers.tables import status_table
    from cloud_server.places import Places

    path = Places(_settings(config, state).state).status
    if not path.is_file():
        raise StateError(f"there is no {path}; start the cloud with `python -m cloud_server serve` first")
    text = path.read_text(encoding="utf-8")
    if as_json:
        typer.echo(text)
    else:
        console.print(status_table(json.loads(text)))


@config_cli.command("check")
def check(config: Config = None, state: State = None, as_json: AsJson = False) -> None:
    """Read the settings, say what is wrong with them, or print them whole."""
    settings = _settings(config, state)
    typer.echo(settings.model_dump_json(indent=1) if as_json else "the settings are good")


@cli.command(hidden=True)
def teacher(config: Config = None, state: State = None, data: str | None = None, leashed: Leashed = False) -> None:
    """Train the teacher: started by `init`."""
    _leash(leashed)
    from cloud_server.drivers.child import print_progress
    from cloud_server.making import teacher as train

    train(_settings(config, state, data), print_progress)


@cli.command(hidden=True)
def workflow(
    made_from: Annotated[str, typer.Option()],
    config: Config = None,
    state: State = None,
    leashed: Leashed = False,
) -> None:
    """Make the next release: started by `serve`."""
    _leash(leashed)
    from cloud_server.drivers.child import print_progress
    from cloud_server.making import next_release

    next_release(_settings(config, state), ModelVersion.parse(made_from), print_progress)


def main() -> None:
    """Run a command; what a person can act on is one sentence on stderr."""
    try:
        cli(standalone_mode=True)
    except DewfallError as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(error.exit_code) from None
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] in OURS:
            raise
        sys.stderr.write(f"{error.name} is not installed; install the extra `cloud` of dewfall\n")
        raise SystemExit(1) from None


def _settings(config: Path | None, state: Path | None, data: str | None = None) -> Settings:
    settings = load(Settings, config, os.environ, "DEWFALL_CLOUD")
    given = {name: value for name, value in (("state", state), ("data", data)) if value is not None}
    return Settings.model_validate(settings.model_dump() | given) if given else settings


def _arguments(config: Path | None, state: Path | None, data: str | None = None) -> list[str]:
    """What leads a child process to the same settings."""
    pairs = (("--config", config), ("--state", state), ("--data", data))
    return [text for name, value in pairs if value is not None for text in (name, str(value))]


def _leash(leashed: bool) -> None:
    if leashed:
        from cloud_server.drivers.child import hold_leash

        hold_leash()


if __name__ == "__main__":
    main()
