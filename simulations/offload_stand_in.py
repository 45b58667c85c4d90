"""A stand-in for a fog that learns for devices: the real fit, in a thread; `offload_service` puts it behind real TLS.

A fog's own is to keep the same promises: a job is learned once however often it is sent, goes on from its checkpoint
after a kill, and is forgotten when the device says so. Not for production: it has no limits per device, and a fog's
main process is not to hold torch.
"""

import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import torch

from edge_agent.fitting import student
from learning_core.errors import DewfallError, Malformed
from learning_core.training.fitting import FitState, Recipe, start_state
from learning_core.training.flow_images import fit_flow
from learning_core.training.flow_latents import fit_flow_latents
from protos import offload_pb2 as pb
from protos.codec import decode_params, encode_params
from protos.learner_records import (
    CHECKPOINT,
    SAMPLES,
    SHARED,
    Checkpoint,
    decode_checkpoint,
    decode_samples,
    encode_checkpoint,
)
from protos.offload_jobs import JobHeader, JobState, Kind, Offer, ResultHeader, Standing, blob_of
from protos.offload_messages import decode_job, encode_job
from protos.release import MANIFEST, decode_manifest
from protos.state_folder import write_atomically

HEADER = "job.pb"
FAMILIES = {"flow_image": frozenset(Kind)}  # what this stand-in learns from, by the family of the release
ReleaseAt = Callable[[int, str], Path | None]
"""(version, manifest digest) -> the folder of a verified release."""


