"""Claim: what is learned last does not undo what was learned first, measured beside the peers on the same streams.

Every part has its seeds run in processes of one thread each. A finished seed is kept under `seeds/` in the output
folder, so an interrupted or widened run goes on where it stopped; `--fresh` begins anew.
"""

import importlib
import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, cast

from rich.console import Console

from learning_core.errors import ConfigError
from protos.state_folder import write_atomically
from simulations import report
from simulations.bench.continual.part import Part, PartModule

PARTS = (
    "digits",
    "flow_digits",
    "drift",
    "flow_mnist",
    "flow_fashion",
    "clinc",
    "encoder_int8",
    "novelty",
    "language",
    "latents",
    "omniglot",
    "air",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """`parts` empty: all that the data allows. `peers`: the Python of an environment that has the peers installed."""

    parts: Sequence[str] = ()
    data: Path | None = None
    peers: Path | None = None
    seeds: int = 5
    jobs: int = 1
    fresh: bool = False


def run(out: Path, options: Options, *, as_json: bool) -> None:
    console = Console(stderr=True)
    modules = chosen(options)
    done = [part_of(module, out, options, console.print) for module in modules]
    claims = [claim for part in done for claim in part.claims]
    figures = {part.name: part.figures for part in done}
    peers = {part.name: part.figures["peers"] for part in done if "peers" in part.figures}
    content = report.document(claims, figures, peers, list(range(options.seeds)))
    report.write(out, content, page(done, claims, options))
    report.show(claims, out, content, as_json=as_json)


def chosen(options: Options) -> list[PartModule]:
    """The parts to run, in order. Raises ConfigError for an unknown one or one whose data is not given."""
    if unknown := sorted(set(options.parts) - set(PARTS)):
        raise ConfigError(f"there is no part {unknown[0]!r}; choose from {', '.join(PARTS)}")
    modules = [cast(PartModule, importlib.import_module(f"{__package__}.{name}")) for name in options.parts or PARTS]
    if options.data is not None and not options.data.is_dir():
        raise ConfigError(f"the data folder {options.data} does not exist")
    if options.peers is not None and not os.access(options.peers, os.X_OK):
        raise ConfigError(f"{options.peers} is not a Python to run; give --peers the python of the peers' environment")
    if options.data is None:
        if options.parts and (hungry := next((module.NAME for module in modules if module.NEEDS_DATA), None)):
            raise ConfigError(f"the part {hungry} needs data that is not shipped; give its folder with --data")
        modules = [module for module in modules if not module.NEEDS_DATA]
    return modules


def part_of(module: PartModule, out: Path, options: Options, say: Callable[[str], None]) -> Part:
    """One part's figures over all seeds and, where asked for and possible, its peers' on the same seeds."""
    began = time.monotonic()
    results = seeds_of(module, out / "seeds", options, say)
    peers = None
    if options.peers is not None and hasattr(module, "run_peers"):
        folder = out / "seeds"
        path = folder / f"{module.NAME}-peers-{key_of(module.SETTING)}-{options.seeds}.json"
        if path.exists() and not options.fresh:
            peers = json.loads(path.read_bytes())
        else:
            say(f"{module.NAME}: the peers, on the same streams")
            peers = module.run_peers(options.peers, range(options.seeds))
            if peers is None:
                say(f"{module.NAME}: the peers are not installed there; their figures are left out")
            else:
                write_atomically(path, json.dumps(peers).encode())
    say(f"{module.NAME}: {time.monotonic() - began:.0f} s")
    return module.summarise(results, peers)


def seeds_of(module: PartModule, folder: Path, options: Options, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Each seed's results in order, from disk where the same setting was run before."""
    folder.mkdir(parents=True, exist_ok=True)
    key = key_of(module.SETTING)
    paths = {seed: folder / f"{module.NAME}-{key}-{seed}.json" for seed in range(options.seeds)}
    missing = [seed for seed, path in paths.items() if options.fresh or not path.exists()]
    for seed, result in computed(module.__name__, missing, options):
        write_atomically(paths[seed], json.dumps(result, allow_nan=False).encode())
        say(f"{module.NAME}: seed {seed} is done")
    return [json.loads(path.read_bytes()) for path in paths.values()]


def computed(module: str, seeds: Sequence[int], options: Options) -> Iterator[tuple[int, dict[str, Any]]]:
    """(seed, result) as they are finished, in `jobs` processes that start from nothing."""
    if not seeds:
        return
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the children: two pools of threads on two cores crawl
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(options.jobs, len(seeds)), mp_context=spawn) as pool:
        running = {pool.submit(seed_in, module, seed, options.data): seed for seed in seeds}
        for future in as_completed(running):
            yield running[future], future.result()


def seed_in(module: str, seed: int, data: Path | None) -> dict[str, Any]:
    """What a worker process does."""
    import torch  # noqa: PLC0415 - only workers need it

    torch.set_num_threads(1)
    part = cast(PartModule, importlib.import_module(module))
    return part.run_seed(seed, data)


def key_of(setting: Mapping[str, Any]) -> str:
    """A short name for a setting, so that figures of another one are never taken for this one's."""
    return sha256(json.dumps(setting, sort_keys=True).encode()).hexdigest()[:12]


def page(parts: Sequence[Part], claims: Sequence[report.Claim], options: Options) -> str:
    left_out = [name for name in PARTS if name not in {part.name for part in parts}]
    lead = (
        f"<p>{options.seeds} seeds; values are means with 95 % intervals (Student's t) unless a line says otherwise. "
        "Forgetting is the fall from a task's best earlier stage to the last (Chaudhry et al. 2018).</p>"
    )
    if left_out:
        lead += f"<p>Not run: {', '.join(left_out)}.</p>"
    sections = {"Claims": report.claims_table(claims)}
    for part in parts:
        sections |= {f"{part.name}: {heading}": body for heading, body in part.sections.items()}
    return report.page("Learning that does not forget", lead, sections)
