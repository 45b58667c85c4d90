"""`python -m edge_agent`: run a device's agent, and speak with the one that runs."""

import contextlib
import ctypes
import json
import logging
import os
import signal
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from learning_core.errors import ConfigError, DewfallError

cli = typer.Typer(
    help="The agent of one device: it answers, keeps, learns and watches itself.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # a traceback with local values would show tokens
)
config_cli = typer.Typer(no_args_is_help=True, help="Look at the settings.")
cli.add_typer(config_cli, name="config")

# Nobody calls home, and numpy keeps to one thread: read when the libraries are loaded, so it comes before them.
ENVIRONMENT = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
}

LOOK_DEADLINE_S = 3.0  # a person waits longer than a running agent
M_ARENA_MAX = -8
OURS = {"edge_agent", "protos", "learning_core"}  # no extra has these

ConfigOption = Annotated[Path, typer.Option("--config", help="The device's settings, a TOML file.")]
MaybeConfig = Annotated[Path | None, typer.Option("--config", help="The device's settings, a TOML file.")]
MaybeState = Annotated[Path | None, typer.Option("--state", help="The agent's state folder, instead of --config.")]
MaybeRoot = Annotated[
    Path | None,
    typer.Option("--root", help="Look at the device whose files and programs lie below this folder; / is this one."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@cli.command()
def run(config: ConfigOption) -> None:
    """Run the agent until SIGTERM or Ctrl-C."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    _keep_memory_together()
    from edge_agent.app import Agent

    _log_to_stderr()
    agent = Agent(_settings(config))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: agent.stop.set())
    agent.run()


@cli.command()
def enroll(config: ConfigOption, as_json: AsJson = False) -> None:
    """Let the fog know this device's key, with the one-time token of the settings; `run` does it by itself."""
    from edge_agent.app import Agent

    agent = Agent(_settings(config))
    try:
        enrolment = dict(agent.enroll())
    finally:
        agent.close()
    _print(enrolment if as_json else f"enrolled at {enrolment['fog']} as node {enrolment['node_id']}")


@cli.command()
def status(
    config: MaybeConfig = None,
    state: MaybeState = None,
    decisions: Annotated[bool, typer.Option("--decisions", help="The last decisions, the newest at the end.")] = False,
    root: MaybeRoot = None,
    as_json: AsJson = False,
) -> None:
    """What the running agent does and why; with --root, what one would make of a device, without it running."""
    if root is not None:
        _print_look(root, as_json)
        return
    if decisions:
        told = _ask(_socket(config, state), "decisions", count=50)[0]["decisions"]
        _print(told if as_json else "\n".join(_line(each) for each in told))
        return
    answer, _ = _ask(_socket(config, state), "status")
    _print(answer["status"] if as_json else _summary(answer["status"]))


@cli.command()
def infer(
    condition: Annotated[list[int], typer.Option("--condition", help="What to draw; may be given several times.")],
    config: MaybeConfig = None,
    state: MaybeState = None,
    count: Annotated[int, typer.Option(help="How many of each.", min=1)] = 1,
    seed: Annotated[int | None, typer.Option(help="Equal seeds give equal samples.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write them as a PNG file.")] = None,
    bench: Annotated[int, typer.Option(help="Measure what the agent adds, over this many pairs.", min=0)] = 0,
    as_json: AsJson = False,
) -> None:
    """Ask the running agent for samples."""
    socket = _socket(config, state)
    if bench:
        _print(_bench(socket, condition[0], bench))
        return
    conditions = [each for each in condition for _ in range(count)]
    began = time.perf_counter()
    answer, payload = _ask(socket, "infer", conditions=conditions, seed=seed)
    took_ms = (time.perf_counter() - began) * 1e3
    if out is not None:
        _write_png(out, payload, answer["shape"])
    figures = {"shape": answer["shape"], "ms": took_ms, "out": str(out) if out else None}
    written = f", written to {out}" if out else ""
    _print(figures if as_json else f"{len(conditions)} samples in {took_ms:.1f} ms{written}")


@cli.command()
def pause(config: MaybeConfig = None, state: MaybeState = None) -> None:
    """Stop training until `resume`, also over restarts; the agent goes on answering."""
    _ask(_socket(config, state), "pause")
    _print("training is paused")


@cli.command()
def force(config: MaybeConfig = None, state: MaybeState = None) -> None:
    """Let the agent train whatever its limits for comfort say, until `resume`, `pause` or a restart.

    What protects the device holds on: its trip point, an unknown temperature, a weak supply, memory, a day's caps.
    """
    _ask(_socket(config, state), "force")
    _print("training is forced; `resume` ends that")


@cli.command()
def resume(config: MaybeConfig = None, state: MaybeState = None) -> None:
    """Let the agent train again, as its limits allow."""
    _ask(_socket(config, state), "resume")
    _print("training may go on")


@config_cli.command("check")
def check(config: ConfigOption) -> None:
    """See whether a settings file is right, without starting anything."""
    from edge_agent.drivers.fog_http import token_of, trust_in

    settings = _settings(config)
    trust_in(settings.fog.ca)
    if settings.fog.token_file is not None:
        token_of(settings.fog)
    _print(f"{config} is right: {settings.name} belongs to the fog at {settings.fog.address}")


def _keep_memory_together() -> None:
    """Two malloc arenas instead of eight a core: what many threads free can be used again (glibc's mallopt(3))."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, 2)


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


def _print_look(root: Path, as_json: bool) -> None:
    """One look, decided with the default limits as if there were a release and samples to learn from."""
    from edge_agent.config import Limits
    from edge_agent.drivers.sysfs_telemetry import SysfsTelemetry
    from edge_agent.governor import Situation, decide
    from edge_agent.status import describe_look, look_in_words

    if not root.is_dir():
        raise ConfigError(f"there is no folder {root} to look at; / is this device")
    limits, telemetry = Limits(), SysfsTelemetry(root, deadline_s=LOOK_DEADLINE_S).read()
    ready = Situation(paused=False, can_learn=True, budget_left=True, release=1, samples=limits.min_samples)
    look = describe_look(telemetry, decide(telemetry, limits, ready))
    _print(look if as_json else look_in_words(look))


def _settings(config: Path) -> Any:
    from edge_agent.config import AgentSettings
    from protos.settings import load

    return load(AgentSettings, config, os.environ, "DEWFALL_EDGE")


def _socket(config: Path | None, state: Path | None) -> Path:
    if config is not None:
        socket: Path = _settings(config).socket
        return socket
    if state is None:
        raise ConfigError("say which agent is meant: give --config FILE or --state FOLDER")
    return state / "agent.sock"


def _ask(socket: Path, op: str, **details: Any) -> tuple[dict[str, Any], bytes]:
    from edge_agent.drivers.control_socket import AgentLine

    with AgentLine(socket) as line:
        return line.ask(op, **details)


def _bench(socket: Path, condition: int, pairs: int) -> dict[str, Any]:
    """What the agent and its socket add to the bare session, as shares: medians over interleaved pairs."""
    from statistics import median

    from edge_agent.drivers.control_socket import AgentLine

    bare, agent, outside = [], [], []
    with AgentLine(socket) as line:
        for seed in range(pairs):
            pair, _ = line.ask("overhead", condition=condition, seed=seed)
            began = time.perf_counter()
            line.ask("infer", conditions=[condition], seed=seed)
            outside.append((time.perf_counter() - began) * 1e3)
            bare.append(pair["bare_ms"])
            agent.append(pair["agent_ms"])
    return {
        "pairs": pairs,
        "bare_ms": median(bare),
        "agent_ms": median(agent),
        "socket_ms": median(outside),
        "agent_overhead": median(a / b for a, b in zip(agent, bare, strict=True)) - 1,
        "socket_overhead": median(s / b for s, b in zip(outside, bare, strict=True)) - 1,
    }


def _write_png(out: Path, payload: bytes, shape: list[int]) -> None:
    import numpy as np

    from edge_agent.png import png_of
    from protos.state_folder import write_atomically

    if not out.parent.is_dir():
        raise ConfigError(f"there is no folder {out.parent} to write {out.name} into; make it first")
    write_atomically(out, png_of(np.frombuffer(payload, "<f4").reshape(shape)))


def _summary(tree: dict[str, Any]) -> str:
    release, now, samples = tree["release"], tree["decisions"]["now"], tree["samples"]
    served = f"release {release['version']}{' with its own adapter' * release['adapted']}" if release else "nothing yet"
    inference, rss = tree["inference"], tree["rss_mb"]
    latency = f"{inference['p50_ms']:.1f} ms (p99 {inference['p99_ms']:.1f})" if inference["p50_ms"] else "-"
    return "\n".join(
        (
            f"{tree['name']} serves {served}; {inference['count']} answers, median {latency}",
            f"decision: {now['action']} ({now['reason']}): {now['sentence']}",
            f"samples: {samples['seen']} seen, {samples['kept']} kept, {samples['dropped']} dropped",
            f"rounds: {tree['rounds']['updates']} updates sent; memory: {rss['agent']:.0f} MB",
            f"fog: {tree['fog'].get('trouble') or 'connected'}",
        )
    )


def _line(decision: dict[str, Any]) -> str:
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(decision["at_s"]))
    return f"{at}  {decision['action']:10} {decision['reason']:14} {decision['sentence']}"


def _print(what: Any) -> None:
    sys.stdout.write(what if isinstance(what, str) else json.dumps(what, indent=1))
    sys.stdout.write("\n")
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.flush()


def _log_to_stderr() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    for chatty in ("httpx", "httpcore", "flwr"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


if __name__ == "__main__":
    main()
