"""The demo's story: the cloud learns 0-4, devices see 5-9, fogs gather, the cloud distils, devices swap."""

import contextlib
import json
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import FrameType

import numpy as np
from rich.console import Console
from rich.live import Live

from cloud_server.app import issue_token, open_registry
from cloud_server.drivers.digits import load_digits, parted
from fog_aggregator.operations import make_token
from learning_core.errors import DewfallError, StateError
from learning_core.params import Array
from learning_core.samples import Batch
from protos.state_folder import StateFolder
from simulations.demo import configure
from simulations.demo.configure import Places
from simulations.demo.leash import leashed
from simulations.demo.observe import Snapshot, ask, images, look
from simulations.demo.plan import DEVICES, FOGS, NEW, OLD, TIME_SCALE, Stream, twins
from simulations.demo.processes import Household, environment, last_lines, undisturbed
from simulations.demo.requests import Requests
from simulations.demo.screen import Screen
from simulations.demo.story import Story, finish
from simulations.demo.twin import World

LOOK_S = 0.5
PICTURE_SEED = 7
PAIRS = 200
FOG_STARTS_S = 60.0
LEFT = ("config", "state", "devices", "wire", "logs", "report.json", "report.html")  # what a run leaves in its folder
Look = Callable[[], Snapshot]


class Interrupted(DewfallError):
    """A person or a supervisor asked the demo to end."""

    exit_code = 130


def run(out: Path, seed: int, *, as_json: bool = False) -> None:
    """Play the whole demo below `out` and leave its report there. Raises DewfallError when it cannot finish."""
    console = Console(stderr=as_json)
    _refuse_what_is_not_ours(out)
    with StateFolder.open(out), tempfile.TemporaryDirectory(prefix="dewfall-") as sockets, _stoppable():
        for name in LEFT:
            _remove(out / name)
        (out / "logs").mkdir()
        places = Places(out, Path(sockets))
        screen = Screen((lambda _: None) if console.is_terminal else console.print)
        with Live(screen, console=console, refresh_per_second=4, transient=True), Household(out / "logs") as house:
            story = play(places, seed, house, screen)
        screen.phase("the report")
        finish(replace(story, seconds=dict(screen.seconds)), out, console, as_json=as_json)
        if story.final.accepted < 2:
            why = "; ".join(story.final.releases[-1]["reasons"])
            raise DewfallError(f"the new student was not published ({why}); the report says how far the devices came")


def play(places: Places, seed: int, house: Household, screen: Screen) -> Story:
    """Everything that needs living processes."""
    screen.phase("the cloud learns 0-4")
    cloud_port = configure.free_port()
    found_cloud(configure.cloud(places, cloud_port, seed), places.out / "logs" / "init.log", screen)

    screen.phase("the tiers start")
    train, _ = parted(load_digits(), seed, 0.2)
    mine = np.isin(train.conditions, NEW)
    cast = twins(places.world(), Batch(train.features[mine], train.conditions[mine]), Stream(), seed)
    world = World(cast, TIME_SCALE, lambda name: house.pids().get(name))
    requests = Requests(places, DEVICES, [*OLD, *NEW])
    peaks: dict[str, dict[str, float]] = {}

    def wait_until(done: Callable[[Snapshot], bool], limit_s: float, what: str) -> Snapshot:
        return watch(places, house, world, screen, peaks, done, limit_s, what)

    start_tiers(places, house, cloud_port, screen)
    screen.twins = cast
    world.start()
    try:
        wait_until(lambda now: len(now.serving(1)) == len(DEVICES), 120, "all devices to serve release 1")
        before = {device: pictures(places, device) for device in DEVICES}
        requests.start()

        screen.phase("devices learn 5-9")
        world.begin_streams()
        wait_until(lambda now: bool(now.cloud.get("distilling")) or len(now.releases) > 1, 400, "the rounds")

        screen.phase("the cloud distils")
        final = wait_until(lambda now: len(now.releases) > 1, 240, "the cloud to judge a new student")
        screen.event(f"release {final.releases[-1]['version']}: {'; '.join(final.releases[-1]['reasons'])}")

        screen.phase("devices swap")
        final = wait_until(
            lambda now: len(now.serving(final.accepted)) == len(DEVICES), 120, "all devices to serve the new release"
        )
        after = {device: pictures(places, device) for device in DEVICES}
        requests.stop()
        added = overhead(places, DEVICES[0])
        screen.phase("the processes end")
    finally:
        world.stop()
        if requests.is_alive():
            requests.stop()
    restarts = {name: member.restarts for name, member in house.members.items()}
    return Story(
        places, seed, final, before, after, cast, requests.tallies, dict(screen.seconds), restarts, peaks, added
    )


