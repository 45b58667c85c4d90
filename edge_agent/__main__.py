"""`python -m edge_agent`: run a device's agent, and speak with the one that runs."""

import logging
import signal
import sys
from typing import Annotated

import typer

from edge_agent import asking
from edge_agent.terminal import AsJson, ConfigOption, progress, say, settings_of
from learning_core.errors import DewfallError
from protos.process import begin

cli = typer.Typer(
    help="The agent of one device: it answers, keeps, learns and watches itself.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # a traceback with local values would show tokens
)
config_cli = typer.Typer(no_args_is_help=True, help="Look at the settings.")
cli.add_typer(asking.cli)
cli.add_typer(config_cli, name="config")

OURS = {"edge_agent", "protos", "learning_core"}  # no extra has these


@cli.command()
def run(config: ConfigOption) -> None:
    """Run the agent until SIGTERM or Ctrl-C."""
    begin()
    from edge_agent.app import Agent

    _log_to_stderr()
    agent = Agent(settings_of(config))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: agent.stop.set())
    agent.run()


@cli.command()
def enroll(config: ConfigOption, as_json: AsJson = False) -> None:
    """Let the fog know this device's key, with the one-time token of the settings; `run` does it by itself."""
    from edge_agent.app import Agent

    agent = Agent(settings_of(config))
    try:
        enrolment = dict(agent.enroll())
    finally:
        agent.close()
    say(enrolment if as_json else f"enrolled at {enrolment['fog']} as node {enrolment['node_id']}")


@cli.command("calibrate-thermal")
def calibrate_thermal(
    config: ConfigOption,
    idle_s: Annotated[float, typer.Option(help="Seconds to watch the idle device.", min=1)] = 180,
    load_s: Annotated[float, typer.Option(help="Seconds with one busy core.", min=1)] = 300,
    cool_s: Annotated[float, typer.Option(help="Seconds to watch it cool.", min=1)] = 300,
    as_json: AsJson = False,
) -> None:
    """Learn how this device warms up, so that its heat can be foreseen; while no agent runs, and nothing else works.

    One core is kept busy as learning would; that ends at once at a limit for heat. What is found is used by the agent
    when it next starts. Needs the extra `train`.
    """
    from edge_agent.calibration import Plan, record_in_words
    from edge_agent.drivers.thermal_bench import calibrate

    try:
        record = calibrate(settings_of(config), Plan(idle_s, load_s, cool_s), progress())
    except KeyboardInterrupt:
        print("stopped; nothing was stored", file=sys.stderr)  # noqa: T201
        raise typer.Exit(130) from None
    say(record if as_json else record_in_words(record))


@config_cli.command("check")
def check(config: ConfigOption) -> None:
    """See whether a settings file is right, without starting anything."""
    from edge_agent.drivers.fog_http import token_of, trust_in

    settings = settings_of(config)
    trust_in(settings.fog.ca)
    if settings.fog.token_file is not None:
        token_of(settings.fog)
    say(f"{config} is right: {settings.name} belongs to the fog at {settings.fog.address}")


def main() -> None:
    try:
        cli()
    except DewfallError as error:
        print(error, file=sys.stderr)  # noqa: T201
        sys.exit(error.exit_code)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] in OURS:
            raise
        print(f"{error.name} is not installed; install the extra `edge` of dewfall", file=sys.stderr)  # noqa: T201
        sys.exit(1)


def _log_to_stderr() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    for chatty in ("httpx", "httpcore", "flwr"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


if __name__ == "__main__":
    main()
