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
    min_quality: Annotated[float | None, typer.Option(help="No worse than this, 0..1; `status` has a table.")] = None,
    max_ms: Annotated[float | None, typer.Option(help="Within so many milliseconds, all together.")] = None,
    max_joules: Annotated[float | None, typer.Option(help="For so much energy, all together.")] = None,
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
    needs = {"min_quality": min_quality, "max_ms": max_ms, "max_joules": max_joules}
    answer, payload = _ask(socket, "infer", conditions=conditions, seed=seed, **needs)
    took_ms = (time.perf_counter() - began) * 1e3
    if out is not None:
        from edge_agent.people import write_png

        write_png(out, payload, answer["shape"])
    variant = answer["variant"]
    figures = {"shape": answer["shape"], "variant": variant, "ms": took_ms, "out": str(out) if out else None}
    written = f", written to {out}" if out else ""
    say(figures if as_json else f"{len(conditions)} samples by {variant!r} in {took_ms:.1f} ms{written}")


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
    from edge_agent.status import local_time, proposed_in_words

    kept = _ask(_socket(config, state), "samples", count=count)[0]["samples"]
    lines = (
        f"{each['key']:8}  class {each['class']:4}  {local_time(each['taken_at_s'])}{proposed_in_words(each)}"
        for each in kept
    )
    say(kept if as_json else "\n".join(lines) or "no samples are kept")


@cli.command()
def label(
    name: Annotated[str | None, typer.Argument(help="Which one; without it they are listed.")] = None,
    config: MaybeConfig = None,
    state: MaybeState = None,
    class_: Annotated[int | None, typer.Option("--class", help="What it is, for the agent.", min=0)] = None,
    png: Annotated[Path | None, typer.Option(help="Draw it as a PNG file.")] = None,
    as_json: AsJson = False,
) -> None:
    """Name the samples that came without a class and of which the judge was not sure; also without a running agent."""
    from edge_agent.people import label_at, waiting_for_a_name

    places = _places(config, state)
    if name is None:
        found = waiting_for_a_name(places)
        say(found if as_json else "\n".join(f"{each['name']}  {each['reason']}" for each in found) or "none waits")
        return
    if class_ is None and png is None:
        raise ConfigError("say what it is with --class N, or where to draw it with --png FILE")
    label_at(places, name, class_, png)
    done = {"name": name, "class": class_, "png": str(png) if png else None}
    say(done if as_json else f"{name}: {f'class {class_}' if class_ is not None else f'drawn to {png}'}")


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
    """Remove samples for ever, also without a running agent; what was learned from them stays learned.

    With --all, what was learned from them for this device alone goes too: the personal adapter.
    """
    from edge_agent.people import forget_at
    from edge_agent.selection import forgotten_in_words, selected_in_words, selection_of

    asked = {"sample": sample, "class": class_, "all": everything}
    selection, places = selection_of(asked), _places(config, state)  # what is wrong is said before one is asked
    if not yes:
        typer.confirm(f"Forget {selected_in_words(selection)}, for ever?", abort=True)
    told = forget_at(selection, asked, places)
    say(told if as_json else forgotten_in_words(told))


@cli.command()
def rollback(
    config: MaybeConfig = None,
    state: MaybeState = None,
    release: Annotated[bool, typer.Option("--release", help="Back to the release before.")] = False,
    personal: Annotated[bool, typer.Option("--personal", help="Drop the personal adapter.")] = False,
    lift: Annotated[str | None, typer.Option(help="Allow again what has this digest (see status --json).")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Go back from what changed last, an adapter before a release, and never take it again; also without an agent.

    A personal adapter that is dropped goes with those of other releases, and another one may be learned as long as
    learning.personal is on.
    """
    from edge_agent.people import roll_back_at

    if release + personal + (lift is not None) > 1:
        raise ConfigError("give one of --release, --personal and --lift")
    places = _places(config, state)
    if lift is not None:
        told = str(_ask(places.socket, "lift", digest=lift)[0]["told"])
    else:
        what = "the release" if release else "the personal adapter" if personal else "what changed last"
        if not yes:
            question = f"Go back from {what} and never take it again?"
            typer.confirm("Drop the personal adapter of every release?" if personal else question, abort=True)
        told = roll_back_at("release" if release else "personal" if personal else None, places)
    say({"told": told} if as_json else told)


@cli.command()
def incidents(
    config: MaybeConfig = None,
    state: MaybeState = None,
    last: Annotated[int, typer.Option(help="How many, from the newest back.", min=1, max=200)] = 20,
    count: Annotated[bool, typer.Option("--count", help="Only how many, by how they ended and why.")] = False,
    as_json: AsJson = False,
) -> None:
    """List what went wrong with the running agent's answers, what it did about it, and what came of that."""
    from edge_agent.status import incident_in_words

    answer, _ = _ask(_socket(config, state), "incidents", count=last)
    if count:
        counts = answer["counts"]
        say(counts if as_json else "\n".join(f"{n:6}  {name}" for name, n in sorted(counts.items())) or "none")
        return
    told = answer["incidents"]
    say(told if as_json else "\n".join(incident_in_words(each) for each in told) or "nothing has gone wrong")


@cli.command()
def observe(config: MaybeConfig = None, state: MaybeState = None) -> None:
    """Hand on what another program saw: one JSON object a line on standard input, until it ends.

    {"features": [[..], ..], "condition": 3, "taken_at_s": 1700000000, "id": "x1"}, all but the first if known; features
    may be base64 of little-endian float32, with their "shape". An id is taken in once, however often it comes.
    A line that cannot be used is named, and the status is 1 at the end.
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
