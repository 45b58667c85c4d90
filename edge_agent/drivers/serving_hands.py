"""What healing sees and does on a device: its serving, its releases, and what it wants to learn more of."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edge_agent.hands import Standing
from edge_agent.healed_engine import HealedEngine, student_of
from edge_agent.healing.cache import HealedOutputs
from edge_agent.reruns import passes
from edge_agent.serving import Answered, NothingServed, Served, Serving
from learning_core.errors import DewfallError, Tampered
from learning_core.params import Array
from protos.release import Manifest, Variant, verify_file

HASH_EVERY = 60  # looks, for a file whose bytes changed and whose date did not


class Models(Protocol):
    """What `Upgrade` can do for healing."""

    def reverify(self) -> None: ...

    def roll_back(self, reason: str, kind: None, identity: str) -> str: ...


class ServingHands:
    """Saved as what `wants` keeps; everything else is gone with the release that is served."""

    def __init__(self, serving: Serving, models: Models, wants: Callable[[Sequence[int]], None]) -> None:
        self._serving = serving
        self._models = models
        self._wants = wants
        self._files = (0, "", True)  # looks since the last hash, marks of the files, what it said

    def standing(self) -> Standing | None:
        served = self._serving.served
        if served is None:
            return None
        release = served.release
        manifest = release.manifest
        return Standing(
            identity=served.identity,
            judge=release.judge,
            sample_shape=release.sample_shape,
            num_conditions=manifest.num_conditions,
            known=manifest.known_conditions,
            intended=_local(manifest.variants, served),
            live=_local(served.variants, served),
            cache=next((e.outputs for e in served.engines.values() if isinstance(e, HealedEngine)), None),
        )

    def recent(self) -> Sequence[Answered]:
        """Those that this device drew itself; what a fog answered is the fog's to heal."""
        served = self._serving.served
        local = {each.name for each in _local(served.variants, served)} if served is not None else set()
        return [each for each in self._serving.recent() if each.variant in local]

    def ask(self, conditions: Sequence[int], seed: int) -> Answered:
        answered = self._serving.draw(conditions, seed, counted=False)
        served = self._served()
        if answered.variant not in {each.name for each in _local(served.variants, served)}:
            raise DewfallError("a fog answers instead of this device; healing looks again when it does so itself")
        return answered

    def draw(self, noise: Array, conditions: NDArray[np.int64], variant: str, *, as_set: bool) -> Array:
        served = self._served()
        variants = _local(served.variants if as_set else served.release.manifest.variants, served)
        chosen = next((each for each in variants if each.name == variant), variants[0])
        student = student_of(served.engines[chosen.graph])
        return student.generate(noise, conditions, chosen.steps, chosen.guidance)

    def files_sound(self) -> bool:
        """Hashed when a file's date or size changed, and now and then."""
        release = self._served().release
        folder, manifest = Path(release.folder), release.manifest
        marks = _marks(folder, manifest)
        looks, before, sound = self._files
        if marks != before or looks >= HASH_EVERY:
            looks, sound = 0, _is_whole(folder, manifest)
        self._files = (looks + 1, marks, sound)
        return sound

    def reverify(self) -> None:
        self._models.reverify()

    def restore_sampler(self) -> None:
        self._serving.restore_variants()

    def prefer_cheaper(self) -> None:
        """The variants that take fewer passes than the usual one. Raises DewfallError when there are none."""
        served = self._served()
        usual, *others = _local(served.variants, served)
        cheaper = [each.name for each in others if passes(each) < passes(usual)]
        if not cheaper:
            raise DewfallError("this release has no variant that is cheaper than its usual one")
        self._serving.prefer(frozenset(cheaper))

    def prefer_usual(self) -> None:
        self._serving.prefer(None)

    def roll_back(self, reason: str, identity: str) -> None:
        self._models.roll_back(reason, None, identity)

    def answer_from(self, cache: HealedOutputs, identity: str) -> None:
        served = self._served()
        if served.identity != identity:
            raise DewfallError("another student is served by now, so the healed outputs are not its own")
        engines = {graph: HealedEngine(student_of(engine), cache) for graph, engine in served.engines.items()}
        self._serving.amend(served, replace(served, engines=engines))

    def ask_for_data(self, conditions: Sequence[int]) -> None:
        self._wants(conditions)

    def _served(self) -> Served:
        if (served := self._serving.served) is None:
            raise NothingServed("nothing is served any more")
        return served


def _local(variants: Sequence[Variant], served: Served) -> tuple[Variant, ...]:
    """Those that this device draws itself."""
    return tuple(each for each in variants if each.graph in served.engines and not each.is_remote)


def _marks(folder: Path, manifest: Manifest) -> str:
    """Dates and sizes of a release's files; a file that is gone has none."""
    marks = hashlib.sha256()
    for name in sorted(manifest.files):
        try:
            state = (folder / name).stat()
        except OSError:
            state = None
        marks.update(f"{name} {state and (state.st_mtime_ns, state.st_size, state.st_ino)}\n".encode())
    return marks.hexdigest()


def _is_whole(folder: Path, manifest: Manifest) -> bool:
    try:
        for name, expected in manifest.files.items():
            verify_file(folder / name, expected)
    except (Tampered, OSError):
        return False
    return True
