"""`dewfall edge` commands that ask: what a person wants of the agent that runs, or of what it left on disk."""

import contextlib
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from edge_agent.terminal import AsJson, say, settings_of
from learning_core.errors import ConfigError

cli = typer.Typer()

MaybeConfig = Annotated[Path | None, typer.Option("--config", help="The device's settings, a TOML file.")]
MaybeState = Annotated[Path | None, typer.Option("--state", help="The agent's state folder, instead of --config.")]
MaybeRoot = Annotated[
    Path | None,
    typer.Option("--root", help="Look at the device whose files and programs lie below this folder; / is this one."),
]


@cli.command()
def status(
    config: MaybeConfig = None,
    state: MaybeState = None,
    decisions: Annotated[bool, typer.Option("--decisions", help="The last decisions, the newest at the end.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Show it anew every second, until Ctrl-C.")] = False,
    root: MaybeRoot = None,
    as_json: AsJson = False,
) -> None:
    """What the running agent does and why; with --root, what one would make of a device, without it running."""
    from edge_agent.status import decision_in_words, look_in_words, status_in_words

    if root is not None:
        from edge_agent.people import look_at

        look = look_at(root)
        say(look if as_json else look_in_words(look))
        return
    if watch:
        from rich.console import Console

        from edge_agent.people import watch_status

        with contextlib.suppress(KeyboardInterrupt):
            watch_status(_socket(config, state), Console())
        return
    if decisions:
        told = _ask(_socket(config, state), "decisions", count=50)[0]["decisions"]
        say(told if as_json else "\n".join(decision_in_words(each) for each in told))
        return
    answer, _ = _ask(_socket(config, state), "status")
    say(answer["status"] if as_json else status_in_words(answer["status"]))


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
        from edge_agent.drivers.overhead import measure_through

        say(measure_through(socket, condition[0], bench))
        return
    conditions = [each for each in condition for _ in range(count)]
    began = time.perf_counter()
    answer, payload = _ask(socket, "infer", conditions=conditions, seed=seed)
    took_ms = (time.perf_counter() - began) * 1e3
    if out is not None:
        from edge_agent.people import write_png

        write_png(out, payload, answer["shape"])
    figures = {"shape": answer["shape"], "ms": took_ms, "out": str(out) if out else None}
    written = f", written to {out}" if out else ""
    say(figures if as_json else f"{len(conditions)} samples in {took_ms:.1f} ms{written}")


@cli.command()
def pause(config: MaybeConfig = None, state: MaybeState = None) -> None:
    """Stop training until `resume`, also over restarts; the agent goes on answering."""
    _ask(_socket(config, state), "pause")
    say("training is paused")


@cli.command()
def force(config: MaybeConfig = None, state: MaybeState = None) -> None:
    """Let the agent train whatever its limits for comfort say, until `resume`, `pause` or a restart.

    What protects the device holds on: its trip point, an unknown temperature, a weak supply, memory, a day's caps.
    """
    _ask(_socket(config, state), "force")
    say("training is forced; `resume` ends that")


@cli.command()
def resume(config: MaybeConfig = None, state: MaybeState = None) -> None:
    """Let the agent train again, as its limits allow."""
    _ask(_socket(config, state), "resume")
    say("training may go on")


@cli.command()
def samples(
    config: MaybeConfig = None,
    state: MaybeState = None,
    count: Annotated[int, typer.Option(help="How many, from the newest back.", min=1)] = 50,
    as_json: AsJson = False,
) -> None:
    """List the samples the running agent keeps: under which key, of which class, and when they were taken."""
    from edge_agent.status import local_time

    kept = _ask(_socket(config, state), "samples", count=count)[0]["samples"]
    lines = (f"{each['key']:8}  class {each['class']:4}  {local_time(each['taken_at_s'])}" for each in kept)
    say(kept if as_json else "\n".join(lines) or "no samples are kept")


@cli.command()
def forget(
    config: MaybeConfig = None,
    state: MaybeState = None,
    sample: Annotated[int | None, typer.Option(help="The one under this key; `samples` lists them.")] = None,
    class_: Annotated[int | None, typer.Option("--class", help="All of this condition.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All, with what waits or was refused.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove samples for ever, also without a running agent; what was learned from them stays learned."""
    from edge_agent.people import forget_at
    from edge_agent.selection import forgotten_in_words, selected_in_words, selection_of

    asked = {"sample": sample, "class": class_, "all": everything}
    selection, places = selection_of(asked), _places(config, state)  # what is wrong is said before one is asked
    if not yes:
        typer.confirm(f"Forget {selected_in_words(selection)}, for ever?", abort=True)
    told = forget_at(selection, asked, places)
    say(told if as_json else forgotten_in_words(told))


@cli.command()
def observe(config: MaybeConfig = None, state: MaybeState = None) -> None:
    """Hand on what another program saw: one JSON object a line on standard input, until it ends.

    {"features": [[..], ..], "condition": 3, "taken_at_s": 1700000000}, the last if known; features may be base64 of
    little-endian float32, with their "shape". A line that cannot be used is named, and the status is 1 at the end.
    """
    from edge_agent.people import observe_lines

    taken, refused = observe_lines(sys.stdin.buffer, _places(config, state))
    say(f"{taken} observations handed on, {refused} lines refused")
    if refused:
        raise typer.Exit(1)


def _places(config: Path | None, state: Path | None) -> Any:
    """An agent's socket, state, spool and largest file of it, as `people.Places`."""
    from edge_agent.people import places_of, usual_places

    if config is not None:
        return places_of(settings_of(config))
    return usual_places(_state(state))


def _state(state: Path | None) -> Path:
    if state is None:
        raise ConfigError("say which agent is meant: give --config FILE or --state FOLDER")
    return state


def _socket(config: Path | None, state: Path | None) -> Path:
    if config is not None:
        socket: Path = settings_of(config).socket
        return socket
    return _state(state) / "agent.sock"


def _ask(socket: Path, op: str, **details: Any) -> tuple[dict[str, Any], bytes]:
    from edge_agent.drivers.control_socket import AgentLine

    with AgentLine(socket) as line:
        return line.ask(op, **details)