class StandInJobs:
    """Jobs by device and name, one learned at a time. Saved as a folder for each, and resumed from it."""

    def __init__(self, folder: Path, release_at: ReleaseAt, slice_steps: int = 5, max_waiting: int = 4) -> None:
        self._folder = folder
        self._release_at = release_at
        self._slice_steps = slice_steps
        self._max_waiting = max_waiting
        self._lock = threading.Lock()
        self._states: dict[Path, JobState] = {}
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="stand-in")
        self._stop = threading.Event()
        self.steps_taken = 0

    def offer(self, release: int, manifest_sha256: str) -> Offer:
        if (at := self._release_at(release, manifest_sha256)) is None:
            return Offer(frozenset(), f"release {release} is not here")
        family = decode_manifest((at / MANIFEST).read_bytes()).family
        if not (kinds := FAMILIES.get(family, frozenset())):
            return Offer(frozenset(), f"this fog does not learn {family}")
        return Offer(kinds)

    def state(self, device: str, job: bytes) -> JobState:
        """How a job stands; one that was begun before this process goes on."""
        place = self._place(device, job)
        with self._lock:
            if (state := self._states.get(place)) is not None:
                return state
            if not (place / HEADER).exists():
                return JobState(Standing.UNKNOWN)
            header = decode_job(pb.JobPiece.FromString((place / HEADER).read_bytes()))
            return self._begin(place, header)

    def submit(self, device: str, header: JobHeader, contents: Callable[[], list[bytes]]) -> JobState:
        """Take a job in, once. `contents` reads what follows the header. Raises Malformed."""
        if (state := self.state(device, header.job)).standing is not Standing.UNKNOWN:
            return state
        with self._lock:
            if sum(state.standing is Standing.WORKING for state in self._states.values()) >= self._max_waiting:
                return JobState(Standing.BUSY, reason="other jobs come first")
        samples, start = contents()
        if (reason := self._against(header, samples, start)) is not None:
            return JobState(Standing.REFUSED, reason=reason)
        place = self._place(device, header.job)
        with self._lock:
            place.mkdir(parents=True, exist_ok=True)
            write_atomically(place / SAMPLES, samples)
            write_atomically(place / SHARED, start)
            write_atomically(place / HEADER, encode_job(header).SerializeToString())
            return self._states.get(place) or self._begin(place, header)

    def result(self, device: str, job: bytes) -> tuple[ResultHeader, bytes]:
        """Raises Malformed unless the job is done."""
        if (state := self.state(device, job)).standing is not Standing.DONE:
            raise Malformed(f"the job is {state.standing}, not done")
        saved = decode_checkpoint((self._place(device, job) / CHECKPOINT).read_bytes())
        adapter = encode_params(saved.adapter)
        loss = float(saved.moments.get("loss", [0.0])[0])
        return ResultHeader(job, saved.step, loss, blob_of(adapter)), adapter

    def drop(self, device: str, job: bytes) -> JobState:
        place = self._place(device, job)
        with self._lock:
            self._states.pop(place, None)
            shutil.rmtree(place, ignore_errors=True)
        return JobState(Standing.UNKNOWN)

    def close(self) -> None:
        """As a kill would: what is being learned stays as its last checkpoint."""
        self._stop.set()
        self._worker.shutdown(wait=True, cancel_futures=True)

    def _begin(self, place: Path, header: JobHeader) -> JobState:
        self._states[place] = JobState(Standing.WORKING)
        self._worker.submit(self._learn, place, header)
        return self._states[place]

    def _learn(self, place: Path, header: JobHeader) -> None:
        try:
            state = self._fit(place, header)
        except (DewfallError, OSError, ValueError, TypeError) as error:
            state = JobState(Standing.REFUSED, reason=str(error)[:200])
        with self._lock:
            if place in self._states and state is not None:
                self._states[place] = state

    def _fit(self, place: Path, header: JobHeader) -> JobState | None:
        torch.set_num_threads(1)
        release = self._release_at(header.release, header.manifest_sha256)
        if release is None:
            return JobState(Standing.REFUSED, reason=f"release {header.release} is gone")
        manifest = decode_manifest((release / MANIFEST).read_bytes())
        model, samples = student(release, manifest), decode_samples((place / SAMPLES).read_bytes())
        recipe = Recipe(steps=header.steps, batch=header.batch, learning_rate=header.learning_rate, seed=header.seed)
        state, losses = _begun(place), [0.0]
        if state.step >= recipe.steps:  # done before this process began
            return JobState(Standing.DONE, state.step)
        while state.step < recipe.steps and not self._stop.is_set() and place.exists():
            before = state.step
            rest = manifest.known_conditions, recipe, state, self._slice_steps
            if header.kind is Kind.RAW:
                state, losses = fit_flow(model, samples, *rest)
            else:
                state, losses = fit_flow_latents(model, samples, header.noise_deviation, *rest)
            self.steps_taken += state.step - before
            with self._lock, suppress(DewfallError):
                write_atomically(
                    place / CHECKPOINT, encode_checkpoint(Checkpoint(state.step, state.adapter, state.moments))
                )
        if state.step < recipe.steps:
            return None
        loss = {"loss": torch.tensor([sum(losses) / len(losses)]).numpy()}
        write_atomically(place / CHECKPOINT, encode_checkpoint(Checkpoint(state.step, state.adapter, loss)))
        return JobState(Standing.DONE, state.step)

    def _against(self, header: JobHeader, samples: bytes, start: bytes) -> str | None:
        """Why a job cannot be learned, in a sentence."""
        offer = self.offer(header.release, header.manifest_sha256)
        release = self._release_at(header.release, header.manifest_sha256)
        if release is None or header.kind not in offer.kinds:
            return offer.reason or f"{header.kind} samples of this release are not learned here"
        manifest = decode_manifest((release / MANIFEST).read_bytes())
        try:
            batch = decode_samples(samples)
            decode_params(start, manifest.adapter_shapes)
        except Malformed as error:
            return str(error)
        sizes = tuple(int(manifest.model[name]) for name in ("channels", "side", "side"))
        if batch.features.shape[1:] != sizes or len(batch) == 0:
            return f"samples of {batch.features.shape[1:]} are no images of {sizes}"
        if batch.conditions.min() < 0 or batch.conditions.max() >= manifest.num_conditions:
            return f"conditions have to lie within 0..{manifest.num_conditions - 1}"
        return None

    def _place(self, device: str, job: bytes) -> Path:
        return self._folder / blob_of(device.encode()).sha256.hex()[:16] / job.hex()


def _begun(place: Path) -> FitState:
    if (place / CHECKPOINT).exists():
        saved = decode_checkpoint((place / CHECKPOINT).read_bytes())
        return FitState(saved.step, saved.adapter, saved.moments)
    return start_state(decode_params((place / SHARED).read_bytes()))
