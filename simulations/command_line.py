"""`dewfall`: one command for every role. Nothing heavy is imported before a command needs it."""

import importlib.util
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from cloud_server.__main__ import cli as cloud
from edge_agent.__main__ import cli as edge
from fog_aggregator.__main__ import cli as fog
from learning_core.errors import ConfigError, DewfallError

app = typer.Typer(
    name="dewfall",
    help="Models that go on learning on the devices they run on: devices learn, fogs gather, the cloud gives it back.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # a traceback with local values would show tokens
)
simulate = typer.Typer(
    help="Run a fleet on this machine, in one process, with the tiers' own code.", no_args_is_help=True
)
bench = typer.Typer(help="Measure, beside a peer in the same run where there is one.", no_args_is_help=True)
for name, tier in {"edge": edge, "fog": fog, "cloud": cloud, "simulate": simulate, "bench": bench}.items():
    app.add_typer(tier, name=name)

OURS = {
    "simulations",
    "edge_agent",
    "fog_aggregator",
    "cloud_server",
    "protos",
    "learning_core",
}  # no extra has these

Seed = Annotated[int, typer.Option(help="Decides every random choice of the run.")]
Out = Annotated[Path, typer.Option(help="Where report.json and report.html go.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the report as JSON instead of a table.")]


class Backend(StrEnum):
    """What runs a simulated fleet's devices."""

    INLINE = "inline"
    RAY = "ray"


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder of the run; an earlier run in it is replaced.")] = Path("out/demo"),
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Run a cloud, two fogs and six devices as real processes on real data, and report what came of it."""
    from simulations.demo.run import run

    run(out, seed, as_json=as_json)


@app.command()
def doctor(
    config: Annotated[
        Path | None, typer.Option("--config", help="A device's settings: say also what stands against its agent.")
    ] = None,
) -> None:
    """Say what this machine can run, and what is missing for the rest."""
    from simulations.doctor import examine

    sys.exit(examine(config))


@simulate.command()
def forgetting(
    devices: Annotated[int, typer.Option(min=1, max=100_000, help="How many devices the fleet has.")] = 10,
    rounds: Annotated[int, typer.Option(min=1, help="Federated rounds.")] = 5,
    sample_rate: Annotated[float, typer.Option(min=0.0001, max=1, help="A device's chance to be asked.")] = 1.0,
    noise_multiplier: Annotated[float, typer.Option(min=0, help="Noise on the sum, in clip norms.")] = 0.0,
    naive: Annotated[bool, typer.Option(help="Also run the peer without rehearsal.")] = True,
    local_steps: Annotated[int, typer.Option(min=1, help="Steps a device learns in a round.")] = 60,
    seed: Seed = 0,
    backend: Annotated[
        Backend, typer.Option(help="inline: in this process; ray: Flower's own, if installed.")
    ] = Backend.INLINE,
    out: Out = Path("out/simulate/forgetting"),
    as_json: AsJson = False,
) -> None:
    """Do devices that learn new classes keep the old ones? With rehearsal, and without it."""
    if backend is Backend.RAY and importlib.util.find_spec("ray") is None:
        raise ConfigError("Ray is not installed; install dewfall[ray], or choose the backend inline")
    from simulations.scenarios.forgetting import Setting, run

    setting = Setting(
        devices=devices,
        rounds=rounds,
        sample_rate=sample_rate,
        noise_multiplier=noise_multiplier,
        local_steps=local_steps,
        naive=naive,
        seed=seed,
    )
    run(out, setting, backend.value, as_json=as_json)


@simulate.command()
def healing(
    seeds: Annotated[int, typer.Option(min=1, help="Repetitions of every fault.")] = 8,
    ticks: Annotated[int, typer.Option(min=12, help="Looks at a device after a sudden fault.")] = 16,
    quiet_ticks: Annotated[int, typer.Option(min=10, help="Looks at a sound device, for false alarms.")] = 400,
    fault: Annotated[list[str] | None, typer.Option(help="Only this fault; may be given again.")] = None,
    ablation: Annotated[bool, typer.Option(help="Also run other thresholds.")] = True,
    jobs: Annotated[int, typer.Option(min=1, help="Processes, of one thread each.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="The first seed.")] = 0,
    out: Out = Path("out/simulate/healing"),
    as_json: AsJson = False,
) -> None:
    """Break a simulated device in many ways and see whether it finds, names and mends what is wrong."""
    from simulations.healing.faults import FAULTS
    from simulations.scenarios.healing import Setting, run

    if odd := sorted(set(fault or ()) - FAULTS.keys()):
        raise ConfigError(f"there is no fault {odd[0]!r}, only {', '.join(sorted(FAULTS))}")
    setting = Setting(seeds=seeds, first_seed=seed, ticks=ticks, quiet_ticks=quiet_ticks, ablation=ablation)
    run(out, setting.only(fault) if fault else setting, jobs, as_json=as_json)


@bench.command()
def rounds(
    count: Annotated[int, typer.Option("--rounds", min=5, help="Query-and-train rounds to time.")] = 60,
    stock: Annotated[bool, typer.Option(help="Also run stock Flower in the same run.")] = True,
    out: Out = Path("out/bench/rounds"),
    as_json: AsJson = False,
) -> None:
    """Time a round with trivial training and three nodes on loopback, beside stock Flower."""
    from simulations.bench.rounds import run

    run(out, count, stock, as_json=as_json)


@bench.command()
def serve(
    quick: Annotated[bool, typer.Option("--quick", help="A little of everything: to see that it runs.")] = False,
    out: Out = Path("out/bench/serve"),
    as_json: AsJson = False,
) -> None:
    """Measure how an agent answers: beside the bare session, while it learns, while adapters change, in integers."""
    from simulations.bench.serve import run

    run(out, quick=quick, as_json=as_json)


@bench.command()
def continual(
    part: Annotated[list[str] | None, typer.Option(help="Run only this part; may be given again.")] = None,
    data: Annotated[Path | None, typer.Option(help="Folder with the data sets that are not shipped.")] = None,
    peers: Annotated[
        Path | None, typer.Option(help="The python of an environment with avalanche-lib and river: run them too.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Repetitions of everything.")] = 5,
    jobs: Annotated[int, typer.Option(min=1, help="Processes, of one thread each.")] = 1,
    fresh: Annotated[bool, typer.Option("--fresh", help="Do not go on from an earlier run's finished seeds.")] = False,
    out: Out = Path("out/bench/continual"),
    as_json: AsJson = False,
) -> None:
    """Measure learning without forgetting on digits and, with --data, on images, text and intents."""
    from simulations.bench.continual.run import Options, run

    options = Options(parts=part or (), data=data, peers=peers, seeds=seeds, jobs=jobs, fresh=fresh)
    run(out, options, as_json=as_json)


@bench.command()
def offload(
    samples: Annotated[int, typer.Option(min=1, help="Digits 5-9 the device has.")] = 60,
    seeds: Annotated[int, typer.Option(min=1, help="Repetitions: other samples, noise and fits.")] = 3,
    out: Out = Path("out/bench/offload"),
    as_json: AsJson = False,
) -> None:
    """Measure what a fog learns from samples that were noised on the device, and what they cost in privacy."""
    from simulations.bench.offload import run

    run(out, samples, seeds, as_json=as_json)


def main() -> None:
    try:
        app()
    except DewfallError as error:
        print(f"dewfall: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(error.exit_code)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] in OURS:
            raise
        missing = f"{error.name} is not installed; `dewfall doctor` says how to install each role"
        print(f"dewfall: {missing}", file=sys.stderr)  # noqa: T201
        sys.exit(1)


if __name__ == "__main__":
    main()