def found_cloud(config: Path, log: Path, screen: Screen) -> None:
    """`cloud init`, with its progress on the screen."""
    with log.open("w") as errors, contextlib.ExitStack() as ending:
        with undisturbed():
            process = subprocess.Popen(
                leashed("cloud_server", "init", "--config", str(config), "--json-progress"),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=environment(),
                text=True,
                start_new_session=True,
            )
            ending.enter_context(process)
            ending.callback(process.terminate)
        for line in process.stdout or ():
            with contextlib.suppress(ValueError, AttributeError):
                told = json.loads(line)
                screen.detail = " ".join(str(value) for value in told.values() if value is not None)[:90]
        failed = process.wait()
    if failed:
        raise DewfallError(f"the cloud could not be founded: {last_lines(log, 1)}; read {log}")


def start_tiers(places: Places, house: Household, cloud_port: int, screen: Screen) -> None:
    """Cloud, then fogs, then devices; each enrols with a one-time token of the tier above."""
    house.start("cloud", "cloud_server", "serve", "--config", str(places.config("cloud")))
    ports = {fog: configure.free_port() for fog in FOGS}
    for fog in FOGS:
        configure.fog(places, fog, ports[fog], cloud_port, cloud_token(places, fog))
        house.start(fog, "fog_aggregator", "run", "--config", str(places.config(fog)))
    deadline = time.monotonic() + FOG_STARTS_S
    for fog, devices in FOGS.items():
        while not (places.state(fog) / "fog.crt").exists():
            house.tend()
            if time.monotonic() > deadline:
                raise DewfallError(f"{fog} does not start; read the logs in {places.out / 'logs'}")
            time.sleep(0.1)
        for device in devices:
            configure.device(places, device, fog, ports[fog], make_token(places.state(fog)))
            house.start(device, "edge_agent", "run", "--config", str(places.config(device)))
            screen.event(f"{device} starts and enrols at {fog}")


def cloud_token(places: Places, fog: str) -> str:
    registry = open_registry(places.state("cloud"))
    try:
        return issue_token(registry, fog, 1.0, time.time())
    finally:
        registry.close()


def overhead(places: Places, device: str) -> dict[str, float]:
    """What the agent adds to the bare ONNX Runtime session, over interleaved pairs; and the quartiles of the ratio."""
    pairs = [
        ask(places.socket(device), {"op": "overhead", "condition": seed % 10, "seed": seed})[0] for seed in range(PAIRS)
    ]
    ratios = np.array([pair["agent_ms"] / pair["bare_ms"] - 1 for pair in pairs])
    low, share, high = np.quantile(ratios, (0.25, 0.5, 0.75))
    return {
        "share": float(share),
        "share_low": float(low),
        "share_high": float(high),
        "bare_ms": float(np.median([pair["bare_ms"] for pair in pairs])),
        "agent_ms": float(np.median([pair["agent_ms"] for pair in pairs])),
        "pairs": PAIRS,
    }


def watch(
    places: Places,
    house: Household,
    world: World,
    screen: Screen,
    peaks: dict[str, dict[str, float]],
    done: Callable[[Snapshot], bool],
    limit_s: float,
    what: str,
) -> Snapshot:
    """Look at everybody until `done`; bring back who died. Raises DewfallError after `limit_s`."""
    deadline = time.monotonic() + limit_s
    while True:
        for name in house.tend():
            screen.event(f"{name} died and was started again")
        world.check()
        screen.snapshot = now = look(places)
        for name, status in {**now.fogs, **now.devices, "cloud": now.cloud}.items():
            memory = status.get("rss_mb") or 0.0
            told = memory if isinstance(memory, dict) else {"own": memory}
            for kind, value in told.items():
                peaks.setdefault(name, {})[kind] = max(peaks.get(name, {}).get(kind, 0.0), value or 0.0)
        if done(now):
            return now
        if time.monotonic() > deadline:
            raise DewfallError(f"waited {limit_s:.0f} s for {what} in vain; read the logs in {places.out / 'logs'}")
        time.sleep(LOOK_S)


def pictures(places: Places, device: str) -> Array:
    """A device's own ten requests, the same every time: one image of each condition, [10, C, H, W]."""
    return images(places.socket(device), [*OLD, *NEW], PICTURE_SEED + DEVICES.index(device))


def _refuse_what_is_not_ours(out: Path) -> None:
    """An earlier run is replaced; a folder with anything else in it may hold what somebody still needs."""
    drafts = {"lock", "probe", *(f".{name}.draft" for name in (*LEFT, "probe"))}
    if out.is_dir() and (others := {entry.name for entry in out.iterdir()} - {*LEFT, *drafts}):
        raise StateError(f"{out} holds more than an earlier demo ({min(others)}); name an empty folder with --out")


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def _stoppable() -> Iterator[None]:
    """SIGTERM and Ctrl-C end the demo in order, processes first."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        for number in old:
            signal.signal(number, signal.SIG_IGN)  # it is on its way; a second Ctrl-C must not leave processes behind
        raise Interrupted("stopped before the end; every process was ended")

    old = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
